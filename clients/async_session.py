# SPDX-License-Identifier: Apache-2.0
"""A Session on an event loop: nothing here blocks it, no thread waits for an answer, and it is for that loop alone.

The loop polls the connection's descriptor and wakes the tasks whose answers have come (loop_reader.py, awaited.py). Only to
connect, which asks the machine for things that may take long, a thread of the loop's executor is borrowed.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..ipc.addresses import Address
from ..ipc.errors import CallerError, PenstockError
from ..ipc.messages import Welcome
from .awaited import Awaited
from .connection import Connection, used_after_fork
from .inbox import OnAdjusted, OnRefusal
from .loop_reader import Host, LoopReader
from .pending import Lease
from .regions import Region
from .session import CONTROL_TIMEOUT_S, PARTING_TIMEOUT_S, Question, Session


class AsyncSession:
    """`sync`: what it shares with a synchronous client; its methods that ask or connect would block the loop."""

    def __init__(
        self, address: Address, name: str, connect_timeout_s: float, on_connect: Callable[[Welcome], None],
        on_refusal: OnRefusal, on_adjusted: OnAdjusted | None = None,
    ) -> None:  # fmt: skip
        self.sync = Session(address, name, connect_timeout_s, on_connect, on_refusal, self._make_reader, on_adjusted)
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that it was first used in
        self._reader: LoopReader | None = None  # of the latest connection
        self._attempt: asyncio.Future[Connection] | None = None  # to connect; all who need it wait for the same

    def __repr__(self) -> str:
        state = "connecting" if self._attempt else repr(self._reader) if self._reader else "never connected"
        return f"<AsyncSession {state}, {self.sync!r}>"

    def check_invariants(self) -> None:
        """Those of the parts."""
        self.sync.check_invariants()
        if self._reader is not None:
            self._reader.check_invariants()

    def enter(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises CallerError in another one, and so in another thread, and in a forked child."""
        if self.sync.is_forked:
            raise used_after_fork()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise CallerError("this AsyncClient belongs to the event loop that used it first: make one for each loop")
            self._loop = loop
        return loop

    # --- connecting -------------------------------------------------------------------------------------------------------

    def standing(self) -> Connection | None:
        """The connection, unless there is none or it is known to be lost."""
        connection = self.sync.connection
        if connection is not None:
            connection.look()  # the broker may have gone while nobody was looking
            if not connection.is_lost:
                return connection
        return None

    async def live(self) -> Connection:
        """The connection, or a new one. Raises BrokerError when none can be had in time, CallerError when closed."""
        loop = self.enter()
        while (connection := self.standing()) is None:
            if self._attempt is None:
                self._attempt = loop.run_in_executor(None, self.sync.live)
                self._attempt.add_done_callback(self._attempted)
            attempt = self._attempt
            await asyncio.wait((attempt,))  # who is cancelled leaves the attempt to the others
            error = attempt.exception()
            if error is not None:
                raise copy.copy(error)  # each its own: an exception collects the frames that it passes
        return connection

    def _make_reader(self, host: Host, _reads: object, _books: object, ping_s: float) -> LoopReader:
        assert self._loop is not None
        self._reader = LoopReader(self._loop, host, ping_s)
        return self._reader

    def _attempted(self, attempt: asyncio.Future[Connection]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is None and self._reader is not None:
            self._reader.start()

    # --- asking -----------------------------------------------------------------------------------------------------------

    def entry(self, lease: Lease | None, deadline_ns: int) -> Awaited:
        """A request that is about to be sent."""
        return Awaited(next(self.sync.numbers), lease, deadline_ns, asyncio.get_running_loop().create_future())

    async def answer(self, connection: Connection, entry: Awaited) -> None:
        """Waits for the answer to a request that was sent. Raises its error. A task that is cancelled cancels the request."""
        if entry.deadline_ns and self._reader is not None:
            self._reader.arm(entry.deadline_ns)
        try:
            await entry.future
        except BaseException:
            connection.cancel(entry, asyncio.CancelledError())  # another one, which holds no frames
            raise
        if entry.error is not None:
            try:
                raise entry.error
            finally:
                del entry  # the traceback holds this frame: no cycle, and the memory is free when the error is

    async def ask(self, question: Question, parts: Sequence[bytes] = (), timeout_s: float | None = CONTROL_TIMEOUT_S) -> Any:
        """Asks what is no inference, and returns the broker's answer. Raises what it answers. As Session.ask."""
        connection = await self.live()
        entry = self.entry(None, 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9))
        message, fds = question(entry.number)
        connection.start(entry, message, fds, parts)
        await self.answer(connection, entry)
        return entry.message

    async def register(self, region: Region, pooled: bool = False) -> None:
        """Registers a region now, and again after every loss of the connection. Raises what the broker answers."""
        self.sync.book(await self.live(), region, pooled)
        try:
            await self.ask(region.registration)
        except asyncio.CancelledError:
            self.sync.retract(region)  # the broker may have it
            raise
        except BaseException:
            self.sync.strike(region)
            raise

    async def unregister(self, region: Region | str) -> None:
        """Forgets one region, or (empty) all that the user registered, and waits until the broker has."""
        self.enter()
        for question in self.sync.taken_back(region):
            await self.ask(question)

    # --- the end ----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Ends the session; what is in flight ends with an error. Idempotent. In a forked child: leaves the parent's alone."""
        if self.sync.is_forked:
            return
        if self._loop is not None and not self._loop.is_closed():  # else another loop may clean up after it
            self.enter()
            for question in self.sync.partings():
                with suppress(PenstockError):  # as Session.close
                    await self.ask(question, timeout_s=PARTING_TIMEOUT_S)
            self.sync.give_up()
            if self._attempt is not None:
                await asyncio.wait((self._attempt,))
        self.sync.end()
