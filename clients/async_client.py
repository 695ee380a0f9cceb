# SPDX-License-Identifier: Apache-2.0
"""AsyncClient: Client with `await`, for programs that run on an event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from ..ipc.addresses import parse_address
from ..ipc.errors import CallerError, Code
from ..ipc.messages import Query, Welcome
from .asking import asked, give_up_ns
from .async_memory import AsyncMemory
from .async_session import AsyncSession
from .catalog import Catalog, Model, Models, doubt
from .control import Files, carried, load_question, unload_question
from .leasing import Draft, Inputs, Lease, Leasing, Wanted, checked, in_regions, placed_request
from .models import Memory, ModelInfo, OutputNames, Shapes, in_memory, layout_of_batch
from .region_book import unregistration
from .regions import Region
from .results import InferResult
from .sending import check_slot_call, send
from .session import client_name
from .slots import Slot

T = TypeVar("T")


class AsyncClient:
    """A client of one broker, for the tasks of one event loop: the one that it is first used in. Arguments as Client's.

    Nothing blocks the loop but the copying of arrays. Cancelling a task cancels its request, at whatever stage that is; its
    memory is used again when the broker has released it. Many requests at once: `asyncio.gather`, or tasks. Errors are those of
    Client; use in another loop or thread, or in a forked child, is a CallerError.
    """

    def __init__(self, address: str | None = None, *, name: str = "", connect_timeout_s: float = 5.0) -> None:
        self.address = parse_address(address)
        models: Models = {}
        self._session = AsyncSession(self.address, client_name(name), connect_timeout_s, self._met, partial(doubt, models))
        self._catalog = Catalog(self._session.sync, models)
        self._leasing = Leasing(self._session.sync, self._catalog)
        self._memory = AsyncMemory(self._session, self._leasing)

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._session!r}, {self._leasing!r}>"

    def check_invariants(self) -> None:
        """Those of the parts."""
        self._session.check_invariants()
        self._leasing.check_invariants()

    def _met(self, welcome: Welcome) -> None:
        """As Client's; called by the thread that connects."""
        self._catalog.forget()
        self._leasing.met(welcome.broker)

    async def connect(self) -> None:
        """Connects now rather than at the first call. Raises BrokerError when there is no broker."""
        await self._session.live()

    # --- inference --------------------------------------------------------------------------------------------------------

    async def infer(  # noqa: PLR0913 - as Client's
        self, target: Model | Slot, inputs: Inputs | None = None, outputs: Wanted = None, *, timeout_s: float | None = None,
        version: int = -1, explain: bool = False, principal: str = "", priority: int = 0, queue_timeout_s: float | None = None,
    ) -> InferResult:  # fmt: skip
        """One request, and its result; arguments and errors as Client's. Requests of tasks that run together share a frame."""
        session = self._session
        session.enter()
        lease = await self._lease(target, inputs, outputs, version)
        connection = session.standing() or await session.live()
        entry = session.entry(lease, give_up_ns(timeout_s))
        try:
            send(connection, entry, lease, asked(version, timeout_s, principal, explain, priority, queue_timeout_s))
            await session.answer(connection, entry)
            return lease.build_result(entry)
        finally:
            del entry, lease  # an error's traceback holds this frame: no cycle, and the memory is free when the error is

    async def _lease(self, target: Model | Slot, inputs: Inputs | None, outputs: Wanted, version: int) -> Lease:
        if isinstance(target, Slot):
            check_slot_call(inputs, outputs)
            await self._memory.renew(target)
            return target
        given = checked(target, inputs)
        if in_regions(given):
            return placed_request(target, given, outputs, version)
        draft = await self._fit(target, version, lambda model: Draft.of(model, given, outputs))
        return self._leasing.filled(draft, await self._memory.make_room(draft.layout))

    # --- memory -----------------------------------------------------------------------------------------------------------

    def buffers(
        self, model: Model, batch: int | None = None, *, shapes: Shapes | None = None, outputs: OutputNames = None,
        left_out: Sequence[str] = (), version: int = -1, memory: Memory = "shared", device: int = 0,
    ) -> LeasedSlot:  # fmt: skip
        """Leases a slot, as Client's: `async with client.buffers(...) as slot`, or `slot = await client.buffers(...)`."""

        async def lease() -> Slot:
            layout = await self._fit(model, version, lambda info: layout_of_batch(info, batch, shapes or {}, outputs, left_out))
            layout = in_memory(layout, memory, device)
            return self._leasing.empty(layout, await self._memory.make_room(layout))

        return LeasedSlot(lease)

    async def register(self, region: Region) -> None:
        """Registers memory of the caller's own; again by itself after a restart of the broker. Raises ALREADY_EXISTS."""
        await self._session.register(region)

    async def unregister(self, region: Region | str = "") -> None:
        """Forgets a region, by itself or by name, or all of the caller's. Always succeeds; requests in flight keep it."""
        await self._session.unregister(region)

    async def forget_shared(self, name: str = "", *, uid: int) -> None:
        """Forgets a region, or all, that gateways have registered for a user; for that user and the broker's own only."""
        await self._session.ask(unregistration(name, uid))

    async def regions(self) -> list[dict[str, Any]]:
        """The regions as the broker knows them."""
        return list(await self.query("regions"))

    # --- asking about models ----------------------------------------------------------------------------------------------

    async def model(self, name: str, version: int = -1) -> ModelInfo:
        """What a model takes and gives, and its versions; remembered until the connection is lost or a request does not fit."""
        return await self._find(name, version)

    async def metadata(self, model: str, version: int = -1) -> dict[str, Any]:
        """KServe's model metadata, and max_batch_size."""
        return dict(await self.query("metadata", model, version))

    async def config(self, model: str, version: int = -1) -> dict[str, Any]:
        """The model's complete configuration, as Triton's JSON."""
        return dict(await self.query("config", model, version))

    async def statistics(self, model: str = "", version: int = -1) -> dict[str, Any]:
        """Triton's statistics document, of one model or of all."""
        return dict(await self.query("statistics", model, version))

    async def stages(self, model: str = "", version: int = -1) -> list[dict[str, Any]]:
        """How long each stage took (histograms), why batches closed, and what was copied."""
        return list(await self.query("stages", model, version))

    async def index(self) -> list[dict[str, Any]]:
        """Every model in the repository, with its state and the reason for it."""
        return list(await self.query("index"))

    async def is_ready(self, model: str = "", version: int = -1) -> bool:
        """Whether a model (no name: the broker with all its models) would serve a request now. False for an unknown one."""
        try:
            return bool((await self.query("ready", model, version))["ready"])
        except CallerError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return False

    async def status(self) -> dict[str, Any]:
        """The broker at a glance: models, instances, sessions, queues."""
        return dict(await self.query("status"))

    async def max_in_flight(self) -> int:
        """How many requests the broker lets this client have in flight; those beyond are OVERLOADED."""
        return (await self._session.live()).welcome.max_in_flight

    async def load(
        self, model: str, config: str | None = None, files: Files | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Loads a model, or loads it again; arguments as Client's. Returns when all of it is up."""
        brought = files or {}
        with carried(brought, self.address.kind == "local") as (fds, parts):
            try:
                await self._session.ask(load_question(model, config or "", brought, fds, parts), parts, timeout_s)
            finally:
                self._catalog.forget_model(model)

    async def unload(self, model: str, *, unload_dependents: bool = False, timeout_s: float | None = None) -> None:
        """Unloads a model; returns when its requests have ended and its workers have left."""
        try:
            await self._session.ask(unload_question(model, unload_dependents), timeout_s=timeout_s)
        finally:
            self._catalog.forget_model(model)

    async def query(self, what: str, model: str = "", version: int = -1) -> Any:
        """Any of the broker's documents by its name; the methods above are the usual ones."""
        return (await self._session.ask(lambda number: (Query(number, what, model, version), ()))).value

    async def _find(self, model: Model, version: int) -> ModelInfo:
        self._session.enter()
        if isinstance(model, ModelInfo):
            return model
        if self._session.standing() is None:
            await self._session.live()
        found = self._catalog.known(model, version)
        return found or self._catalog.learn(model, version, await self.query("metadata", model, version))

    async def _fit(self, model: Model, version: int, make: Callable[[ModelInfo], T]) -> T:
        """As Catalog.fit."""
        info = await self._find(model, version)
        try:
            return make(info)
        except CallerError:
            if isinstance(model, ModelInfo):
                raise
            self._catalog.forget_model(model)
            renewed = await self._find(model, version)
            if renewed == info:
                raise
        return make(renewed)

    # --- the end ----------------------------------------------------------------------------------------------------------

    async def stop_broker(self) -> None:
        """Asks the broker to finish what it has and to exit; for its own user only."""
        await self.query("stop")

    async def close(self) -> None:
        """Says goodbye. What is in flight ends with an error (CANCELLED); arrays stay valid. Idempotent."""
        await self._session.close()
        await self._memory.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class LeasedSlot:
    """A slot that is to be leased: await it, or open it with `async with`, which closes it in the end."""

    def __init__(self, lease: Callable[[], Coroutine[Any, Any, Slot]]) -> None:
        self._lease = lease
        self._slot: Slot | None = None

    def __repr__(self) -> str:
        return f"<LeasedSlot {self._slot!r}>" if self._slot else "<LeasedSlot, to be awaited>"

    def __await__(self) -> Generator[Any, Any, Slot]:
        return self._lease().__await__()

    async def __aenter__(self) -> Slot:
        self._slot = await self._lease()
        return self._slot

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._slot is not None
        self._slot.close()
