# SPDX-License-Identifier: Apache-2.0
"""A connection's books: what is pending, who reads, who waits. Every change of them is one method here, under one lock.

The lock is never held while anything is read, written or called back. Methods that answer requests wake those who sleep for
them, and return those that are to be announced afterwards: futures, and what event loops await.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..ipc.errors import PenstockError
from ..ipc.messages import Message
from .awaited import Awaited
from .futures import InferFuture
from .inbox import Inbox, OnAdjusted, OnRefusal
from .links import Link
from .pending import Entry, Pending
from .turns import Turns, Waiter
from .watch import Watch

Announced = list[InferFuture | Awaited]


class Books:
    """Thread-safe. `lost`, once it is set, makes the error that every later call gets."""

    def __init__(self, link: Link, leader_waits: Watch, on_refusal: OnRefusal, on_adjusted: OnAdjusted | None = None) -> None:
        self.lost: Callable[[], PenstockError] | None = None
        self.watched = 0  # unanswered futures that somebody wants to hear of without reading
        self._lock = threading.Lock()
        self._pending = Pending()
        self._inbox = Inbox(link, self._pending, on_refusal, on_adjusted)
        self._turns = Turns()
        self._leader_waits = leader_waits

    def __repr__(self) -> str:
        return f"<Books {'lost, ' if self.lost else ''}{self._pending!r}, {self._inbox!r}, {self._turns!r}>"

    def check_invariants(self) -> None:
        """Those of the parts; a lost connection keeps nobody waiting."""
        with self._lock:
            self._pending.check_invariants()
            self._turns.check_invariants()
            assert self.lost is None or not (len(self._pending) or self.watched), self

    # --- requests ---------------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._pending

    def add(self, entries: Sequence[Entry]) -> None:
        """Requests that are about to be sent. Raises what calls get on a lost connection, and has added none."""
        with self._lock:
            if self.lost is not None:
                raise self.lost()
            for entry in entries:
                self._pending.add(entry)

    def abandon(self, entry: Entry, error: BaseException) -> Announced | None:
        """The caller gives up. None when the entry was answered before."""
        with self._lock:
            if not self._pending.abandon(entry, error):
                return None
            self._wake_leader()
            return self._tell([entry])

    def refuse(self, message: Message, error: PenstockError) -> Announced:
        """A message could not be sent."""
        with self._lock:
            entry = self._pending.get(getattr(message, "id", None))
            return self._tell([entry]) if entry is not None and self._pending.settle(entry, None, error) else []

    def take(self, messages: Sequence[Any], announced: Announced) -> None:
        """What the broker has said. Raises PenstockError when it is not to be understood."""
        answered: list[Entry] = []
        with self._lock:
            try:
                self._inbox.take(messages, answered)
            finally:
                announced += self._tell(answered)

    def expired(self, now_ns: int) -> list[Entry]:
        """Requests whose deadline is over, to be abandoned."""
        with self._lock:
            return self._pending.expired(now_ns)

    def next_deadline_ns(self) -> int:
        """When `expired` must be asked at the latest; 0: there is no deadline."""
        with self._lock:
            return self._pending.next_deadline_ns() or 0

    def lose(self, make_error: Callable[[], PenstockError]) -> Announced | None:
        """The connection has ended, and all that was pending with it. None when it had ended before."""
        with self._lock:
            if self.lost is not None:
                return None
            self.lost = make_error
            self._wake_leader()
            return self._tell(self._pending.lose(make_error))

    def watch(self, future: InferFuture) -> bool:
        """Somebody wants to hear of the future without reading: it gets a condition. Returns whether somebody must read."""
        with self._lock:
            if future.condition is None:
                future.make_condition()
            if future.answered or future.watched:
                return False
            future.watched = True
            self.watched += 1
            self._wake_leader()  # should it be the reader of last resort, it learns of the deadline
            return True

    def _tell(self, answered: Sequence[Entry]) -> Announced:
        announced: Announced = []
        for entry in answered:
            if entry.waiters is not None:
                self._turns.wake(entry)
            if type(entry) is InferFuture:
                if entry.condition is not None:
                    self.watched -= entry.watched
                    announced.append(entry)
            elif type(entry) is Awaited:
                announced.append(entry)
        return announced

    # --- turns ------------------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether a follower would take the lead."""
        return self._turns.wanted

    def queue(self, entry: Entry) -> Waiter | None:
        """The calling thread waits for the entry: as the leader (None), or asleep on the waiter's lock."""
        with self._lock:
            if self._turns.take():
                return None
            waiter = self._turns.follow(entry)
            if entry.answered:
                self._turns.wake(entry)
            elif self._turns.by_last_resort:
                self._wake_leader()
            return waiter

    def sleep(self, waiter: Waiter, until_ns: int) -> bool:
        """A follower's sleep, at most until then (0: for ever). Returns whether it has become the leader."""
        awake = False
        try:
            awake = waiter.lock.acquire(timeout=max(until_ns - time.monotonic_ns(), 0) / 1e9 if until_ns else -1)
        finally:
            if not awake:  # time is up, or the thread was interrupted
                with self._lock:
                    self._turns.leave(waiter)
        return awake and waiter.chosen

    def take_lead(self) -> bool:
        """Leads for a moment, if nobody does."""
        with self._lock:
            return self.lost is None and self._turns.take()

    def take_lead_as_last_resort(self) -> int | None:
        """Leads for the watched futures. Returns the first deadline of all (0: none), or None when somebody leads already."""
        with self._lock:
            if self.lost is not None or not self._turns.take(last_resort=True):
                return None
            return self._pending.next_deadline_ns() or 0

    def step_down(self) -> bool:
        """The leader has its answer. Returns whether it was the last to touch the link of a lost connection."""
        with self._lock:
            self._turns.pass_on()
            return self.lost is not None and not self._turns.taken

    @property
    def nobody_leads(self) -> bool:
        """Whether the link is not being read."""
        return not self._turns.taken

    def wake_leader(self) -> None:
        """Makes a leader that waits for input look around."""
        with self._lock:
            self._wake_leader()

    def _wake_leader(self) -> None:
        if self._turns.taken:
            self._leader_waits.interrupt()
