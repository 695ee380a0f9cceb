# SPDX-License-Identifier: Apache-2.0
"""What a report says, before it is a page: made once, shown as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..perf.machine import in_words
from .attention import warnings_of
from .choosing import plots_of
from .comparison import comparison_tables
from .plots import Plot
from .reading import NumberedRun, check_rows, in_a_line, printable
from .tables import Table, certainty_table, circumstances_table, configuration_table, results_table, summary_table


class RunSection(NamedTuple):
    """One run: how to repeat it, and every figure of it."""

    label: str
    command: str
    results: Table
    certainty: Table


class Contents(NamedTuple):
    """In the order of the page."""

    title: str
    lead: str
    warnings: tuple[str, ...]
    summary: Table
    configuration: Table
    comparison: tuple[Table, ...]
    plots: tuple[Plot, ...]
    runs: tuple[RunSection, ...]
    circumstances: Table


def contents_of(runs: Sequence[NumberedRun], title: str = "") -> Contents:
    """Raises CallerError where no run has a row."""
    check_rows(runs)
    return Contents(
        title=in_a_line(title or (runs[0].run.title if len(runs) == 1 else f"{_models(runs)}: {len(runs)} runs")),
        lead=_lead(runs),
        warnings=warnings_of(runs),
        summary=summary_table(runs),
        configuration=configuration_table(runs),
        comparison=comparison_tables(runs),
        plots=plots_of(runs),
        runs=tuple(_section(each) for each in runs),
        circumstances=circumstances_table(runs),
    )


def _models(runs: Sequence[NumberedRun]) -> str:
    return ", ".join(dict.fromkeys(each.run.measured.model for each in runs))


def _lead(runs: Sequence[NumberedRun]) -> str:
    days = sorted({in_a_line(each.run.began)[:10] for each in runs})
    servers = ", ".join(dict.fromkeys(in_a_line(each.run.measured.server) for each in runs))
    processors = ", ".join(dict.fromkeys(in_a_line(in_words(each.run.machine)) for each in runs))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Model {in_a_line(_models(runs))} on {servers}, measured {when} on {processors}."


def _section(each: NumberedRun) -> RunSection:
    return RunSection(each.label, printable(each.run.command), results_table(each.run), certainty_table(each.run))
