# SPDX-License-Identifier: Apache-2.0
"""Two or more runs at the same batch size and load: how far each is from the first, and whether that says anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..perf.figures import COLUMNS
from ..perf.run_file import RowRecord
from .levels import Place, number, place_of
from .reading import NumberedRun
from .tables import UNKNOWN, Cell, Marking, Table, figure, signs_of

COMPARISON_NOTE = (
    "Differences are to the first run that has the row. ≈: one of the two is not stable, or the confidence intervals of the "
    "throughputs overlap: the difference may be chance. Latencies have no interval."
)
COMPARED = ("inferences_per_s", "avg_latency_ms", "p99_latency_ms")


class Difference(NamedTuple):
    """Of a figure, against the first run that has the place."""

    percent: float
    is_better: bool
    is_clear: bool  # both rows are stable, and the confidence intervals (of throughput, latencies have none) do not overlap

    def __str__(self) -> str:
        return f"{self.percent:+.1f} %" + ("" if self.is_clear else " ≈")

    @property
    def marking(self) -> Marking:
        """Nothing is better or worse that may be chance."""
        return "unclear" if not self.is_clear or abs(self.percent) < 0.05 else "better" if self.is_better else "worse"


def difference(first: RowRecord, other: RowRecord, key: str) -> Difference | None:
    """None where the first is 0, of which there are no percents."""
    before, after = float(getattr(first, key)), float(getattr(other, key))
    if not before:
        return None
    percent = (after / before - 1) * 100
    are_stable = first.stable and other.stable
    if key != "inferences_per_s":
        return Difference(percent, after < before, are_stable)
    do_overlap = (
        first.inferences_per_s_low <= other.inferences_per_s_high and other.inferences_per_s_low <= first.inferences_per_s_high
    )
    return Difference(percent, after > before, are_stable and not do_overlap)


def comparison_tables(runs: Sequence[NumberedRun]) -> tuple[Table, ...]:
    """A table for each figure, with the places that two runs or more have; none where no two have one."""
    rows: dict[Place, dict[int, RowRecord]] = {}
    for numbered in runs:
        for row in numbered.run.rows:
            rows.setdefault(place_of(row), {}).setdefault(numbered.number, row)
    shared = {place: found for place, found in sorted(rows.items()) if len(found) > 1}
    if not shared:
        return ()
    titles = {column.key: column.title for column in COLUMNS}
    return tuple(_table(titles[key], key, runs, shared) for key in COMPARED)


def _table(title: str, key: str, runs: Sequence[NumberedRun], shared: dict[Place, dict[int, RowRecord]]) -> Table:
    heads = ["Batch", "Load"]
    for position, numbered in enumerate(runs):
        heads += [numbered.label] if not position else [numbered.label, "Difference"]
    lines = []
    for place, found in shared.items():
        cells = [Cell(number(place.batch), "number"), Cell(str(place.level))]
        first = found[min(found)]
        for position, numbered in enumerate(runs):
            row = found.get(numbered.number)
            cells.append(Cell(UNKNOWN) if row is None else Cell(_shown(row, key), "number"))
            if position:
                cells.append(_difference_cell(first, row, key))
        lines.append(tuple(cells))
    return Table(title, tuple(heads), tuple(lines), leading=2)


def _shown(row: RowRecord, key: str) -> str:
    return figure(float(getattr(row, key)), 2 if key == "inferences_per_s" else 3) + signs_of(row)


def _difference_cell(first: RowRecord, row: RowRecord | None, key: str) -> Cell:
    found = None if row is None or row is first else difference(first, row, key)
    return Cell(UNKNOWN) if found is None else Cell(str(found), found.marking)
