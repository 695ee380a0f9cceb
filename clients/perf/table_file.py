# SPDX-License-Identifier: Apache-2.0
"""The table as a CSV file, a line as soon as a row is measured: what was measured stays when the rest is interrupted."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .figures import COLUMNS, Row, cells


@contextmanager
def table_file(path: Path) -> Iterator[Callable[[Row], None]]:
    """A file made anew, with its header; what it gives adds a row. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")

        def add(cells_: list[str]) -> None:
            lines.writerow(cells_)
            file.flush()

        add([column.title for column in COLUMNS])
        yield lambda row: add(cells(row))
