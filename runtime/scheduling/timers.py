# SPDX-License-Identifier: Apache-2.0
"""Points in time by key: a min-heap with lazy deletion, so that moving or cancelling a timer costs no search."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

SLACK = 64
"""How many dead heap entries are tolerated beyond the number of live ones before the heap is rebuilt."""


class Timers:
    """At most one time per key. Keys are the integers that name requests, models or instances."""

    __slots__ = ("_heap", "_when")

    def __init__(self) -> None:
        #: key -> its time. The truth.
        self._when: dict[int, int] = {}
        #: (time, key); holds at least every pair of _when, and pairs that are no longer true. At most 2 * len(_when) + SLACK.
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: int) -> bool:
        return key in self._when

    def __iter__(self) -> Iterator[int]:
        return iter(self._when)

    def when(self, key: int) -> int | None:
        """The key's time, if it has one."""
        return self._when.get(key)

    def set(self, key: int, when_ns: int) -> None:
        """Sets or moves the key's time."""
        when = self._when
        if when.get(key) == when_ns:
            return
        when[key] = when_ns
        heappush(self._heap, (when_ns, key))
        if len(self._heap) > 2 * len(when) + SLACK:
            self._rebuild()

    def cancel(self, key: int) -> None:
        """Forgets the key's time, if it has one."""
        if self._when.pop(key, None) is not None and len(self._heap) > 2 * len(self._when) + SLACK:
            self._rebuild()

    def first(self) -> tuple[int, int] | None:
        """The earliest (time, key)."""
        heap, when = self._heap, self._when
        while heap:
            entry = heap[0]
            if when.get(entry[1]) == entry[0]:
                return entry
            heappop(heap)
        return None

    def first_ns(self) -> int | None:
        """The earliest time."""
        if not self._when:
            return None
        entry = self.first()
        return None if entry is None else entry[0]

    def pop_due(self, now_ns: int) -> list[int]:
        """Removes and returns the keys whose time has come, earliest first."""
        due = []
        while (entry := self.first()) is not None and entry[0] <= now_ns:
            del self._when[entry[1]]
            due.append(entry[1])
        return due

    def _rebuild(self) -> None:
        self._heap = [(when_ns, key) for key, when_ns in self._when.items()]
        heapify(self._heap)

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        assert {(when_ns, key) for key, when_ns in self._when.items()} <= set(self._heap), self
        assert len(self._heap) <= 2 * len(self._when) + SLACK, self
        assert all(self._heap[(i - 1) // 2] <= self._heap[i] for i in range(1, len(self._heap))), self

    def __repr__(self) -> str:
        return f"<{len(self._when)} timers, first {self.first()}>"
