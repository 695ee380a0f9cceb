# SPDX-License-Identifier: Apache-2.0
"""Which plots a report has: those that its runs have the points for, with no more in each than the eye can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from ..perf.figures import COLUMNS
from ..perf.run_file import RowRecord
from .levels import Level, Place, number, place_of, spread
from .plots import Axis, Bar, Group, Line, LinePlot, Mark, Plot, StackPlot
from .reading import NumberedRun

MOST_LINES = 8
"""In one plot."""
MOST_STACKS = 3
"""Plots of stages, one for each batch size (or load) that was held while the other varied."""
MOST_TICKS = 12
LOG_FROM = 20
"""A range so many times its beginning is read on a logarithmic axis."""
PERCENTILES = ("p50", "p90", "p95", "p99")
THROUGHPUT = "Throughput (inferences/s)"
BATCH = "Batch size (inferences per request)"
LEVELS = {"concurrency": "Concurrency (requests in flight)", "rate": "Request rate (requests/s asked for)"}

STAGES = tuple(each for each in COLUMNS if each.title.startswith(("Client ", "Network+", "Server ", "Unaccounted")))
"""The columns that add up to the avg latency, in the order of time."""

Kind = Literal["batch", "concurrency", "rate"]


class _Series(NamedTuple):
    """Rows of one run that differ in `kind` alone, by its value."""

    numbered: NumberedRun
    held: str  # what they have in common, in words
    order: int  # of what they have in common, among all that are shown
    rows: tuple[RowRecord, ...]


def plots_of(runs: Sequence[NumberedRun]) -> tuple[Plot, ...]:
    """In the order of NVIDIA's model pages: throughput, then latency by batch size and by load; then percentiles."""
    kinds: list[Kind] = [kind for kind in ("batch", "concurrency", "rate") if _varies(runs, kind)]
    found: list[Plot] = [_throughput(runs, kind) for kind in kinds]
    found += [_throughput_by_latency(runs, kind) for kind in kinds]
    for kind in kinds or [_only_kind(runs)]:
        found += _stages(runs, kind)
    found += [_percentiles(runs, kind) for kind in kinds]
    return tuple(found)


def _varies(runs: Sequence[NumberedRun], kind: Kind) -> bool:
    """Whether some run has two rows that differ in it alone."""
    return any(len({_value(row, kind) for row in series.rows}) > 1 for series in _series(runs, kind))


def _only_kind(runs: Sequence[NumberedRun]) -> Kind:
    """What the bars of runs of one row each stand at."""
    return next(place_of(row).level.kind for numbered in runs for row in numbered.run.rows)


def _value(row: RowRecord, kind: Kind) -> float:
    return row.batch if kind == "batch" else place_of(row).level.value


def _held(place: Place, kind: Kind) -> tuple[str, float]:
    """What does not vary, comparable and with the same meaning in every run."""
    return ("batch", place.batch) if kind != "batch" else (place.level.kind, place.level.value)


def _in_words(held: tuple[str, float]) -> str:
    kind, value = held
    return f"batch {value:g}" if kind == "batch" else str(Level("rate" if kind == "rate" else "concurrency", value))


def _all_held(runs: Sequence[NumberedRun], kind: Kind) -> list[tuple[str, float]]:
    """What to hold: where some run then has rows that differ in `kind`, or else, where none has, wherever there is a row."""
    values: dict[tuple[str, float], set[tuple[int, float]]] = {}
    for numbered in runs:
        for row in numbered.run.rows:
            place = place_of(row)
            if kind in ("batch", place.level.kind):
                values.setdefault(_held(place, kind), set()).add((numbered.number, _value(row, kind)))
    curves = [held for held, found in values.items() if len(found) > len({number for number, _ in found})]
    return sorted(curves or values)


def _series(runs: Sequence[NumberedRun], kind: Kind, held: Iterable[tuple[str, float]] | None = None) -> Iterator[_Series]:
    for order, each in enumerate(_all_held(runs, kind) if held is None else held):
        for numbered in runs:
            rows = [row for row in numbered.run.rows if _stands(place_of(row), kind, each)]
            if rows:
                yield _Series(numbered, _in_words(each), order, tuple(sorted(rows, key=lambda row: _value(row, kind))))


def _stands(place: Place, kind: Kind, held: tuple[str, float]) -> bool:
    return kind in ("batch", place.level.kind) and _held(place, kind) == held


def _shown(runs: Sequence[NumberedRun], kind: Kind, lines_each: int = 1) -> tuple[list[_Series], str]:
    """Series for one plot, and a note on those that are left to the tables."""
    held = _all_held(runs, kind)
    chosen = spread(held, max(MOST_LINES // (lines_each * len(runs)), 2))
    return list(_series(runs, kind, chosen)), _left_out(held, chosen)


def _left_out(held: Sequence[tuple[str, float]], chosen: Sequence[tuple[str, float]]) -> str:
    rest = [_in_words(each) for each in held if each not in chosen]
    if not rest:
        return ""
    named = ", ".join(rest if len(rest) <= 6 else [*rest[:5], f"and {len(rest) - 5} more"])
    return f"Not shown here, but in the tables: {named}."


def _line(runs: Sequence[NumberedRun], series: _Series, is_alone: bool, mark: Callable[[RowRecord], Mark]) -> Line:
    """Of one run, colours tell apart what was held; of several, the runs, and styles what was held."""
    if len(runs) == 1:
        return Line(series.held, series.order, series.order, tuple(map(mark, series.rows)))
    label = series.numbered.label if is_alone else f"{series.numbered.label}, {series.held}"
    return Line(label, series.numbered.number - 1, series.order, tuple(map(mark, series.rows)))


def _throughput(runs: Sequence[NumberedRun], kind: Kind) -> LinePlot:
    series, note = _shown(runs, kind)

    def mark(row: RowRecord) -> Mark:
        return Mark(
            _value(row, kind), row.inferences_per_s, _interval(row),
            is_stable=row.stable, has_failed=row.failed > 0,
        )  # fmt: skip

    lines = tuple(_line(runs, each, _is_alone(series), mark) for each in series)
    title = f"Throughput vs {_name(kind)}{_at(runs, series)}"
    return LinePlot(f"throughput-vs-{kind}", title, _axis(series, kind), Axis(THROUGHPUT), lines, note)


def _interval(row: RowRecord) -> tuple[float, float]:
    return row.inferences_per_s_low, row.inferences_per_s_high


def _is_alone(series: Sequence[_Series]) -> bool:
    return len({each.held for each in series}) == 1


def _at(runs: Sequence[NumberedRun], series: Sequence[_Series]) -> str:
    """What all lines of a plot have in common, where none of them says it."""
    return f", at {series[0].held}" if len(runs) > 1 and _is_alone(series) else ""


def _throughput_by_latency(runs: Sequence[NumberedRun], kind: Kind) -> LinePlot:
    series, note = _shown(runs, kind)

    def mark(row: RowRecord) -> Mark:
        return Mark(
            row.avg_latency_ms, row.inferences_per_s, _interval(row),
            number(_value(row, kind)), is_stable=row.stable, has_failed=row.failed > 0,
        )  # fmt: skip

    lines = tuple(_line(runs, each, _is_alone(series), mark) for each in series)
    x = Axis("Average latency (ms)", _scale(mark.x for line in lines for mark in line.marks))
    title = f"Throughput vs latency{_at(runs, series)}, points labelled with {_name(kind)}"
    return LinePlot(f"throughput-vs-latency-by-{kind}", title, x, Axis(THROUGHPUT), lines, note)


def _percentiles(runs: Sequence[NumberedRun], kind: Kind) -> LinePlot:
    """Of one run every percentile, of several the middle and the tail; where most rows are, at the largest of such."""
    names = PERCENTILES if len(runs) == 1 else ("p50", "p99")
    every = _all_held(runs, kind)
    held = max(every, key=lambda each: (sum(len(series.rows) for series in _series(runs, kind, [each])), each))
    series = list(_series(runs, kind, [held]))
    lines = []
    for each in series:
        for style, name in enumerate(names):
            label = name if len(runs) == 1 else f"{each.numbered.label}, {name}"
            colour = style if len(runs) == 1 else each.numbered.number - 1
            lines.append(Line(label, colour, style, tuple(_percentile(row, kind, name) for row in each.rows)))
    y = Axis("Latency (ms)", _scale(mark.y for line in lines for mark in line.marks))
    title = f"Latency percentiles vs {_name(kind)}, at {_in_words(held)}"
    note = _left_out(every, [held])
    return LinePlot(f"percentiles-vs-{kind}", title, _axis(series, kind), y, tuple(lines), note)


def _percentile(row: RowRecord, kind: Kind, name: str) -> Mark:
    value = float(getattr(row, f"{name}_latency_ms"))
    return Mark(_value(row, kind), value, is_stable=row.stable, has_failed=row.failed > 0)


def _stages(runs: Sequence[NumberedRun], kind: Kind) -> Iterator[StackPlot]:
    """A plot for each of a few batch sizes (or loads); what else was measured is named."""
    held = _all_held(runs, kind)
    chosen = spread(held, MOST_STACKS)
    for each in chosen:
        series = list(_series(runs, kind, [each]))
        ticks = sorted({_value(row, kind) for one in series for row in one.rows})
        groups = []
        for tick in ticks:
            rows = [(one.numbered, row) for one in series for row in one.rows if _value(row, kind) == tick]
            groups.append(Group(number(tick), tuple(_bar(row, str(run.number) if len(runs) > 1 else "") for run, row in rows)))
        yield StackPlot(
            f"latency-vs-{kind}-at-{_in_words(each).replace(' ', '-').replace('/', '-per-').replace(',', '')}",
            f"Latency vs {_name(kind)} by stage, at {_in_words(each)}",
            BATCH if kind == "batch" else LEVELS[kind], "Average latency (ms)",
            tuple(column.title.removesuffix(" (ms)") for column in STAGES), tuple(groups),
            _left_out(held, chosen) if each == chosen[-1] else "",
        )  # fmt: skip


def _bar(row: RowRecord, label: str) -> Bar:
    parts = tuple(max(float(getattr(row, column.key)), 0.0) for column in STAGES)  # rounding leaves -1 ns over
    return Bar(label, parts, is_stable=row.stable, has_failed=row.failed > 0)


def _name(kind: Kind) -> str:
    return {"batch": "batch size", "concurrency": "concurrency", "rate": "request rate"}[kind]


def _axis(series: Sequence[_Series], kind: Kind) -> Axis:
    """Of what was asked for: batch sizes and concurrencies double, rates need not."""
    ticks = sorted({_value(row, kind) for each in series for row in each.rows})
    if kind == "batch":
        return Axis(BATCH, "log2", tuple(spread(ticks, MOST_TICKS)))
    scale = "log2" if kind == "concurrency" else _scale(ticks)
    return Axis(LEVELS[kind], scale, tuple(spread(ticks, MOST_TICKS)))


def _scale(values: Iterable[float]) -> Literal["linear", "log10"]:
    found = list(values)
    return "log10" if min(found) > 0 and max(found) >= LOG_FROM * min(found) else "linear"
