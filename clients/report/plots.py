# SPDX-License-Identifier: Apache-2.0
"""A plot before it is drawn: what is in it and what it means, nothing of how it looks."""

from __future__ import annotations

from typing import Literal, NamedTuple

Scale = Literal["linear", "log2", "log10"]


class Axis(NamedTuple):
    """`label` names its unit. `ticks`: the values that were measured, each with its tick; () where they are as they fall."""

    label: str
    scale: Scale = "linear"
    ticks: tuple[float, ...] = ()


class Mark(NamedTuple):
    """One row of a run. `interval`: the confidence interval of y."""

    x: float
    y: float
    interval: tuple[float, float] | None = None
    label: str = ""
    is_stable: bool = True
    has_failed: bool = False  # some of its requests did


class Line(NamedTuple):
    """Rows that differ in one thing. `colour` and `style` count from 0; what shares one, shares what it stands for."""

    label: str
    colour: int
    style: int
    marks: tuple[Mark, ...]


class LinePlot(NamedTuple):
    """Lines through marks."""

    name: str  # of its file, without a suffix; unique within a report
    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    note: str = ""  # what is not shown


class Bar(NamedTuple):
    """One row of a run: its stages, one on the other."""

    label: str
    parts: tuple[float, ...]
    is_stable: bool = True
    has_failed: bool = False


class Group(NamedTuple):
    """The bars at one tick, a run beside the other."""

    label: str
    bars: tuple[Bar, ...]


class StackPlot(NamedTuple):
    """Stacked bars. `parts` names what is stacked, from the bottom."""

    name: str
    title: str
    x_label: str
    y_label: str
    parts: tuple[str, ...]
    groups: tuple[Group, ...]
    note: str = ""


Plot = LinePlot | StackPlot
