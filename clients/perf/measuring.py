# SPDX-License-Identifier: Apache-2.0
"""Measuring one model: windows at each point of a plan until three in a row agree.

The server's counters are read at the edges of a window, when nothing is in flight: what they grow by is these requests' and no
others', and no window is disturbed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from .confidence import throughput_interval
from .figures import Row, place_of
from .generating import Alone, Generators, Loop
from .load import Load, Stint, failures_of
from .notes import notes_of
from .percentiles import WINDOWS_THAT_AGREE, is_stable, latencies_of
from .plan import Plan, Point
from .processes import ClientProcesses
from .search import Probes, excess_of, probes_of
from .stages import ServerCounts, counted_together, stages_of, together
from .target import Target

INTERRUPTED = "interrupted: of the windows that were complete"


class Window(NamedTuple):
    """One window, seen from both sides."""

    load: Load
    counted: ServerCounts


class Measurer:
    """Measures the points of a plan, one after the other. `say` is told of every window, `note` (else `say`) of every note.

    Where the plan asks for several client processes, each opens a target of its own, and this one is asked for counters only.
    """

    def __init__(
        self, target: Target, plan: Plan, say: Callable[[str], None], note: Callable[[str], None] | None = None
    ) -> None:
        self._target = target
        self._plan = plan
        self._say = say
        self._note = note or say

    def __repr__(self) -> str:
        return f"<Measurer of '{self._target.model.name}' at {len(self._plan.points)} points>"

    def check_invariants(self) -> None:
        """There is something to be measured."""
        assert self._plan.points and self._plan.processes >= 1, self

    def rows(self) -> Iterator[Row]:
        """A row for each point that is measured, as soon as it is. Raises PenstockError.

        Interrupted (KeyboardInterrupt), it gives what was measured of the point under way, unless that is not one window, and
        raises when it is asked for the next.
        """
        probes = probes_of(self._plan)
        with self._generators() as generators:
            point = next(probes, None)
            while point is not None:
                windows: list[Window] = []
                try:
                    with generators.at(point) as loop:
                        is_steady = self._fill(windows, point, loop)
                except KeyboardInterrupt:
                    if windows:
                        row = row_of(point, windows, False)
                        yield self._told(row._replace(notes=(INTERRUPTED, *row.notes)))
                    raise
                row = row_of(point, windows, is_steady)
                excess = self._excess(row)
                yield self._told(row._replace(notes=excess + row.notes))
                point = _next(probes, not excess)

    def _generators(self) -> AbstractContextManager[Generators]:
        if self._plan.processes == 1:
            return nullcontext(Alone(self._target, self._plan))
        return ClientProcesses(self._target.spec, self._plan)

    def _fill(self, windows: list[Window], point: Point, loop: Loop) -> bool:
        """Measures until three windows agree (True), or there are as many as there may be."""
        asked = self._plan.windows
        answered = 0
        if asked.warmup:
            warmed = loop.warm_up(asked.warmup)
            warmed.require_some()
            answered = len(warmed.moments)
        before = self._target.counts(answered)
        while len(windows) < asked.max_trials:
            load = loop.run(Stint(asked.interval_ms * 1_000_000, asked.request_count, number=len(windows)))
            load.require_some()
            after = self._target.counts(len(load.moments))
            windows.append(Window(load, after.since(before)))
            before = after
            figures = [window.load.figures for window in windows]
            self._say(
                f"{place_of(point)}, window {len(windows)}: {figures[-1].inferences_per_s:.1f} inferences/s, "
                f"avg {figures[-1].mean_latency_ns / 1e6:.3f} ms"
            )
            if is_stable(figures, asked.stability_percentage):
                return True
        return False

    def _excess(self, row: Row) -> tuple[str, ...]:
        """A note where the load is not within the threshold."""
        threshold_ms = self._plan.latency_threshold_ms
        why = "" if threshold_ms is None else excess_of(row.latencies.p95_ns / 1e6, row.requests, row.failed, threshold_ms)
        return (why,) if why else ()

    def _told(self, row: Row) -> Row:
        for note in row.notes:
            self._note(f"{place_of(row)}: {note}")
        return row


def row_of(point: Point, windows: Sequence[Window], stable: bool) -> Row:
    """What the last three windows say together."""
    last = windows[-WINDOWS_THAT_AGREE:]
    loads = [window.load for window in last]
    counted = counted_together(window.counted for window in last)
    elapsed_ns = sum(load.elapsed_ns for load in loads)
    low, high = throughput_interval([load.span for load in loads], point.batch)
    latencies = latencies_of(np.concatenate([load.latencies_ns for load in loads]))
    cpu_percent = sum(load.cpu_ns for load in loads) / elapsed_ns * 100
    is_open = point.request_rate is not None
    return Row(
        batch=point.batch,
        concurrency=max(load.most_in_flight for load in loads) if is_open else point.concurrency,
        request_rate=point.request_rate,
        inferences_per_s=sum(load.rows for load in loads) / elapsed_ns * 1e9,
        inferences_per_s_low=low,
        inferences_per_s_high=high,
        stages=stages_of(together(load.times for load in loads), counted),
        latencies=latencies,
        requests=sum(len(load.moments) for load in loads),
        failed=failures_of(loads).total(),
        windows=len(windows),
        is_stable=stable,
        client_cpu_percent=cpu_percent,
        notes=notes_of(loads, counted, latencies, cpu_percent),
    )


def _next(probes: Probes, was_within: bool) -> Point | None:
    try:
        return probes.send(was_within)
    except StopIteration:
        return None
