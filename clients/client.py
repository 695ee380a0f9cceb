# SPDX-License-Identifier: Apache-2.0
"""Client: what a program uses. Requests in, results out; memory, connections and threads are the other files' business."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from ..ipc.addresses import parse_address
from ..ipc.errors import CallerError, Code
from ..ipc.messages import Welcome
from .asking import asked, give_up_ns
from .catalog import Catalog, Model, Models, doubt
from .control import Control, Files
from .futures import InferFuture
from .leasing import Inputs, Leasing, Wanted
from .models import Memory, ModelInfo, OutputNames, Shapes, in_memory, layout_of_batch
from .pending import Entry
from .region_book import unregistration
from .regions import Region
from .results import InferResult
from .sending import check_slot_call, send, send_all, wait
from .session import Session, client_name
from .slots import Slot


class Client:
    """A client of one broker. Any number of threads may share it; a forked child may not.

    `address`: unix:///PATH, /PATH, ipc:///PATH or tcp://HOST:PORT; else $PENSTOCK_ADDRESS; else the default local socket.
    Connects when first used, and again after the broker was restarted; `connect_timeout_s` bounds how long that is tried.

    Every method raises a PenstockError, whose class says whose fault it is: CallerError, ModelError, MachineError (no memory),
    BrokerError (not there, gone, too busy; UNAVAILABLE calls may be tried again).
    """

    def __init__(self, address: str | None = None, *, name: str = "", connect_timeout_s: float = 5.0) -> None:
        self.address = parse_address(address)
        models: Models = {}
        self._session = Session(self.address, client_name(name), connect_timeout_s, self._met, partial(doubt, models))
        self._catalog = Catalog(self._session, models)
        self._leasing = Leasing(self._session, self._catalog)
        self._control = Control(self._session, self._catalog)

    def __repr__(self) -> str:
        return f"<Client of {self._session!r}, {self._leasing!r}>"

    def check_invariants(self) -> None:
        """Those of the parts."""
        self._session.check_invariants()
        self._leasing.check_invariants()

    def _met(self, welcome: Welcome) -> None:
        """A connection was made: what the broker before it said, and maybe had of our memory, is void."""
        self._catalog.forget()
        self._leasing.met(welcome.broker)

    def connect(self) -> None:
        """Connects now rather than at the first call. Raises BrokerError when there is no broker."""
        self._session.live()

    # --- inference --------------------------------------------------------------------------------------------------------

    def infer(  # noqa: PLR0913 - all that a request can ask for, by keyword
        self, target: Model | Slot, inputs: Inputs | None = None, outputs: Wanted = None, *, timeout_s: float | None = None,
        version: int = -1, explain: bool = False, principal: str = "", priority: int = 0, queue_timeout_s: float | None = None,
    ) -> InferResult:  # fmt: skip
        """One request, and its result.

        `target`: a slot whose inputs were written, or a model. For a model, `inputs` maps every input's name (optional ones may
        be left out) to an array (its dtype and shape must be the input's; lists are converted) or to `region.tensor(...)`;
        `outputs` names those wanted (all by default), or maps them to `Classification(n)` for the best n, or (where all inputs
        lie in regions) to `region.tensor(...)` to be written there. `timeout_s` bounds queue and execution: DEADLINE_EXCEEDED.
        `explain` asks how it was served. `principal` is on whose behalf, for fair queueing.
        `priority` and `queue_timeout_s` (waiting alone) are Triton's; the model's queue policy says what they do.
        """
        lease = target if isinstance(target, Slot) else self._leasing.for_request(target, inputs, outputs, version)
        if lease is target:
            check_slot_call(inputs, outputs)
        connection = self._session.live()
        entry = Entry(next(self._session.numbers), lease, give_up_ns(timeout_s))
        send(connection, entry, lease, asked(version, timeout_s, principal, explain, priority, queue_timeout_s))
        wait(connection, entry)
        if entry.error is not None:
            try:
                raise entry.error
            finally:
                del entry, lease  # the traceback holds this frame: no cycle, and the memory is free when the error is
        return lease.build_result(entry)

    def submit(  # noqa: PLR0913 - as infer
        self, target: Model | Slot, inputs: Inputs | None = None, outputs: Wanted = None, *, timeout_s: float | None = None,
        version: int = -1, explain: bool = False, principal: str = "", priority: int = 0, queue_timeout_s: float | None = None,
    ) -> InferFuture:  # fmt: skip
        """As `infer`, but returns at once, with a concurrent.futures.Future. Its `cancel` cancels at whatever stage."""
        lease = target if isinstance(target, Slot) else self._leasing.for_request(target, inputs, outputs, version)
        if lease is target:
            check_slot_call(inputs, outputs)
        connection = self._session.live()
        future = InferFuture(connection, next(self._session.numbers), lease, give_up_ns(timeout_s))
        send(connection, future, lease, asked(version, timeout_s, principal, explain, priority, queue_timeout_s))
        return future

    def submit_many(
        self, slots: Iterable[Slot], *, timeout_s: float | None = None, explain: bool = False, principal: str = "",
        priority: int = 0, queue_timeout_s: float | None = None,
    ) -> list[InferFuture]:  # fmt: skip
        """`submit` for each of the slots, sent as one frame. All of them, or (with an exception) none."""
        wanted = asked(-1, timeout_s, principal, explain, priority, queue_timeout_s)
        return send_all(self._session, slots, wanted, timeout_s)

    # --- memory -----------------------------------------------------------------------------------------------------------

    def buffers(
        self, model: Model, batch: int | None = None, *, shapes: Shapes | None = None, outputs: OutputNames = None,
        left_out: Sequence[str] = (), version: int = -1, memory: Memory = "shared", device: int = 0,
    ) -> Slot:  # fmt: skip
        """Leases a slot for requests of `batch` rows (1 by default; leave out for a model without batch dimension).

        `shapes` gives the variable dims of inputs (and, where they are known beforehand, of outputs), without the batch
        dimension. Outputs of unknown size get no place in the slot, nor do those that `outputs` maps to a `Classification`;
        results bring them along. `left_out`: optional inputs that requests do without. The slot serves any number of requests,
        one at a time; closing it gives it back to the pool.
        `memory="cuda"`: in a CUDA region on GPU `device` of this process; its arrays are DeviceArrays, see docs/clients.md.
        """
        layout = self._catalog.fit(model, version, lambda info: layout_of_batch(info, batch, shapes or {}, outputs, left_out))
        return self._leasing.slot(in_memory(layout, memory, device))

    def register(self, region: Region) -> None:
        """Registers memory of the caller's own; again by itself after a restart of the broker. Raises ALREADY_EXISTS."""
        self._session.register(region)

    def unregister(self, region: Region | str = "") -> None:
        """Forgets a region, by itself or by name, or all of the caller's. Always succeeds; requests in flight keep it."""
        self._session.unregister(region)

    def forget_shared(self, name: str = "", *, uid: int) -> None:
        """Forgets a region, or all, that gateways have registered for a user; for that user and the broker's own only."""
        self._session.ask(unregistration(name, uid))

    def regions(self) -> list[dict[str, Any]]:
        """The regions as the broker knows them."""
        return list(self.query("regions"))

    # --- asking about models ----------------------------------------------------------------------------------------------

    def model(self, name: str, version: int = -1) -> ModelInfo:
        """What a model takes and gives, and its versions; remembered until the connection is lost or a request does not fit."""
        return self._catalog.find(name, version)

    def metadata(self, model: str, version: int = -1) -> dict[str, Any]:
        """KServe's model metadata, and max_batch_size."""
        return dict(self.query("metadata", model, version))

    def config(self, model: str, version: int = -1) -> dict[str, Any]:
        """The model's complete configuration, as Triton's JSON."""
        return dict(self.query("config", model, version))

    def statistics(self, model: str = "", version: int = -1) -> dict[str, Any]:
        """Triton's statistics document, of one model or of all."""
        return dict(self.query("statistics", model, version))

    def stages(self, model: str = "", version: int = -1) -> list[dict[str, Any]]:
        """How long each stage took (histograms), why batches closed, and what was copied."""
        return list(self.query("stages", model, version))

    def index(self) -> list[dict[str, Any]]:
        """Every model in the repository, with its state and the reason for it."""
        return list(self.query("index"))

    def is_ready(self, model: str = "", version: int = -1) -> bool:
        """Whether a model (no name: the broker with all its models) would serve a request now. False for an unknown one."""
        try:
            return bool(self.query("ready", model, version)["ready"])
        except CallerError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return False

    def status(self) -> dict[str, Any]:
        """The broker at a glance: models, instances, sessions, queues."""
        return dict(self.query("status"))

    @property
    def max_in_flight(self) -> int:
        """How many requests the broker lets this client have in flight; those beyond are OVERLOADED."""
        return self._session.live().welcome.max_in_flight

    # --- loading ----------------------------------------------------------------------------------------------------------

    def load(
        self, model: str, config: str | None = None, files: Files | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Loads a model, or loads it again, as its repository has it now; returns when all of it is up.

        `config` replaces its config.pbtxt: Triton's JSON, or text of that form. `files` (file:1/model.onnx: content) replace
        its directory. What is served goes on until the new is up, and stays if that fails.
        """
        self._control.load(model, config or "", files or {}, timeout_s)

    def unload(self, model: str, *, unload_dependents: bool = False, timeout_s: float | None = None) -> None:
        """Unloads a model; returns when its requests have ended and its workers have left."""
        self._control.unload(model, unload_dependents, timeout_s)

    def query(self, what: str, model: str = "", version: int = -1) -> Any:
        """Any of the broker's documents by its name; the methods above are the usual ones."""
        return self._catalog.query(what, model, version)

    # --- the end ----------------------------------------------------------------------------------------------------------

    def stop_broker(self) -> None:
        """Asks the broker to finish what it has and to exit; for its own user only."""
        self.query("stop")

    def close(self) -> None:
        """Says goodbye. What is in flight ends with an error (CANCELLED); arrays stay valid. Idempotent."""
        self._session.close()
        if not self._session.is_forked:  # else the pool's lock may be held by a thread of the parent
            self._leasing.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
