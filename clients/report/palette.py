# SPDX-License-Identifier: Apache-2.0
"""The colours of plots and pages, each by its role, for a light and a dark ground.

Lines and stages are told apart by eyes that see no red or no green too: they are those of Okabe and Ito ("Color Universal
Design", 2008), darker or lighter where the ground asks for it, and never the only sign.
"""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """`light` is on a light ground. No two roles share one: it is how a drawing names its roles."""

    role: str
    light: str
    dark: str


GROUND = Colour("ground", "#fffffe", "#14181d")
INK = Colour("ink", "#1c2128", "#e4e8ec")
MUTED = Colour("muted", "#57606b", "#9aa4af")
GRID = Colour("grid", "#e3e6ea", "#2c333b")

LINES = (
    Colour("line-0", "#0072b2", "#56b4e9"),
    Colour("line-1", "#d55e00", "#f08a3c"),
    Colour("line-2", "#00875f", "#2fc79a"),
    Colour("line-3", "#b8558f", "#e39bc6"),
    Colour("line-4", "#8a6d00", "#e6c14a"),
    Colour("line-5", "#3d4c9e", "#9aa8f0"),
    Colour("line-6", "#5c6670", "#b4bec8"),
    Colour("line-7", "#8c3b12", "#d3a184"),
)
"""Of runs, and, where there is one run, of what its lines stand for."""

STAGES = (
    Colour("stage-0", "#56b4e8", "#4aa5d8"),  # client send
    Colour("stage-1", "#0071b0", "#1f77b0"),  # network
    Colour("stage-2", "#e69f00", "#d9a11e"),  # queue
    Colour("stage-3", "#7fd1ae", "#6cc7a2"),  # compute input
    Colour("stage-4", "#009e73", "#0f9a73"),  # compute infer
    Colour("stage-5", "#00614a", "#0a6b53"),  # compute output
    Colour("stage-6", "#cc79a7", "#c777a4"),  # client receive
    Colour("stage-7", "#9aa0a6", "#858c94"),  # unaccounted
)
EVERY = (GROUND, INK, MUTED, GRID, *LINES, *STAGES)


def variables(is_dark: bool) -> str:
    """Every colour as a custom property of CSS."""
    return " ".join(f"--{colour.role}: {colour.dark if is_dark else colour.light};" for colour in EVERY)


def by_role(svg: str) -> str:
    """The drawing with its colours as these properties, so that a page's ground decides."""
    for colour in EVERY:
        svg = svg.replace(colour.light, f"var(--{colour.role})")
    return svg
