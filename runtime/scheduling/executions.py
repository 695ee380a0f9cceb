# SPDX-License-Identifier: Apache-2.0
"""How long a model's batches take, learnt from those that ended: what "nears its end" and "would miss its deadline" mean."""

from __future__ import annotations

SMOOTHING_SHIFT = 3
"""Weight of a new duration is 1/8: the smoothing that TCP uses for round trips (RFC 6298, alpha), for the same reason."""

EARLY_DIVISOR = 5
EARLY_AT_LEAST_NS = 50_000
"""A batch nears its end in the last fifth of its expected duration, and no later than 50 us before it: the time that a
broker and a worker need to receive, map and gather the next one."""


def early_ns(expected_ns: int) -> int:
    """How long before an expected end the next batch should be on its way."""
    return max(expected_ns // EARLY_DIVISOR, EARLY_AT_LEAST_NS)


class Executions:
    """Smoothed durations of one model's batches, by total rows."""

    __slots__ = ("_by_rows", "_typical_ns")

    def __init__(self) -> None:
        #: total rows -> smoothed duration in ns. Rows never exceed max_batch_size, which bounds its size.
        self._by_rows: dict[int, int] = {}
        #: The same over batches of any size; None until one ended.
        self._typical_ns: int | None = None

    def learn(self, rows: int, duration_ns: int) -> None:
        """A batch of `rows` took that long, from when it was first at its instance to its answer."""
        known = self._by_rows.get(rows)
        self._by_rows[rows] = duration_ns if known is None else known + ((duration_ns - known) >> SMOOTHING_SHIFT)
        known = self._typical_ns
        self._typical_ns = duration_ns if known is None else known + ((duration_ns - known) >> SMOOTHING_SHIFT)

    def near_end_ns(self, rows: int, since_ns: int) -> int | None:
        """When a batch of that size, running since then, nears its end; None: unknown."""
        expected_ns = self._by_rows.get(rows)
        return None if expected_ns is None else since_ns + expected_ns - early_ns(expected_ns)

    def start_by_ns(self, rows: int, deadline_ns: int) -> int:
        """The latest start that is likely to meet the deadline. Before anything is known of the model: at once."""
        expected_ns = self._by_rows.get(rows, self._typical_ns)
        return 0 if expected_ns is None else deadline_ns - expected_ns - early_ns(expected_ns)

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        assert all(rows > 0 and duration_ns >= 0 for rows, duration_ns in self._by_rows.items()), self
        assert (self._typical_ns is None) == (not self._by_rows), self

    def __repr__(self) -> str:
        return f"<durations in ns by rows: {self._by_rows}>"
