# SPDX-License-Identifier: Apache-2.0
"""A run while it is measured: its files say at any time what is known so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from .run_file import RowRecord, Run, replace_text, run_text
from .run_tables import csv_text, markdown_text

TEXTS: dict[str, Callable[[Run], str]] = {".json": run_text, ".csv": csv_text, ".md": markdown_text}
"""What a file of that suffix has in it."""


class KeptRun:
    """Keeps a run, and writes it to every file of `paths` whenever it changes: whatever ends it, what was measured stays.

    The run is not complete until `end`. All methods raise OSError, with the name of the file in it.
    """

    def __init__(self, run: Run, paths: Sequence[Path]) -> None:
        self._run = msgspec.structs.replace(run, complete=False)
        self._paths = tuple(paths)

    def __repr__(self) -> str:
        return f"<KeptRun '{self._run.title}': {len(self._run.rows)} rows, {'' if self._run.complete else 'not '}complete>"

    def check_invariants(self) -> None:
        """Every file is of a kind that there is, and named once."""
        assert all(path.suffix in TEXTS for path in self._paths), self
        assert len(set(self._paths)) == len(self._paths), self

    @property
    def run(self) -> Run:
        """As it is now."""
        return self._run

    def begin(self) -> list[Path]:
        """Writes the files, without rows: what cannot be written is found before anything is measured.

        Returns those that were there before, and are replaced.
        """
        replaced = [path for path in self._paths if path.exists()]
        self._write()
        return replaced

    def add(self, row: RowRecord, seconds: float) -> None:
        """A row was measured, so long after the run began."""
        self._run = msgspec.structs.replace(self._run, rows=(*self._run.rows, row), seconds=round(seconds, 1))
        self._write()

    def end(self, notes: Sequence[str] = ()) -> None:
        """All was measured; `notes` are what came out."""
        self._run = msgspec.structs.replace(self._run, complete=True, notes=(*self._run.notes, *notes))
        self._write()

    def stop(self, why: str) -> None:
        """No more will be measured."""
        self._run = msgspec.structs.replace(self._run, notes=(*self._run.notes, why))
        self._write()

    def _write(self) -> None:
        for path in self._paths:
            replace_text(path, TEXTS[path.suffix](self._run))
