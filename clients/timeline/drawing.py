# SPDX-License-Identifier: Apache-2.0
"""A trace in a terminal: time to the right, a lane per instance, a digit for how many wait. Pure: records in, lines out.

batches alternate between two fills, so that neighbours can be told apart; the first columns of one say how many rows it has
`waiting` says how many requests waited at most in that column; blank: none; +: ten or more
"""

from __future__ import annotations

from collections.abc import Sequence

from .lanes import Lane, model_lanes
from .records import Trace

FILLS = "█▓"
IDLE = "·"
PLAIN = str.maketrans(FILLS + IDLE, "#=.")
"""For `str.translate`: the lines for a terminal that has ASCII only."""
NARROWEST = 16
"""Columns that time is drawn in, however long names are; its axis needs as many."""
MOST_REQUESTS = 64
"""Requests drawn one by one; a longer trace shows its first ones."""


def draw(trace: Trace, columns: int, *, with_requests: bool = False) -> list[str]:
    """Lines no wider than `columns`, which are at least 40. Names that leave too little room for time lose their beginning."""
    if not (trace.batches or trace.early):
        return ["nothing was executed, and nothing waited"]
    models = model_lanes(trace)
    names = [lane.instance for model in models for lane in model.lanes] + ["waiting", *(model.label for model in models)]
    if with_requests:
        names += [f"{request.request} in {batch.batch}" for batch in trace.batches for request in batch.requests]
    margin = min(max(map(len, names)) + 3, columns - NARROWEST)
    scale = Scale(trace.begin_ns, trace.end_ns, columns - margin)
    lines = [" " * margin + scale.axis()]
    for model in models:
        lines.append(_shortened(model.label, columns))
        lines += [f"  {_shortened(lane.instance, margin - 3).ljust(margin - 2)}{_lane(lane, scale)}" for lane in model.lanes]
        lines.append(f"  {'waiting'.ljust(margin - 2)}{_waiting(model.waiting, scale)}".rstrip())
    if with_requests:
        lines += ["requests", *_requests(trace, scale, margin)]
    return lines


class Scale:
    """Which column a moment falls into."""

    def __init__(self, begin_ns: int, end_ns: int, columns: int) -> None:
        self.begin_ns = begin_ns
        self.columns = columns
        self._ns = max(end_ns - begin_ns, 1)

    def column(self, time_ns: int) -> int:
        """0 to columns - 1; what lies outside falls into the first or the last."""
        return min(max((time_ns - self.begin_ns) * self.columns // self._ns, 0), self.columns - 1)

    def axis(self) -> str:
        """Milliseconds since the first arrival, at the left, in the middle and at the right."""
        half, whole = (f"{ns / 1e6:.4g}" for ns in (self._ns / 2, self._ns))
        left = "0".ljust(self.columns // 2) + half
        room = self.columns - len(whole) - 3
        return (left if len(left) < room else "0").ljust(room) + f"{whole} ms"


def _shortened(name: str, columns: int) -> str:
    """The name, or its end: that is where instances differ."""
    return name if len(name) <= columns else f"..{name[len(name) - columns + 2 :]}"


def _lane(lane: Lane, scale: Scale) -> str:
    cells = [IDLE] * scale.columns
    for position, batch in enumerate(lane.batches):
        first, last = scale.column(batch.started_ns), scale.column(batch.computed_ns)
        cells[first : last + 1] = FILLS[position % 2] * (last - first + 1)
        text = f"x{batch.rows}" if not batch.error else "!"
        if len(text) < last - first:
            cells[first : first + len(text)] = text
    return "".join(cells)


def _waiting(points: Sequence[tuple[int, int]], scale: Scale) -> str:
    most = [0] * scale.columns
    for (time_ns, level), (until_ns, _) in zip(points, [*points[1:], (scale.begin_ns, 0)], strict=True):
        if level:
            for column in range(scale.column(time_ns), max(scale.column(until_ns), scale.column(time_ns)) + 1):
                most[column] = max(most[column], level)
    return "".join(" " if level == 0 else str(level) if level < 10 else "+" for level in most)


def _requests(trace: Trace, scale: Scale, margin: int) -> list[str]:
    """Dots while a request waits, then its batch; an X where it ended without one."""
    drawn: list[tuple[int, str]] = []
    for batch in trace.batches:
        for request in batch.requests:
            arrived, started, ended = map(scale.column, (request.arrived_ns, batch.started_ns, batch.computed_ns))
            bar = " " * arrived + IDLE * (started - arrived) + FILLS[0] * (ended - started + 1)
            text = f"{request.request} in {batch.batch}"[: margin - 3]
            drawn.append((request.arrived_ns, f"  {text.ljust(margin - 2)}{bar}"))
    for early in trace.early:
        arrived, ended = scale.column(early.arrived_ns), scale.column(early.ended_ns)
        bar = " " * arrived + IDLE * (ended - arrived) + "X"
        drawn.append((early.arrived_ns, f"  {f'{early.request} {early.code}'[: margin - 3].ljust(margin - 2)}{bar}"))
    lines = [line for _, line in sorted(drawn)]
    rest = len(lines) - MOST_REQUESTS
    return lines if rest <= 0 else [*lines[:MOST_REQUESTS], f"  and {rest} more"]
