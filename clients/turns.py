# SPDX-License-Identifier: Apache-2.0
"""Leader and followers: which of the waiting threads reads the socket for all of them.

The first thread that waits becomes the leader and reads; those that come later sleep, each on a lock of its own. A thread
whose answer has come is woken alone. A leader that has its own answer hands the lead to the follower that has waited longest.
So the common case, one thread, has no switch of threads in it at all. (Schmidt et al., "Leader/Followers", PLoP 2000.)
"""

from __future__ import annotations

import threading

from .pending import Entry


class Waiter:
    """A follower asleep. Its lock is released to wake it: because of its answer, or because it is `chosen` to lead."""

    __slots__ = ("chosen", "entry", "lock", "next")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.chosen = False
        self.lock = threading.Lock()
        self.lock.acquire()
        self.next: Waiter | None = entry.waiters  # several threads may wait for one answer
        entry.waiters = self


class Turns:
    """The lead, and who waits for it. Every method is called with the connection's lock held."""

    def __init__(self) -> None:
        self.taken = False
        #: the leader is the reader of last resort, which gives way to anybody
        self.by_last_resort = False
        #: followers asleep that are neither answered nor chosen, in order of arrival
        self._followers: dict[Waiter, None] = {}

    def __repr__(self) -> str:
        return f"<Turns {'taken' if self.taken else 'free'}, {len(self._followers)} followers>"

    def check_invariants(self) -> None:
        """Somebody leads wherever somebody follows, and nobody sleeps who has been answered or chosen."""
        assert self.taken or not self._followers, self
        assert self.taken or not self.by_last_resort, self
        assert not any(waiter.chosen or waiter.entry.answered for waiter in self._followers), self

    @property
    def wanted(self) -> bool:
        """Whether somebody would take the lead."""
        return bool(self._followers)

    def take(self, last_resort: bool = False) -> bool:
        """Takes the lead if it is free."""
        if self.taken:
            return False
        self.taken = True
        self.by_last_resort = last_resort
        return True

    def follow(self, entry: Entry) -> Waiter:
        """Queues the calling thread, which then sleeps on the waiter's lock."""
        waiter = Waiter(entry)
        self._followers[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """A follower gives up waiting. When it had been chosen meanwhile, the lead goes to the next."""
        self._followers.pop(waiter, None)
        if waiter.chosen:
            self.pass_on()

    def pass_on(self) -> None:
        """The leader steps down; the follower that has waited longest, if any, leads."""
        self.by_last_resort = False
        for waiter in self._followers:
            del self._followers[waiter]
            waiter.chosen = True
            waiter.lock.release()
            return
        self.taken = False

    def wake(self, entry: Entry) -> None:
        """The entry has been answered: wakes those that sleep for it."""
        waiter = entry.waiters
        entry.waiters = None
        while waiter is not None:
            if waiter in self._followers:
                del self._followers[waiter]
                waiter.lock.release()
            waiter = waiter.next
