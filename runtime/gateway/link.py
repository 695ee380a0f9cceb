# SPDX-License-Identifier: Apache-2.0
"""The gateway's link to its broker: documents that are asked for, things to be done, and requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...clients.async_session import AsyncSession
from ...clients.awaited import Awaited
from ...clients.pending import Lease
from ...ipc.addresses import parse_address
from ...ipc.errors import PenstockError
from ...ipc.messages import Infer, Message, Query, Welcome
from .memory import InlineMemory

CONNECTS_WITHIN_S = 5.0


class BrokerLink:
    """Belongs to one event loop. Connects again by itself; what is in flight then ends with an error."""

    def __init__(self, address: str) -> None:
        self.session = AsyncSession(parse_address(address), "penstock gateway", CONNECTS_WITHIN_S, self._met, _no_matter)
        self.memory = InlineMemory(self.session)

    def __repr__(self) -> str:
        return f"<BrokerLink {self.session!r}, {self.memory!r}>"

    def _met(self, welcome: Welcome) -> None:
        self.memory.broker.meet(welcome.broker, keeps_memory=True)

    async def connect(self) -> None:
        """Connects now. Raises BrokerError when there is no broker."""
        await self.session.live()

    async def query(self, what: str, model: str = "", version: int = -1, on_behalf: int = -1) -> Any:
        """One of the broker's documents. Raises what the broker answers."""
        return (await self.session.ask(lambda number: (Query(number, what, model, version, on_behalf), ()))).value

    async def ask(self, make: Any, fds: Sequence[int] = (), timeout_s: float | None = 30.0) -> Any:
        """Has something done: `make` makes the message of its number. Raises what the broker answers."""

        def question(number: int) -> tuple[Message, Sequence[int]]:
            return make(number), fds

        return await self.session.ask(question, timeout_s=timeout_s)

    async def infer(self, make: Any, lease: Lease) -> Awaited:
        """One request: `make` makes the Infer of its number. Raises its error. A task that is cancelled cancels it."""
        connection = self.session.standing() or await self.session.live()
        entry = self.session.entry(lease, 0)
        message: Infer = make(entry.number)
        try:
            connection.start(entry, message)
        except PenstockError:
            lease.release()
            raise
        await self.session.answer(connection, entry)
        return entry

    async def close(self) -> None:
        """Says goodbye. Idempotent."""
        await self.session.close()
        self.memory.close()


def _no_matter(_error: PenstockError) -> None:
    """Refusals are answered to who asked."""
