# SPDX-License-Identifier: Apache-2.0
"""What is made of many latencies: percentiles, and whether windows agree. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WINDOWS_THAT_AGREE = 3
PERCENTILES = (50, 90, 95, 99)


class Latencies(NamedTuple):
    """Of requests, in ns. Each percentile is a latency that was recorded: the smallest that so many percent do not exceed."""

    p50_ns: int
    p90_ns: int
    p95_ns: int
    p99_ns: int
    avg_ns: int


class WindowFigures(NamedTuple):
    """What is compared between windows."""

    inferences_per_s: float
    mean_latency_ns: float


def latencies_of(recorded_ns: npt.NDArray[np.int64]) -> Latencies:
    """Of at least one request."""
    found = np.percentile(recorded_ns, PERCENTILES, method="inverted_cdf")
    p50, p90, p95, p99 = (int(value) for value in found)
    return Latencies(p50, p90, p95, p99, mean(int(recorded_ns.sum()), len(recorded_ns)))


def mean(total: int, count: int) -> int:
    """The mean as a whole number, halves up. Exact, however large the total."""
    return (2 * total + count) // (2 * count)


def is_stable(windows: Sequence[WindowFigures], percent: float) -> bool:
    """Whether the last three windows agree: in each figure, the largest exceeds the smallest by at most so many percent."""
    last = windows[-WINDOWS_THAT_AGREE:]
    return len(last) == WINDOWS_THAT_AGREE and all(_agree(values, percent) for values in zip(*last, strict=True))


def _agree(values: Sequence[Any], percent: float) -> bool:
    return bool(max(values) <= min(values) * (1 + percent / 100))
