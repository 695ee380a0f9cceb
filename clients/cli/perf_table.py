# SPDX-License-Identifier: Apache-2.0
"""The table of `penstock perf` on a screen: a line for each row, or, where that is too narrow, a column for each."""

from __future__ import annotations

import click

from ..perf.figures import COLUMNS, Row, cells
from .rendering import console, print_table

DECIMALS = 3
WIDE_ENOUGH = 200
"""Characters in which every title and every usual figure finds room."""


def print_rows(head: str, rows: list[Row]) -> None:
    """On standard output."""
    titles = [column.title for column in COLUMNS]
    lines = [cells(row, DECIMALS) for row in rows]
    click.echo(head)
    if console().width >= WIDE_ENOUGH:
        print_table("", [title.replace(" ", "\n") for title in titles], lines, right_from=0)
    else:
        first, *others = zip(titles, *lines, strict=True)
        print_table("", first, others)
