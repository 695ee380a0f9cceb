# SPDX-License-Identifier: Apache-2.0
"""The gateway's link to its broker: documents that are asked for, things to be done, and requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...clients.async_session import AsyncSession
from ...clients.awaited import Awaited
from ...clients.session import CONTROL_TIMEOUT_S
from ...ipc.addresses import parse_address
from ...ipc.errors import PenstockError
from ...ipc.messages import Adjusted, Infer, Message, Query, Welcome
from .in_flight import InFlight
from .memory import InlineMemory, Leased

log = logging.getLogger("penstock.gateway")

CONNECTS_WITHIN_S = 5.0


class BrokerLink:
    """Belongs to one event loop. Connects again by itself; what is in flight then ends with an error."""

    def __init__(self, address: str, inline_memory_bytes: int) -> None:
        self.session = AsyncSession(
            parse_address(address), "penstock gateway", CONNECTS_WITHIN_S, self._met, _no_matter, self._adjusted
        )
        self.memory = InlineMemory(self.session, inline_memory_bytes)
        self.in_flight = InFlight()
        self._loop: asyncio.AbstractEventLoop | None = None  # where it has said that it serves
        self._saying: asyncio.Task[None] | None = None
        #: who hears of the settings that all gateways share
        self._listeners: list[Callable[[Adjusted], None]] = []

    def __repr__(self) -> str:
        return f"<BrokerLink {self.session!r}, {self.memory!r}>"

    def _met(self, welcome: Welcome) -> None:
        """In the thread that connects."""
        self.memory.broker.meet(welcome.broker, keeps_memory=True)
        if self._loop is not None:  # this is another thread
            self._loop.call_soon_threadsafe(self._say_again)

    def _say_again(self) -> None:
        self._saying = asyncio.ensure_future(self._say())

    async def _say(self) -> None:
        try:
            await self.query("gateway")
        except PenstockError as error:
            log.warning("connected again, and lost: %s", error.message)

    def _adjusted(self, message: Adjusted) -> None:
        """The connection's lock is held: who listens hears of it right after."""
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(listener, message)

    def listen(self, listener: Callable[[Adjusted], None]) -> None:
        """Tells `listener` of the settings that all gateways share: when this one begins to serve, and when they change."""
        self._listeners.append(listener)

    async def connect(self) -> None:
        """Connects now. Raises BrokerError when there is no broker."""
        await self.session.live()

    async def serve(self) -> None:
        """Tells the broker that this gateway serves, now and whenever it has connected again. Raises PenstockError."""
        await self.query("gateway")
        self._loop = asyncio.get_running_loop()

    async def query(self, what: str, model: str = "", version: int = -1, on_behalf: int = -1) -> Any:
        """One of the broker's documents. Raises what the broker answers."""
        return (await self.session.ask(lambda number: (Query(number, what, model, version, on_behalf), ()))).value

    async def ask(self, make: Any, fds: Sequence[int] = (), timeout_s: float | None = CONTROL_TIMEOUT_S) -> Any:
        """Has something done: `make` makes the message of its number. Raises what the broker answers."""

        def question(number: int) -> tuple[Message, Sequence[int]]:
            return make(number), fds

        return await self.session.ask(question, timeout_s=timeout_s)

    async def infer(self, make: Callable[[int], Infer], lease: Leased) -> Awaited:
        """One request: `make` makes the Infer of its number. Raises its error. A task that is cancelled cancels it.

        The broker holds the lease from when the request is sent until it says that no worker can touch its memory.
        """
        connection = self.session.standing() or await self.session.live()
        entry = self.session.entry(lease, 0)
        message = make(entry.number)
        lease.hold()
        try:
            connection.start(entry, message)
        except PenstockError:
            lease.release()
            raise
        await self.session.answer(connection, entry)
        return entry

    async def close(self) -> None:
        """Says goodbye. Idempotent."""
        self._loop = None
        if self._saying is not None:
            self._saying.cancel()
        await self.session.close()
        self.memory.close()


def _no_matter(_error: PenstockError) -> None:
    """Refusals are answered to who asked."""
