# SPDX-License-Identifier: Apache-2.0
"""What one batch cost: the time of each stage and the copies made, as BatchDone reports them."""

from __future__ import annotations

from time import monotonic_ns

from ..ipc.messages import Copied


class Account:
    """The books of one batch. Times in ns, summed over its executions."""

    __slots__ = ("_copies", "infer_ns", "input_ns", "mark_ns", "output_ns")

    def __init__(self, mark_ns: int = 0) -> None:
        self.mark_ns = mark_ns  # when the batch began; then, when the last lap ended
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0
        #: kind -> (copies, bytes)
        self._copies: dict[str, tuple[int, int]] = {}

    def lap(self) -> int:
        """The time since the last lap, which ends now: stages that are laps follow one another without a gap."""
        ended_ns = monotonic_ns()
        took_ns = ended_ns - self.mark_ns
        self.mark_ns = ended_ns
        return took_ns

    def copied(self, kind: str, count: int, byte_size: int) -> None:
        """Adds copies of one kind; see Copied."""
        if count:
            before = self._copies.get(kind, (0, 0))
            self._copies[kind] = (before[0] + count, before[1] + byte_size)

    def copies(self) -> list[Copied]:
        """One row per kind."""
        return [Copied(kind, count, byte_size) for kind, (count, byte_size) in sorted(self._copies.items())]

    def __repr__(self) -> str:
        return f"<Account {self.input_ns} + {self.infer_ns} + {self.output_ns} ns, {self._copies}>"
