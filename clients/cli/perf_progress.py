# SPDX-License-Identifier: Apache-2.0
"""How far a measurement is, on standard error: a line for each window, or, on a terminal, a picture that is drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..perf.figures import place_of
from ..perf.plan import Plan
from ..perf.run_file import RowRecord

SHOWN_ROWS = 12
"""Of those that are measured: a screen has no room for all of a long run."""

PREPARING = "preparing"


class Course:
    """Which row is being measured, its windows so far, and how long the rest can take at most. Pure."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.rows = 0  # that are measured
        self.windows = 0  # of the row that is being measured

    def __repr__(self) -> str:
        return f"<Course {self.text()}, window {self.windows}>"

    def check_invariants(self) -> None:
        """A search may need fewer rows or more than there are points; all others have one for each."""
        assert self.rows >= 0 and self.windows >= 0, self
        assert self._plan.search == "binary" or self.rows <= len(self._plan.points), self

    def window(self) -> None:
        """One more was measured."""
        self.windows = min(self.windows + 1, self._plan.windows.max_trials)

    def row(self) -> None:
        """All windows of a row were."""
        self.rows, self.windows = self.rows + 1, 0

    def text(self) -> str:
        """`row 2 of 7, at most 52 s left`; how many a search will need, and how long so many requests take, is not known."""
        row, points, asked = f"row {self.rows + 1}", len(self._plan.points), self._plan.windows
        if self._plan.search == "binary":
            return row
        if self.rows == points:
            return "all rows are measured"
        if asked.request_count:
            return f"{row} of {points}"
        left = (points - self.rows) * asked.max_trials - self.windows
        return f"{row} of {points}, at most {left * asked.interval_ms / 1000:.0f} s left"


class Lines:
    """Into a file or a pipe: a line for each window."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __repr__(self) -> str:
        return f"<Lines: {self._course.text()}>"

    def check_invariants(self) -> None:
        """Of what it says."""
        self._course.check_invariants()

    def say(self, text: str) -> None:
        """A window is measured, and this is what came out."""
        self._course.window()
        click.echo(f"{text} ({self._course.text()})", err=True)

    def note(self, text: str) -> None:
        """Something that a reader must know of a row."""
        click.echo(f"penstock: {text}", err=True)

    def add(self, _row: RowRecord) -> None:
        """A row is measured."""
        self._course.row()


class Picture:
    """On a terminal: the rows so far and the last window, drawn anew with each. Gone when `live` is stopped."""

    def __init__(self, course: Course, live: Live) -> None:
        self._course = course
        self._live = live
        #: those that are measured, as they are shown
        self._rows: list[tuple[str, ...]] = []
        self._last = PREPARING

    def __repr__(self) -> str:
        return f"<Picture: {self._course.text()}, {self._last}>"

    def check_invariants(self) -> None:
        """As many rows are there as are measured."""
        assert len(self._rows) == self._course.rows, self
        self._course.check_invariants()

    def say(self, text: str) -> None:
        """A window is measured, and this is what came out."""
        self._course.window()
        self._last = text
        self._live.update(self.drawn(), refresh=True)

    def note(self, text: str) -> None:
        """Something that a reader must know of a row. It stays on the screen, above the picture."""
        self._live.console.print(f"penstock: {text}", markup=False)

    def add(self, row: RowRecord) -> None:
        """A row is measured."""
        self._course.row()
        figures = (row.inferences_per_s, row.avg_latency_ms, row.p99_latency_ms)
        self._last = PREPARING
        self._rows.append((place_of(row), *(f"{figure:.3f}" for figure in figures)))
        self._live.update(self.drawn(), refresh=True)

    def drawn(self) -> Group:
        """As it is now."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for position, title in enumerate(("Row", "Inferences/Second", "avg latency (ms)", "p99 latency (ms)")):
            table.add_column(title, justify="right" if position else "left", no_wrap=True)
        for cells in self._rows[-SHOWN_ROWS:]:
            table.add_row(*cells)
        status = Text(f"{self._course.text()}: {self._last}", no_wrap=True, overflow="ellipsis")
        return Group(table, status) if self._rows else Group(status)


@contextmanager
def shown(plan: Plan) -> Iterator[Lines | Picture]:
    """Until the block ends."""
    console, course = Console(stderr=True, highlight=False), Course(plan)
    if not console.is_terminal:
        yield Lines(course)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        picture = Picture(course, live)
        live.update(picture.drawn(), refresh=True)
        yield picture
