# SPDX-License-Identifier: Apache-2.0
"""A run as tables: CSV, and Markdown as NVIDIA's pages on its models have it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .figures import COLUMNS, Row, document, place_of
from .run_file import RowRecord, Run
from .search import excess_of


class Shown(NamedTuple):
    """A column of a run's table: `key` is the field of a RowRecord."""

    title: str
    key: str
    decimals: int

    def cell(self, row: RowRecord, most_decimals: int = 6) -> str:
        """With at most so many decimals, and no negative zero."""
        text = f"{getattr(row, self.key):.{min(self.decimals, most_decimals)}f}"
        return text if float(text) else text.removeprefix("-")


REQUEST_RATE = Shown("Request Rate", "request_rate", 2)
_FIGURES = tuple(Shown(column.title, column.key, column.decimals) for column in COLUMNS)


def record_of(row: Row) -> RowRecord:
    """A row as it is kept."""
    return RowRecord(
        **document(row), request_rate=row.request_rate, inferences_per_s_low=round(row.inferences_per_s_low, 2),
        inferences_per_s_high=round(row.inferences_per_s_high, 2), failed=row.failed,
        client_cpu_percent=round(row.client_cpu_percent, 1), notes=row.notes,
    )  # fmt: skip


def most_within(rows: Sequence[RowRecord], threshold_ms: float) -> list[str]:
    """What a search has found: the most load of each batch size that was within the threshold."""
    found = []
    for batch in dict.fromkeys(row.batch for row in rows):
        within = [
            row
            for row in rows
            if row.batch == batch and not excess_of(row.p95_latency_ms, row.requests, row.failed, threshold_ms)
        ]
        if within:
            best = max(within, key=lambda row: row.request_rate or row.concurrency)
            found.append(f"the most load with a p95 latency within {threshold_ms:g} ms: {place_of(best)}")
        else:
            found.append(f"no load that was measured has a p95 latency within {threshold_ms:g} ms: batch {batch}")
    return found


def columns_of(run: Run) -> tuple[Shown, ...]:
    """In the order of Triton's perf_analyzer, with what is left over at the end; of an open loop also the rate asked for."""
    return _FIGURES if run.load == "closed loop" else (_FIGURES[0], REQUEST_RATE, *_FIGURES[1:])


def csv_text(run: Run) -> str:
    """The columns' titles, and a line for each row."""
    columns, text = columns_of(run), io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([column.title for column in columns])
    lines.writerows([column.cell(row) for column in columns] for row in run.rows)
    return text.getvalue()


def markdown_text(run: Run) -> str:
    """A page: the configuration, the results, how they came about, what a reader must know of them, the machine."""
    return "\n".join(_markdown(run))


def _markdown(run: Run) -> Iterator[str]:
    measured, machine, columns = run.measured, run.machine, columns_of(run)
    yield f"# {_plain(run.title)}"
    yield ""
    yield (
        f"{measured.model}/{measured.version} of {measured.server}, {run.evaluation_mode}, {run.load}, over {measured.link}, "
        f"shared memory {measured.shared_memory}, input data {_plain(measured.input_data)}; measured {run.began} "
        f"in {run.seconds:.0f} s."
    )
    if not run.complete:
        yield "\nThe run is not complete: these rows were measured before it ended."
    yield "\n## Configuration\n"
    yield from _table(("Parameter Name", "Parameter Value"), run.configuration.items(), right_from=2)
    yield "\n## Results\n"
    yield from _table([column.title for column in columns], ([each.cell(row, 3) for each in columns] for row in run.rows))
    yield "\n## How they came about\n"
    titles = ("Row", "Inferences/Second, 95 % confidence", "Requests", "Failed", "Windows", "Stable", "Client CPU")
    yield from _table(titles, map(_origin, run.rows), right_from=1)
    notes = [*run.notes, *(f"{place_of(row)}: {note}" for row in run.rows for note in row.notes)]
    if notes:
        yield "\n## Notes\n"
        yield from (f"- {_plain(note)}" for note in notes)
    yield "\n## Machine\n"
    about = {
        "Processor": machine.processor, "Cores": str(machine.cores), "Memory": f"{machine.memory_gib:g} GiB",
        "GPUs": ", ".join(machine.gpus) or "-", "Kernel": machine.kernel, "Python": machine.python, **run.packages,
    }  # fmt: skip
    yield from _table(("", ""), about.items(), right_from=2)
    yield f"\n```\n{run.command}\n```\n"


def _origin(row: RowRecord) -> tuple[str, ...]:
    return (
        place_of(row), f"{row.inferences_per_s_low:.2f} to {row.inferences_per_s_high:.2f}", str(row.requests),
        str(row.failed), str(row.windows), "yes" if row.stable else "no", f"{row.client_cpu_percent:.0f} %",
    )  # fmt: skip


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], right_from: int = 0) -> Iterator[str]:
    """Columns from `right_from` on are aligned right, as numbers are."""
    yield f"| {' | '.join(titles)} |"
    yield f"|{'|'.join('---:' if position >= right_from else ':---' for position in range(len(titles)))}|"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"


def _plain(text: str) -> str:
    """The text on one line, with nothing in it that ends a cell or that Markdown takes for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
