# SPDX-License-Identifier: Apache-2.0
"""A report as Markdown, with its plots in files beside it. Whatever comes from a run is text, and never markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from .attention import NOTHING
from .comparison import COMPARISON_NOTE
from .contents import Contents
from .explained import MEANINGS, STEPS
from .tables import Cell, Table

_MEANINGFUL = re.compile(r"([\\`*_\[\]#|~$])")


def markdown(contents: Contents, files: Mapping[str, str]) -> str:
    """`files`: where the drawing of each plot is, relative to the page, by the plot's name."""
    return "\n".join(_lines(contents, files)) + "\n"


def plain(text: str) -> str:
    """The text with nothing in it that Markdown, or the HTML within it, would take for its own."""
    escaped = _MEANINGFUL.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(contents: Contents, files: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {plain(contents.title)}", "", plain(contents.lead), "")
    yield from ([f"- **{plain(each)}**" for each in contents.warnings] or [NOTHING])
    yield from _table(contents.summary)
    yield from _table(contents.configuration)
    yield from ("", "## Plots")
    for plot in contents.plots:
        yield from ("", f"### {plain(plot.title)}", "", f"![{plain(plot.title)}]({quote(files[plot.name])})")
        if plot.note:
            yield from ("", plain(plot.note))
    if contents.comparison:
        yield from ("", "## Side by side", "", COMPARISON_NOTE)
        for table in contents.comparison:
            yield from _table(table, level=3)
    for run in contents.runs:
        yield from ("", f"## {plain(run.label)}", "", *_fenced(run.command))
        yield from _table(run.results, level=3)
        yield from _table(run.certainty, level=3)
    yield from _table(contents.circumstances)
    yield from ("", "## What the columns mean", "", "The eight steps of a request, and where the time of each is:", "")
    yield from (f"{place}. {step.name}: {step.happens} ({step.columns})" for place, step in enumerate(STEPS, 1))
    yield ""
    yield from (f"- **{plain(name)}**: {plain(meaning)}" for name, meaning in MEANINGS)


def _table(table: Table, level: int = 2) -> Iterator[str]:
    yield from ("", f"{'#' * level} {plain(table.title)}", "")
    sides = ["---:" if table.is_of_numbers(column) else "---" for column in range(len(table.heads))]
    yield _row([plain(head) for head in table.heads])
    yield _row(sides)
    for row in table.rows:
        yield _row([_text(cell) for cell in row])
    if table.note:
        yield from ("", table.note)


def _text(cell: Cell) -> str:
    return f"**{plain(cell.text)}**" if cell.marking in ("unstable", "failed") else plain(cell.text)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _fenced(text: str) -> list[str]:
    """A block that no run of backticks in the text ends."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]
