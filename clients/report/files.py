# SPDX-License-Identifier: Apache-2.0
"""A report as it lies in a folder: report.html, and report.md with its plots in report/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .contents import contents_of
from .drawing import draw
from .markdown import markdown
from .page import page
from .reading import NumberedRun

NAME = "report"


def write_report(runs: Sequence[NumberedRun], folder: Path, title: str = "") -> tuple[Path, Path]:
    """Replaces what an earlier report of this folder has left. The two pages. Raises OSError and CallerError."""
    contents = contents_of(runs, title)
    drawings = {plot.name: draw(plot) for plot in contents.plots}
    plots = folder / NAME
    plots.mkdir(parents=True, exist_ok=True)
    for name, svg in drawings.items():
        (plots / f"{name}.svg").write_text(svg, encoding="utf-8")
    pages = folder / f"{NAME}.html", folder / f"{NAME}.md"
    pages[0].write_text(page(contents, drawings), encoding="utf-8")
    pages[1].write_text(markdown(contents, {name: f"{NAME}/{name}.svg" for name in drawings}), encoding="utf-8")
    return pages
