# SPDX-License-Identifier: Apache-2.0
"""A trace as a picture: the same lanes as in the terminal, to be looked at in a browser. Pure: records in, SVG text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from .lanes import Lane, model_lanes
from .records import Trace, TracedBatch

WIDTH, MARGIN, ROW, BAR = 1200, 180, 26, 18
"""Pixels: the whole picture, its left margin, a lane, a batch in it."""
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")
TICKS = 10


def svg(trace: Trace) -> str:
    """The picture. A batch's title, shown when the pointer rests on it, is its record in words."""
    return "\n".join(_Picture(trace).lines())


class _Picture:
    def __init__(self, trace: Trace) -> None:
        self._models = model_lanes(trace)
        self._begin_ns = trace.begin_ns
        self._ns = max(trace.end_ns - trace.begin_ns, 1)
        self._rows = 1 + sum(len(model.lanes) + 2 for model in self._models)

    def lines(self) -> Iterator[str]:
        height = self._rows * ROW + 10
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            'font-family="sans-serif" font-size="12">'
        )
        yield f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        yield from self._axis(height)
        y = ROW
        for position, model in enumerate(self._models):
            yield f'<text x="4" y="{y + BAR - 4}" font-weight="bold">{escape(model.label)}</text>'
            y += ROW
            for lane in model.lanes:
                yield from self._lane(lane, y, COLOURS[position % len(COLOURS)])
                y += ROW
            yield from self._waiting(model.waiting, y)
            y += ROW
        yield "</svg>"

    def _x(self, time_ns: int) -> float:
        return round(MARGIN + (time_ns - self._begin_ns) * (WIDTH - MARGIN - 10) / self._ns, 2)

    def _axis(self, height: int) -> Iterator[str]:
        for tick in range(TICKS + 1):
            x = self._x(self._begin_ns + self._ns * tick // TICKS)
            yield f'<line x1="{x}" y1="{ROW - 6}" x2="{x}" y2="{height}" stroke="#ddd"/>'
            yield f'<text x="{x}" y="14" text-anchor="middle" fill="#555">{self._ns * tick / TICKS / 1e6:.4g}</text>'
        yield f'<text x="4" y="14" fill="#555">ms since {self._begin_ns} ns</text>'

    def _lane(self, lane: Lane, y: int, colour: str) -> Iterator[str]:
        yield f'<text x="14" y="{y + BAR - 4}">{escape(lane.instance)}</text>'
        for batch in lane.batches:
            x, end = self._x(batch.started_ns), self._x(batch.computed_ns)
            width = max(round(end - x, 2), 0.5)
            fill = "#d62728" if batch.error else colour
            yield (
                f'<rect x="{x}" y="{y}" width="{width}" height="{BAR}" rx="2" fill="{fill}" stroke="white" stroke-width="0.5">'
                f"<title>{escape(_in_words(batch))}</title></rect>"
            )
            if width > 24:
                yield f'<text x="{x + 3}" y="{y + BAR - 5}" fill="white" font-size="11">x{batch.rows}</text>'

    def _waiting(self, points: Sequence[tuple[int, int]], y: int) -> Iterator[str]:
        most = max((level for _, level in points), default=0)
        yield f'<text x="14" y="{y + BAR - 4}" fill="#555">waiting, at most {most}</text>'
        if not most:
            return
        steps = [f"M {self._x(points[0][0])} {y + BAR}"]
        for time_ns, level in points:
            steps.append(f"H {self._x(time_ns)} V {round(y + BAR - BAR * level / most, 2)}")
        yield f'<path d="{" ".join(steps)} V {y + BAR} Z" fill="#ccc" stroke="#999" stroke-width="0.5"/>'


def _in_words(batch: TracedBatch) -> str:
    longest = max(batch.started_ns - request.arrived_ns for request in batch.requests)
    text = (
        f"batch {batch.batch}: {batch.rows} rows of {len(batch.requests)} requests, closed: {batch.closed}; waited at most "
        f"{longest / 1e6:.3f} ms; input {batch.input_ns / 1e6:.3f}, infer {batch.infer_ns / 1e6:.3f}, "
        f"output {batch.output_ns / 1e6:.3f} ms"
    )
    return f"{text}; failed: {batch.error}" if batch.error else text
