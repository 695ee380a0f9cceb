# SPDX-License-Identifier: Apache-2.0
"""The runs of a report: found in folders and files, in a fixed order, each with the number that it goes by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...ipc.errors import invalid, not_found
from ..perf.run_file import FORMAT, Run, format_of, read_run

LONGEST_LABEL = 48
"""Characters of a title in a legend."""
_FORMAT_NAME = FORMAT.rpartition(" ")[0]
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


class NumberedRun(NamedTuple):
    """`number` from 1 tells runs apart, whatever their titles are; `label` has it where there are several."""

    number: int
    label: str  # not longer than a legend has room for
    run: Run


def read_runs(paths: Sequence[Path]) -> tuple[NumberedRun, ...]:
    """Those of each path in turn, of a folder by the names of its files; a file that is met twice counts once.

    Other JSON files in a folder are passed over. Raises OSError, and CallerError for a folder without any run, a named file
    that is none, and a document that says it is one and is not.
    """
    files = dict.fromkeys(file.resolve() for path in paths for file in (_files_in(path) if path.is_dir() else (path,)))
    return numbered([read_run(file) for file in files])


def numbered(runs: Sequence[Run]) -> tuple[NumberedRun, ...]:
    """The runs in their order, each with how it is called."""
    titles = [in_a_line(run.title) for run in runs]
    short = [title if len(title) <= LONGEST_LABEL else f"{title[: LONGEST_LABEL - 1]}…" for title in titles]
    labels = short if len(runs) == 1 else [f"{number}: {title}" for number, title in enumerate(short, 1)]
    return tuple(NumberedRun(number, label, run) for number, (label, run) in enumerate(zip(labels, runs, strict=True), 1))


def _files_in(folder: Path) -> Iterator[Path]:
    found = [file for file in sorted(folder.rglob("*.json")) if file.is_file() and _is_run(file)]
    if not found:
        raise not_found(f"{folder} holds no measurement: penstock perf MODEL --result-dir {folder} writes one")
    return iter(found)


def _is_run(file: Path) -> bool:
    return format_of(file.read_bytes()).startswith(_FORMAT_NAME)


def in_a_line(text: str) -> str:
    """Text of a document as it can be shown anywhere, white space made one blank."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Without what XML has no character for, and what controls a terminal."""
    return _UNPRINTABLE.sub("\ufffd", text)


def check_rows(runs: Sequence[NumberedRun]) -> None:
    """Raises CallerError where nothing was measured at all."""
    if not any(each.run.rows for each in runs):
        titles = ", ".join(repr(each.run.title) for each in runs)
        raise invalid(f"there is nothing to report: no row was measured in {titles}")
