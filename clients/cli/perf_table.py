# SPDX-License-Identifier: Apache-2.0
"""The table of `penstock perf` on a screen: a line for each row, or, where that is too narrow, a column for each."""

from __future__ import annotations

import click

from ..perf.run_file import Run
from ..perf.run_tables import columns_of
from .rendering import console, print_table

DECIMALS = 3
WIDE_ENOUGH = 200
"""Characters in which every title and every usual figure finds room."""


def print_run(run: Run) -> None:
    """On standard output."""
    measured, columns = run.measured, columns_of(run)
    titles = [column.title for column in columns]
    lines = [[column.cell(row, DECIMALS) for column in columns] for row in run.rows]
    click.echo(f"{measured.model}/{measured.version} over {measured.address}, shared memory {measured.shared_memory}")
    if console().width >= WIDE_ENOUGH:
        print_table("", [title.replace(" ", "\n") for title in titles], lines, right_from=0)
    else:
        first, *others = zip(titles, *lines, strict=True)
        print_table("", first, others)
