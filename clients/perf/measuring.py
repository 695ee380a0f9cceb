# SPDX-License-Identifier: Apache-2.0
"""Measuring one model: windows at each point of a plan until three in a row agree.

The broker's counters are read at the edges of a window, when nothing is in flight: what they grow by is these requests' and no
others', and no window is disturbed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..client import Client
from ..models import ModelInfo
from .confidence import Span, throughput_interval
from .figures import Row
from .load import BEGAN, ENDED, ClosedLoop, Load
from .percentiles import WINDOWS_THAT_AGREE, is_stable, latencies_of
from .plan import Plan, Point
from .requests import PreparedRequests
from .stages import ServerCounts, counted_together, stages_of, together
from .verifying import IdentityCheck


class Window(NamedTuple):
    """One window, seen from both sides."""

    load: Load
    counted: ServerCounts


class Measurer:
    """Measures the points of a plan, one after the other. `say` is told of every window."""

    def __init__(self, client: Client, model: ModelInfo, plan: Plan, say: Callable[[str], None]) -> None:
        self._client = client
        self._model = model
        self._plan = plan
        self._say = say

    def __repr__(self) -> str:
        return f"<Measurer of '{self._model.name}' at {len(self._plan.points)} points>"

    def check_invariants(self) -> None:
        """There is something to be measured."""
        assert self._plan.points, self

    def rows(self) -> Iterator[Row]:
        """A row for each point, as soon as it is measured. Raises PenstockError."""
        for point in self._plan.points:
            yield self._row(point)

    def _row(self, point: Point) -> Row:
        asked = self._plan.windows
        windows: list[Window] = []
        stable = False
        with PreparedRequests(self._client, self._model, self._plan, point) as prepared:
            check = IdentityCheck(self._model, prepared.inputs) if self._plan.verify else None
            loop = ClosedLoop(self._client, prepared.inputs, point.batch, point.concurrency, check)
            if asked.warmup:
                loop.run(requests=asked.warmup)
            while not stable and len(windows) < asked.max_trials:
                windows.append(self._window(loop))
                figures = [window.load.figures for window in windows]
                stable = is_stable(figures, asked.stability_percentage)
                self._say(
                    f"batch {point.batch}, concurrency {point.concurrency}, window {len(windows)}: "
                    f"{figures[-1].inferences_per_s:.1f} inferences/s, avg {figures[-1].mean_latency_ns / 1e6:.3f} ms"
                )
        cached = sum(window.counted.from_cache for window in windows)
        if cached:
            answers = sum(window.counted.succeeded for window in windows)
            self._say(
                f"batch {point.batch}, concurrency {point.concurrency}: {cached} of {answers} answers came from the response "
                "cache, not from the model"
            )
        return row_of(point, windows, stable)

    def _window(self, loop: ClosedLoop) -> Window:
        asked = self._plan.windows
        before = self._counts()
        load = loop.run(asked.interval_ms * 1_000_000, asked.request_count)
        return Window(load, self._counts().since(before))

    def _counts(self) -> ServerCounts:
        name, version = self._model.name, self._model.version
        (statistics,) = self._client.statistics(name, version)["model_stats"]
        (stages,) = self._client.stages(name, version)
        return ServerCounts.from_documents(statistics, stages)


def row_of(point: Point, windows: list[Window], stable: bool) -> Row:
    """What the last three windows say together."""
    last = windows[-WINDOWS_THAT_AGREE:]
    loads = [window.load for window in last]
    spans = [Span(load.elapsed_ns, load.moments[:, ENDED] - load.moments[:, BEGAN].min()) for load in loads]
    low, high = throughput_interval(spans, point.batch)
    return Row(
        batch=point.batch,
        concurrency=point.concurrency,
        request_rate=point.request_rate,
        inferences_per_s=sum(load.rows for load in loads) / sum(load.elapsed_ns for load in loads) * 1e9,
        inferences_per_s_low=low,
        inferences_per_s_high=high,
        stages=stages_of(together(load.times for load in loads), counted_together(window.counted for window in last)),
        latencies=latencies_of(np.concatenate([load.latencies_ns for load in loads])),
        requests=sum(len(load.moments) for load in loads),
        failed=0,
        windows=len(windows),
        is_stable=stable,
        client_cpu_percent=max(load.cpu_ns / load.elapsed_ns for load in loads) * 100,
    )
