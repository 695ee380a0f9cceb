# SPDX-License-Identifier: Apache-2.0
"""Histograms of durations, always on: one list increment per value, logarithmic buckets, four to an octave.

A bucket's values differ by less than 25 %, and a quantile is given as the middle of its bucket: it is off by at most 12.5 %.
Sizes of batches have no histogram here: `batch_stats` of statistics.py counts each size exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_BUCKETS = 4 * 66 + 8
"""Enough for what a 64-bit duration can be, and the sum of two."""
QUANTILES = (0.5, 0.9, 0.99, 0.999)


class Bucket(NamedTuple):
    """Whole numbers `low` to `high`, both included."""

    low: int
    high: int
    values: int


class Histogram:
    """Counts of non-negative whole numbers below 2**65; negative ones count as 0.

    The bucket of a value v >= 4 is 4 * v.bit_length() + its three leading bits (4 to 7); 0 to 3 are their own buckets.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS

    def __repr__(self) -> str:
        return f"<Histogram {self.count} values, p50 {self.quantile(0.5)}, p99 {self.quantile(0.99)}>"

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return sum(self._counts)

    def record(self, value: int) -> None:
        """Counts one value."""
        if value < 4:
            self._counts[value if value > 0 else 0] += 1  # noqa: FURB136 - max() costs twice as much
        else:
            bits = value.bit_length()
            self._counts[(bits << 2) + (value >> bits - 3)] += 1

    def record_all(self, values: Iterable[int]) -> None:
        """Counts several values; cheaper than one call for each."""
        counts = self._counts
        for value in values:
            if value < 4:
                counts[value if value > 0 else 0] += 1  # noqa: FURB136
            else:
                bits = value.bit_length()
                counts[(bits << 2) + (value >> bits - 3)] += 1

    def buckets(self) -> Iterator[Bucket]:
        """The buckets that are not empty, lowest first."""
        for index, count in enumerate(self._counts):
            if count:
                low, high = _bounds(index)
                yield Bucket(low, high, count)

    def quantile(self, q: float) -> int | None:
        """The value that a share of `q` of all values does not exceed, off by at most 12.5 %. None without values."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, got {q}")
        rank = max(1, -int(-q * self.count // 1))  # the smallest whole number that is not below q * count
        for bucket in self.buckets():
            rank -= bucket.values
            if rank <= 0:
                return (bucket.low + bucket.high) // 2
        return None

    def to_json(self) -> dict[str, Any]:
        """`count`, quantiles `p50` to `p99.9` (null without values), and `buckets`: [low, high, count]."""
        quantiles = {f"p{q * 100:g}": self.quantile(q) for q in QUANTILES}
        return {"count": self.count, **quantiles, "buckets": [list(bucket) for bucket in self.buckets()]}

    def check_invariants(self) -> None:
        """Counts are counts, and only in buckets that exist."""
        assert min(self._counts) >= 0, self
        assert not any(self._counts[4:16]), self  # 4 * 3 + 4 is the first bucket after those of 0 to 3


def _bounds(index: int) -> tuple[int, int]:
    if index < 4:
        return index, index
    bits, leading = (index - 4) >> 2, ((index - 4) & 3) + 4
    return leading << bits - 3, (leading + 1 << bits - 3) - 1


class StageHistograms:
    """Where the time of one model version's requests goes, in ns.

    `queue` and `total` count successful requests; the three stages of computing count executions, each once.
    """

    __slots__ = ("compute_infer", "compute_input", "compute_output", "queue", "total")

    def __init__(self) -> None:
        self.queue = Histogram()
        self.compute_input = Histogram()
        self.compute_infer = Histogram()
        self.compute_output = Histogram()
        self.total = Histogram()

    def __repr__(self) -> str:
        return f"<StageHistograms queue {self.queue!r} infer {self.compute_infer!r} total {self.total!r}>"

    def executed(self, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """One execution of a batch."""
        self.compute_input.record(input_ns)
        self.compute_infer.record(infer_ns)
        self.compute_output.record(output_ns)

    def completed(self, totals_ns: Sequence[int], queues_ns: Sequence[int]) -> None:
        """The successful requests of a batch, in any order."""
        self.total.record_all(totals_ns)
        self.queue.record_all(queues_ns)

    def to_json(self, sums_ns: Mapping[str, int]) -> dict[str, Any]:
        """Stage -> Histogram.to_json() and the `sum` of its values, which is counted elsewhere."""
        stages = ("queue", "compute_input", "compute_infer", "compute_output", "total")
        return {stage: {**getattr(self, stage).to_json(), "sum": sums_ns[stage]} for stage in stages}

    def check_invariants(self) -> None:
        """Whoever counts one stage counts the others."""
        assert self.queue.count == self.total.count, self
        assert self.compute_input.count == self.compute_infer.count == self.compute_output.count, self
        for histogram in (self.queue, self.compute_input, self.compute_infer, self.compute_output, self.total):
            histogram.check_invariants()
