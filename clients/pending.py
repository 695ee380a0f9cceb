# SPDX-License-Identifier: Apache-2.0
"""The client's books on what it has asked for: who waits for which answer, and whose memory is still in use. Pure.

A request ends twice: its caller is answered (once, at once), and its memory is released. Usually one message does both. When
the caller gives up first (cancel, timeout), or the broker answers before a worker has let go, the memory stays quarantined
until the broker says so. The caller of this module serialises the calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol


class State(Enum):
    """Where a request stands."""

    WAITING = "waiting"  # sent; no answer yet
    ABANDONED = "abandoned"  # its caller has an answer from this side (cancelled, timed out); the broker's is due
    QUARANTINED = "quarantined"  # the broker has answered, and says that the memory is still in use
    ENDED = "ended"  # answered and released
    LOST = "lost"  # the connection ended first: nobody will ever say that the memory is free


#: state -> states that may follow. ENDED and LOST are final.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.ABANDONED, State.QUARANTINED, State.ENDED, State.LOST}),
    State.ABANDONED: frozenset({State.QUARANTINED, State.ENDED, State.LOST}),
    State.QUARANTINED: frozenset({State.ENDED, State.LOST}),
    State.ENDED: frozenset(),
    State.LOST: frozenset(),
}


class Lease(Protocol):
    """The memory of a request. Told exactly once per request what became of it."""

    def build_result(self, entry: Entry) -> Any:
        """The result that the entry's message stands for."""

    def release(self) -> None:
        """No worker can touch it any more."""

    def lose(self) -> None:
        """Nobody can say whether a worker still touches it."""


class Entry:
    """One request that was sent: `message` or `error` is its answer, once `answered`."""

    __slots__ = ("answered", "brought", "deadline_ns", "error", "lease", "message", "number", "state", "waiters")

    def __init__(self, number: int, lease: Lease | None = None, deadline_ns: int = 0) -> None:
        self.number = number
        self.lease = lease
        self.deadline_ns = deadline_ns  # when this side gives up, on the caller's clock; 0: never
        self.state = State.WAITING
        self.answered = False
        self.message: Any = None
        self.brought: Any = None  # memory or parts that came beside the message, if any
        self.error: BaseException | None = None
        self.waiters: Any = None  # those to be woken: the concern of turns.py

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} {self.state.value}{' answered' if self.answered else ''}>"

    def check_invariants(self) -> None:
        """Answered means that there is something to tell; only a waiting request has no answer."""
        assert self.answered == (self.state is not State.WAITING), self
        assert not self.answered or (self.message is None) != (self.error is None), self


class Pending:
    """All requests of one connection that have not been both answered and released."""

    def __init__(self) -> None:
        #: number -> entry that is WAITING, ABANDONED or QUARANTINED
        self._entries: dict[int, Entry] = {}
        #: (deadline, number) of entries that have one; those that ended meanwhile are dropped when their time comes
        self._deadlines: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        counts = {state.value: sum(entry.state is state for entry in self._entries.values()) for state in State}
        return f"<Pending {', '.join(f'{count} {name}' for name, count in counts.items() if count) or 'nothing'}>"

    def check_invariants(self) -> None:
        """Only what has not ended is kept, under its own number."""
        for number, entry in self._entries.items():
            entry.check_invariants()
            assert entry.number == number and TRANSITIONS[entry.state], entry
            assert entry.state is not State.WAITING or not entry.deadline_ns or (entry.deadline_ns, number) in self._deadlines

    def add(self, entry: Entry) -> None:
        """A request that is about to be sent."""
        self._entries[entry.number] = entry
        if entry.deadline_ns:
            heapq.heappush(self._deadlines, (entry.deadline_ns, entry.number))

    def get(self, number: int | None) -> Entry | None:
        """The entry with this number, unless it has ended or never was."""
        return None if number is None else self._entries.get(number)

    def settle(
        self, entry: Entry, message: Any, error: BaseException | None, brought: Any = None, released: bool = True
    ) -> bool:
        """The broker's answer to `entry`. Returns whether the caller is to be told (it is not when it gave up earlier)."""
        told = entry.state is State.WAITING
        if told:
            entry.message, entry.error, entry.brought, entry.answered = message, error, brought, True
        if released:
            self._end(entry, State.ENDED)
        else:
            self._move(entry, State.QUARANTINED)
        return told

    def abandon(self, entry: Entry, error: BaseException) -> bool:
        """The caller gives up: `error` is its answer. False when it already had one."""
        if entry.state is not State.WAITING:
            return False
        self._move(entry, State.ABANDONED)
        entry.error, entry.answered = error, True
        return True

    def release(self, number: int) -> bool:
        """The broker says that this request's memory is free. False for a number it had no business to name."""
        entry = self._entries.get(number)
        if entry is None or entry.state is not State.QUARANTINED:
            return False
        self._end(entry, State.ENDED)
        return True

    def lose(self, make_error: Callable[[], BaseException]) -> list[Entry]:
        """The connection is gone. Returns the entries whose callers are to be told, each with an error of its own."""
        told = []
        for entry in list(self._entries.values()):
            if entry.state is State.WAITING:
                entry.error, entry.answered = make_error(), True
                told.append(entry)
            self._end(entry, State.LOST)
        self._deadlines.clear()
        return told

    def next_deadline_ns(self) -> int | None:
        """When `expired` must be asked at the latest; None when nothing that waits has a deadline."""
        deadlines = self._deadlines
        while deadlines:
            entry = self._entries.get(deadlines[0][1])
            if entry is not None and entry.state is State.WAITING:
                return deadlines[0][0]
            heapq.heappop(deadlines)
        return None

    def expired(self, now_ns: int) -> list[Entry]:
        """Waiting entries whose deadline has passed. The caller abandons them."""
        found: list[Entry] = []
        while (deadline := self.next_deadline_ns()) is not None and deadline <= now_ns:
            found.append(self._entries[heapq.heappop(self._deadlines)[1]])
        return found

    def _end(self, entry: Entry, state: State) -> None:
        self._move(entry, state)
        del self._entries[entry.number]
        if entry.lease is not None:
            if state is State.ENDED:
                entry.lease.release()
            else:
                entry.lease.lose()

    @staticmethod
    def _move(entry: Entry, state: State) -> None:
        if state not in TRANSITIONS[entry.state]:
            raise AssertionError(f"{entry!r} cannot become {state.value}")
        entry.state = state
