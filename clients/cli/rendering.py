# SPDX-License-Identifier: Apache-2.0
"""How documents look: JSON for scripts, tables for people, numbers with the unit that fits them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec


def print_json(document: Any) -> None:
    """One line, UTF-8 whatever the terminal's is. A float that JSON has no word for (NaN, infinity) becomes null."""
    click.echo(msgspec.json.encode(document))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right_from: int = 1) -> None:
    """A table with a title; columns from `right_from` on are aligned right, as numbers are. Nothing when there are no rows."""
    rows = list(rows)
    if not rows:
        return
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position >= right_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(str(cell)) for cell in row))
    console().print(table)


def console() -> Any:
    """Rich's console on standard output. Into a file or a pipe it writes without colours, and wide enough to cut nothing."""
    from rich.console import Console

    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=240)


def _plain(text: str) -> str:
    """The text, with nothing in it that rich would take for markup."""
    from rich.markup import escape

    return escape(text)


def model_label(row: dict[str, Any]) -> str:
    """A row of the repository index in short, e.g. digits/1; a model that could not be read has no version."""
    return f"{row['name']}/{row['version']}" if row["version"] else str(row["name"])


def duration(ns: float | None) -> str:
    """Nanoseconds as people say them: 870 ns, 42.1 us, 3.08 ms, 1.50 s."""
    if ns is None:
        return "-"
    for limit, unit, size in ((1e3, "ns", 1.0), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return f"{ns / size:.0f} {unit}" if size == 1.0 else f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.2f} s"


def memory(byte_size: float) -> str:
    """Bytes as people say them: 640 B, 1.5 KiB, 38.0 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if byte_size < 1024:
            return f"{byte_size:.0f} {unit}" if unit == "B" else f"{byte_size:.1f} {unit}"
        byte_size /= 1024
    return f"{byte_size:.1f} GiB"


def mean(total_ns: int, count: int) -> str:
    """The mean duration, or - where nothing was counted."""
    return duration(total_ns / count) if count else "-"
