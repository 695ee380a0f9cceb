# SPDX-License-Identifier: Apache-2.0
"""Which points are measured, where a latency is not to be exceeded: all up to there, or those of a binary search.

Of a point is said whether it stayed within the threshold (`excess_of`). Each batch size is looked at for itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import groupby

from ...ipc.errors import invalid
from .plan import Plan, Point

Probes = Generator[Point, bool, None]
"""Gives the next point to be measured, and is sent whether the one before was within the threshold."""
PRECISION = 0.01
"""A binary search over rates ends when they are this close, as a part of the largest asked for. Over concurrency: exact."""

MAY_EXCEED = 0.05
"""So many requests may take longer than a threshold on the p95 latency; one that failed was not answered in time either."""


def excess_of(p95_ms: float, succeeded: int, failed: int, threshold_ms: float) -> str:
    """Why a load is not within the threshold; empty where it is."""
    if p95_ms > threshold_ms:
        return f"the p95 latency exceeds the threshold of {threshold_ms:g} ms"
    if failed > MAY_EXCEED * (succeeded + failed):
        return f"more requests failed than the {MAY_EXCEED:.0%} that may exceed the threshold of {threshold_ms:g} ms"
    return ""


def probes_of(plan: Plan) -> Probes:
    """Those of the plan. Raises CallerError for a search without a threshold."""
    if plan.search == "linear":
        return _linear(plan)
    if plan.latency_threshold_ms is None:
        raise invalid("a binary search looks for the most load within a latency: say which, with a latency threshold")
    return _binary(plan)


def _linear(plan: Plan) -> Probes:
    """Every point in its order, but none of more load than one that exceeded the threshold."""
    exceeded: dict[int, float] = {}
    for point in plan.points:
        if _load(point) < exceeded.get(point.batch, float("inf")) and not (yield point):
            exceeded[point.batch] = _load(point)


def _binary(plan: Plan) -> Probes:
    for points in _by_batch(plan):
        low, high = points[0], points[-1]
        if not (yield low) or low == high or (yield high):
            continue
        while (middle := _between(low, high, points[-1])) is not None:
            if (yield middle):
                low = middle
            else:
                high = middle


def _by_batch(plan: Plan) -> Iterator[list[Point]]:
    ordered = sorted(plan.points, key=lambda point: (point.batch, _load(point)))
    for _, points in groupby(ordered, key=lambda point: point.batch):
        yield list(points)


def _between(low: Point, high: Point, largest: Point) -> Point | None:
    """Half-way between a load that is within the threshold and one that is not; None where they are close enough."""
    if low.request_rate is None or high.request_rate is None or largest.request_rate is None:
        middle = (low.concurrency + high.concurrency) // 2
        return low._replace(concurrency=middle) if middle > low.concurrency else None
    if high.request_rate - low.request_rate <= largest.request_rate * PRECISION:
        return None
    return low._replace(request_rate=(low.request_rate + high.request_rate) / 2)


def _load(point: Point) -> float:
    return point.concurrency if point.request_rate is None else point.request_rate
