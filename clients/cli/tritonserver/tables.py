# SPDX-License-Identifier: Apache-2.0
"""Tables in a log, as Triton draws them. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def drawn(rows: Sequence[Sequence[str]]) -> str:
    """A frame around rows, the first of which names the columns. A cell may have several lines."""
    widths = [max(len(line) for row in rows for line in row[column].split("\n")) for column in range(len(rows[0]))]
    frame = f"+{'+'.join('-' * (width + 2) for width in widths)}+\n"
    return frame + "".join(_lines(rows[0], widths)) + frame + "".join(_lines_of(rows[1:], widths)) + frame


def _lines_of(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    return [line for row in rows for line in _lines(row, widths)]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [cell.split("\n") for cell in row]
    height = max(map(len, cells))
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    return [
        f"|{'|'.join(f' {line:{width}} ' for line, width in zip(lines, widths, strict=True))}|\n"
        for lines in zip(*padded, strict=True)
    ]
