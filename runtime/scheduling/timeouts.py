# SPDX-License-Identifier: Apache-2.0
"""Queue timeouts: which requests have one running, and what becomes of those that have waited for theirs.

A queue timeout is Triton's clock: it runs while a request is QUEUED, from its arrival on, and the model's queue policy sets it.
A deadline (ledger.py) is ours, runs until the outcome, and belongs to the request.
"""

from __future__ import annotations

from .batcher import NEVER_NS
from .timers import Timers


class Timeouts:
    """The timeouts of all models' queued requests, by request number."""

    __slots__ = ("_timers", "next_ns")

    def __init__(self) -> None:
        self._timers = Timers()
        #: Not after the first of them; NEVER_NS: there is none. So that a step at which none is due costs a comparison.
        self.next_ns = NEVER_NS

    def __contains__(self, number: int) -> bool:
        return number in self._timers

    def __len__(self) -> int:
        return len(self._timers)

    def set(self, number: int, when_ns: int) -> None:
        """The request expires then, unless `cancel` comes first."""
        self._timers.set(number, when_ns)
        if when_ns < self.next_ns:  # noqa: PLR1730 - min() would be a call per request
            self.next_ns = when_ns

    def cancel(self, number: int) -> None:
        """The request no longer waits, or no longer for this; nothing where it has no timeout."""
        self._timers.cancel(number)

    def when(self, number: int) -> int | None:
        """When the request expires, if it does."""
        return self._timers.when(number)

    def first_ns(self) -> int | None:
        """When the first of them expires."""
        return self._timers.first_ns()

    def pop_due(self, now_ns: int) -> list[int]:
        """Removes and returns the requests that have expired, earliest first."""
        due = self._timers.pop_due(now_ns)
        first_ns = self._timers.first_ns()
        self.next_ns = NEVER_NS if first_ns is None else first_ns
        return due

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        self._timers.check_invariants()
        first_ns = self._timers.first_ns()
        assert first_ns is None or self.next_ns <= first_ns, self

    def __repr__(self) -> str:
        return f"<timeouts: {self._timers!r}>"
