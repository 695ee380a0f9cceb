# SPDX-License-Identifier: Apache-2.0
"""The tables of a report, as text in cells: what a page of HTML and one of Markdown show in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ..perf.figures import COLUMNS
from ..perf.run_file import Measured, RowRecord, Run
from .levels import number, place_of
from .reading import NumberedRun, in_a_line

MS_DECIMALS = 3
UNKNOWN = "-"

CONFIGURATION = (
    "Hardware", "Backend", "Backend accelerator", "Precision", "Model format", "Max batch size", "Number of model instances",
    "Export format", "NVIDIA TensorRT Capture CUDA Graph", "Device kind", "Torch jit",
)  # fmt: skip
"""The rows of the table, in the order of NVIDIA's model pages; what else a run names comes after them."""

Marking = Literal["", "unstable", "failed", "number", "better", "worse", "unclear"]

NUMBERS: frozenset[Marking] = frozenset({"number", "better", "worse", "unclear"})


class Cell(NamedTuple):
    """`marking` is how it stands out; what it means is in the text as well."""

    text: str
    marking: Marking = ""


class Table(NamedTuple):
    """`heads` are the first line; of each row the first `leading` cells say which row it is."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    leading: int = 1
    note: str = ""

    def is_of_numbers(self, column: int) -> bool:
        """Whether the column is aligned right."""
        return any(row[column].marking in NUMBERS for row in self.rows)


def configuration_table(runs: Sequence[NumberedRun]) -> Table:
    """A column for each run. CUDA graphs are left out where no run has anything to say of them."""
    keys = [key for key in CONFIGURATION if "Graph" not in key or any(key in each.run.configuration for each in runs)]
    keys += dict.fromkeys(key for each in runs for key in each.run.configuration if key not in CONFIGURATION)
    return _by_run("Configuration", runs, [(key, _of_configuration(key)) for key in keys])


def _of_configuration(key: str) -> Callable[[Run], str]:
    return lambda run: run.configuration.get(key, "") or UNKNOWN


def circumstances_table(runs: Sequence[NumberedRun]) -> Table:
    """Machine, versions, date and what was measured, so that a run can be repeated."""
    asked: list[tuple[str, Callable[[Run], str]]] = [
        ("Began (UTC)", lambda run: run.began),
        ("Lasted", lambda run: f"{run.seconds:,.1f} s"),
        ("Complete", lambda run: "yes" if run.complete else "no"),
        ("Evaluation mode", lambda run: f"{run.evaluation_mode}, {load_of(run)}"),
    ]
    asked += [(_in_words(field), _of_measured(field)) for field in Measured.__struct_fields__]
    asked += [
        ("Processor", lambda run: run.machine.processor),
        ("Cores", lambda run: str(run.machine.cores)),
        ("Memory", lambda run: f"{run.machine.memory_gib:,.1f} GiB"),
        ("GPUs", lambda run: ", ".join(run.machine.gpus) or "none"),
        ("Kernel", lambda run: run.machine.kernel),
        ("Python", lambda run: run.machine.python),
    ]
    packages = dict.fromkeys(name for each in runs for name in sorted(each.run.packages))
    asked += [(name, _of_packages(name)) for name in packages]
    return _by_run("Machine, versions and what was measured", runs, asked)


def _in_words(field: str) -> str:
    return "Client processes" if field == "processes" else field.replace("_", " ").capitalize()


def _of_measured(field: str) -> Callable[[Run], str]:
    return lambda run: str(getattr(run.measured, field)) or UNKNOWN


def _of_packages(name: str) -> Callable[[Run], str]:
    return lambda run: run.packages.get(name, UNKNOWN)


LOADS = {"poisson": "Poisson arrivals", "constant": "constant rate"}


def load_of(run: Run) -> str:
    """How requests came, in words."""
    return "closed loop" if run.load == "closed loop" else f"open loop, {LOADS[run.load]}"


def _by_run(title: str, runs: Sequence[NumberedRun], asked: Sequence[tuple[str, Callable[[Run], str]]]) -> Table:
    rows = []
    for name, value in asked:
        texts = [in_a_line(value(each.run)) for each in runs]
        same = len(set(texts)) == 1
        rows.append((Cell(in_a_line(name) if same else f"{in_a_line(name)} ≠"), *map(Cell, texts)))
    heads = ("Parameter", *(each.label for each in runs)) if len(runs) > 1 else ("Parameter", "Value")
    return Table(title, heads, tuple(rows), note="≠ marks what differs between the runs." if len(runs) > 1 else "")


def results_table(run: Run) -> Table:
    """The columns as `penstock perf` spells them. Of an open loop the rate that was asked for comes first."""
    heads, places = _places(run)
    columns = [column for column in COLUMNS if column.key not in ("batch", "concurrency")]
    rows = tuple(
        (*place, *(Cell(figure(float(getattr(row, column.key)), column.decimals), "number") for column in columns))
        for row, place in zip(run.rows, places, strict=True)
    )
    return Table("Results", (*heads, *(column.title for column in columns)), rows, leading=len(heads))


def certainty_table(run: Run) -> Table:
    """How far each row is to be believed."""
    heads, places = _places(run)
    heads += (
        "Inferences/Second, 95 % low", "Inferences/Second, 95 % high", "Requests", "Failed", "Windows", "Stable",
        "Client CPU (%)", "Notes",
    )  # fmt: skip
    rows = tuple(
        (
            *place,
            Cell(figure(row.inferences_per_s_low, 2), "number"), Cell(figure(row.inferences_per_s_high, 2), "number"),
            Cell(f"{row.requests:,}", "number"), Cell(f"{row.failed:,}", "failed" if row.failed else "number"),
            Cell(str(row.windows), "number"), Cell("yes") if row.stable else Cell("no", "unstable"),
            Cell(figure(row.client_cpu_percent, 1), "number"), Cell("; ".join(map(in_a_line, row.notes))),
        )
        for row, place in zip(run.rows, places, strict=True)
    )  # fmt: skip
    return Table("How sure these figures are", heads, rows, leading=len(places[0]) if places else 0)


def _places(run: Run) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """What each row was measured at, the first cell with its signs; a run with open loops says the rate asked for, too."""
    has_rate = any(row.request_rate is not None for row in run.rows)
    rows = []
    for row in run.rows:
        rate = UNKNOWN if row.request_rate is None else number(row.request_rate)
        texts = [f"{row.batch:,}", *([rate] if has_rate else []), f"{row.concurrency:,}"]
        first = Cell(texts[0] + signs_of(row), marking_of(row) or "number")
        rows.append((first, *(Cell(text, "number") for text in texts[1:])))
    return ("Batch", *(["Request Rate"] if has_rate else []), "Concurrency"), rows


def figure(value: float, decimals: int) -> str:
    """A figure with its thousands told apart; times of a request to the microsecond."""
    text = f"{value:,.{min(decimals, MS_DECIMALS)}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text


def signs_of(row: RowRecord) -> str:
    """Behind what names the row: a dagger where it is not stable, a double one where requests failed, an asterisk for notes."""
    return ("†" if not row.stable else "") + ("‡" if row.failed else "") + ("*" if row.notes else "")


def marking_of(row: RowRecord) -> Marking:
    """The worse of the two."""
    return "failed" if row.failed else "unstable" if not row.stable else ""


def summary_table(runs: Sequence[NumberedRun]) -> Table:
    """A line for each run, with its best two rows and their p99 latency: throughput says nothing without it."""
    heads = (
        "Run", "Model", "Link", "Evaluation mode", "Rows", "Highest Inferences/Second", "p99 latency (ms)", "at",
        "Lowest avg latency (ms)", "p99 latency (ms)", "at",
    )  # fmt: skip
    return Table("Summary", heads, tuple(map(_summary, runs)))


def _tail(row: RowRecord) -> tuple[Cell, Cell]:
    """What the best figure of a row is bought with, and where it is."""
    return Cell(figure(row.p99_latency_ms, MS_DECIMALS), "number"), Cell(f"{place_of(row)}{signs_of(row)}")


def _summary(numbered: NumberedRun) -> tuple[Cell, ...]:
    run = numbered.run
    words = (numbered.label, run.measured.model, run.measured.link, f"{run.evaluation_mode}, {load_of(run)}")
    first = (*(Cell(in_a_line(word)) for word in words), Cell(str(len(run.rows)), "number"))
    if not run.rows:
        return (*first, *([Cell(UNKNOWN)] * 6))
    fastest = max(run.rows, key=lambda row: row.inferences_per_s)
    quickest = min(run.rows, key=lambda row: row.avg_latency_ms)
    return (
        *first,
        Cell(figure(fastest.inferences_per_s, 2), "number"), *_tail(fastest),
        Cell(figure(quickest.avg_latency_ms, MS_DECIMALS), "number"), *_tail(quickest),
    )  # fmt: skip
