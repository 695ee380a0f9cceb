# SPDX-License-Identifier: Apache-2.0
"""How far a measurement is: which row of how many, and how long the rest can take at most."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from penstock.clients.cli.perf_progress import Course, Lines, Picture
from penstock.clients.perf.plan import Plan, Point, Windows
from penstock.clients.perf.run_file import RowRecord

POINTS = (Point(1, 1), Point(2, 1), Point(4, 1))
WINDOWS = Windows(interval_ms=500, max_trials=4)


def course(**about: Any) -> Course:
    fields: dict[str, Any] = {"points": POINTS, "memory": "memfd", "windows": WINDOWS}
    return Course(Plan(**(fields | about)))


def record(batch: int, *notes: str) -> RowRecord:
    figures = {
        name: 1.5 for name in RowRecord.__struct_fields__ if name.endswith("_ms") or name.startswith(("inferences", "client_cpu"))
    }  # fmt: skip
    return RowRecord(batch=batch, concurrency=1, requests=3, windows=3, stable=True, notes=notes, **figures)


def test_every_row_takes_all_its_windows_at_most() -> None:
    # Given three rows of four windows of half a second at most
    found = course()
    assert found.text() == "row 1 of 3, at most 6 s left"
    # When two windows are measured, then two are left of this row
    found.window()
    found.window()
    assert found.text() == "row 1 of 3, at most 5 s left"
    # When they agree, then the row takes no more
    found.row()
    assert found.text() == "row 2 of 3, at most 4 s left"
    # When all rows are measured, then there is no row that is being measured
    found.row()
    found.row()
    assert found.text() == "all rows are measured"
    found.check_invariants()


def test_how_long_so_many_requests_take_is_not_known() -> None:
    assert course(windows=Windows(request_count=5)).text() == "row 1 of 3"


def test_how_many_rows_a_search_takes_is_not_known() -> None:
    assert course(search="binary", latency_threshold_ms=1.0).text() == "row 1"


def test_into_a_pipe_it_is_a_line_per_window_and_per_note(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(course())
    lines.say("batch 1, concurrency 1, window 1: fast")
    lines.note("batch 1, concurrency 1: a note")
    lines.add(record(1))
    lines.check_invariants()
    assert capsys.readouterr().err.splitlines() == [
        "batch 1, concurrency 1, window 1: fast (row 1 of 3, at most 6 s left)", "penstock: batch 1, concurrency 1: a note",
    ]  # fmt: skip


def test_on_a_terminal_it_is_the_rows_so_far_and_the_last_window() -> None:
    # Given a terminal
    screen = io.StringIO()
    console = Console(file=screen, width=100, height=20, force_terminal=True, color_system=None)
    picture = Picture(course(), Live(console=console, auto_refresh=False))
    # When a row is measured, and a window of the next
    picture.note("batch 1, concurrency 1: a note [1]")
    picture.add(record(1))
    picture.say("batch 2, concurrency 1, window 1: fast")
    picture.check_invariants()
    # Then both are there
    with console.capture() as drawn:
        console.print(picture.drawn())
    head, row, status = drawn.get().splitlines()
    assert head.split()[:2] == ["Row", "Inferences/Second"]
    assert row.split() == ["batch", "1,", "concurrency", "1", "1.500", "1.500", "1.500"]
    assert status == "row 2 of 3, at most 4 s left: batch 2, concurrency 1, window 1: fast"
    # When that row is measured too, then its last window is not the next one's
    picture.add(record(2))
    with console.capture() as drawn:
        console.print(picture.drawn())
    assert drawn.get().splitlines()[-1] == "row 3 of 3, at most 2 s left: preparing"
    # And the note stands above the picture
    assert "a note [1]" in screen.getvalue()
