# SPDX-License-Identifier: Apache-2.0
"""A report as it lies in a folder: report.html, and report.md with its plots in report/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..perf.run_file import replace_text
from .contents import contents_of
from .drawing import draw
from .markdown import markdown
from .page import page
from .reading import NumberedRun

NAME = "report"


def write_report(runs: Sequence[NumberedRun], folder: Path, title: str = "") -> tuple[Path, Path]:
    """The two pages' paths. Files of the same names are replaced, each at once. Raises OSError and CallerError."""
    contents = contents_of(runs, title)
    drawings = {plot.name: draw(plot) for plot in contents.plots}
    plots = folder / NAME
    plots.mkdir(parents=True, exist_ok=True)
    for name, svg in drawings.items():
        replace_text(plots / f"{name}.svg", svg)
    pages = folder / f"{NAME}.html", folder / f"{NAME}.md"
    replace_text(pages[0], page(contents, drawings))
    replace_text(pages[1], markdown(contents, {name: f"{NAME}/{name}.svg" for name in drawings}))
    return pages
