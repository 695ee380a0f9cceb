# SPDX-License-Identifier: Apache-2.0
"""What a reader must know of a row beside its figures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .load import ENDED, Load, failures_of
from .percentiles import Latencies
from .stages import ServerCounts

BUSY_PERCENT = 90
"""A client process that takes more of a core than this could hardly have done more."""
MATTERS = 0.05
"""What is less than this part of the mean latency, or of the rate asked for, is not worth a note."""


def notes_of(loads: Sequence[Load], counted: ServerCounts, latencies: Latencies, cpu_percent: float) -> tuple[str, ...]:
    """Of the windows of a row."""
    return (
        *_failures(failures_of(loads)), *_cache(counted), *_lateness(loads, latencies), *_rate(loads), *_ends(loads),
        *_processor(cpu_percent),
    )  # fmt: skip


def _failures(failed: Mapping[str, int]) -> Iterator[str]:
    for code, count in sorted(failed.items()):
        yield f"{count} requests failed: {code}"


def _cache(counted: ServerCounts) -> Iterator[str]:
    if counted.from_cache:
        yield f"{counted.from_cache} of {counted.succeeded} answers came from the response cache, not from the model"


def _lateness(loads: Sequence[Load], latencies: Latencies) -> Iterator[str]:
    late_ns = [late for load in loads for late in load.late_ns]
    if not late_ns or sum(late_ns) / len(late_ns) <= MATTERS * latencies.avg_ns:
        return
    held_back = sum(load.held_back for load in loads)
    why = (
        f"{held_back} of them since as many were in flight as may be ({max(load.most_in_flight for load in loads)})"
        if held_back
        else "the client did not get to it: it, or its machine, is too busy (--processes has more of them share the load)"
    )
    mean_ms, most_ms = sum(late_ns) / len(late_ns) / 1e6, max(late_ns) / 1e6
    yield f"requests were sent {mean_ms:.3f} ms late in the mean, {most_ms:.3f} ms at most; latencies contain it: {why}"


def _rate(loads: Sequence[Load]) -> Iterator[str]:
    scheduled = sum(load.scheduled_per_s for load in loads) / len(loads)
    answered = sum(len(load.moments) + sum(load.failed.values()) for load in loads)
    reached = answered / sum(load.elapsed_ns for load in loads) * 1e9
    if reached < scheduled * (1 - MATTERS):
        yield (
            f"the rate was not reached: {reached:.1f} requests/s were answered of {scheduled:.1f} that were due (or windows "
            "are short against the latency)"
        )


def _ends(loads: Sequence[Load]) -> Iterator[str]:
    """Of closed loops: what in flight was missing while the last answer of each window was awaited, and nothing sent."""
    closed = [load for load in loads if not load.scheduled_per_s]
    missing_ns = sum(int((load.ended_ns - np.sort(load.moments[:, ENDED])[-load.most_in_flight :]).sum()) for load in closed)
    asked_ns = sum(load.elapsed_ns * load.most_in_flight for load in closed)
    if missing_ns > MATTERS * asked_ns:
        yield (
            f"windows are short against the latency: {missing_ns / asked_ns:.0%} of the load was missing at their ends, where "
            "the last answers are awaited; longer ones have less of it"
        )


def _processor(cpu_percent: float) -> Iterator[str]:
    if cpu_percent > BUSY_PERCENT:
        yield (
            f"the client may have been the limit: its busiest process took {cpu_percent:.0f} % of a core; more client "
            "processes (--processes) share the load"
        )
