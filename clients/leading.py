# SPDX-License-Identifier: Apache-2.0
"""What the leader does with its turn: reads the link for everybody, and waits for input in between."""

from __future__ import annotations

import time
from typing import Protocol

from ..ipc.errors import PenstockError
from ..ipc.local import LinkClosed
from .books import Announced, Books
from .links import Link
from .pending import Entry
from .watch import Watch

RETRY_S = 0.002
"""How soon a full socket is tried again. It is full only when the broker is stopped or far behind."""
FRESH_NS = 10_000_000
"""A broker heard of within this time is not looked at again before something is sent to it."""


class Host(Protocol):
    """What the leader needs of the connection."""

    @property
    def stuck(self) -> bool:
        """Whether something is to be sent that the socket did not take."""

    def push(self) -> None:
        """Tries to send it."""

    def lose(self, reason: Exception | None) -> None:
        """The link has ended."""

    def let_go(self) -> None:
        """It has ended, and nobody reads it any more."""


class Leading:
    """Used by the one thread that has the lead (Books says which); gives the lead back in the end."""

    def __init__(self, host: Host, link: Link, books: Books, leader_waits: Watch) -> None:
        self.reads = 0  # by which the reader of last resort sees that somebody else reads
        self.heard_ns = 0  # when something was last read
        self._host = host
        self._link = link
        self._books = books
        self._leader_waits = leader_waits

    def __repr__(self) -> str:
        return f"<Leading {self.reads} reads>"

    def lead(self, entry: Entry | None, until_ns: int) -> None:
        """Reads until the leader's entry is answered. None: the reader of last resort, for all watched futures."""
        announced: Announced = []
        books = self._books
        try:
            while not announced and books.lost is None:
                if entry.answered if entry is not None else (books.wanted or not books.watched):
                    break
                self._doze(until_ns)  # before reading: it costs less than a read that finds nothing
                if not self._read(announced) and until_ns and time.monotonic_ns() >= until_ns:
                    break
        finally:
            self._step_down()
        announce(announced)  # with the lead passed on: a callback may call this client again

    @property
    def is_fresh(self) -> bool:
        """Whether the broker was heard of a moment ago."""
        return time.monotonic_ns() - self.heard_ns < FRESH_NS

    def glance(self) -> None:
        """Reads what is there, without waiting."""
        announced: Announced = []
        try:
            self._read(announced)
        finally:
            self._step_down()
        announce(announced)

    def _read(self, announced: Announced) -> bool:
        """False when there is nothing."""
        self.reads += 1
        try:
            messages = self._link.receive()
            if not messages:
                return False
            self.heard_ns = time.monotonic_ns()
            self._books.take(messages, announced)
        except (LinkClosed, PenstockError) as error:
            self._host.lose(error)
        return True

    def _doze(self, until_ns: int) -> None:
        """Waits for input, or for another thread to wake the leader; not past `until_ns`."""
        timeout_s = max(until_ns - time.monotonic_ns(), 0) / 1e9 if until_ns else None
        if self._host.stuck:
            timeout_s = RETRY_S if timeout_s is None else min(timeout_s, RETRY_S)
        self._leader_waits.wait(timeout_s)
        if self._host.stuck:
            self._host.push()

    def _step_down(self) -> None:
        if self._books.step_down():
            self._host.let_go()


def announce(announced: Announced) -> None:
    """Tells those who wait for these answers without reading. Not with a lock or the lead in hand."""
    for each in announced:
        each.announce()
