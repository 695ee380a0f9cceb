# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG, drawn by matplotlib, of which nobody else knows.

Text stays text, searchable and in the reader's own font; it is laid out in the font that comes with matplotlib, which is wider
than those. The same plot makes the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, NullLocator
except ImportError as error:
    from ...ipc.errors import CallerError, Code

    raise CallerError(
        f"a report needs matplotlib, which cannot be imported ({error}): pip install 'penstock[report]'", Code.UNSUPPORTED
    ) from error

from .label_places import Box, free_places
from .levels import number
from .palette import GRID, GROUND, INK, LINES, MUTED, STAGES
from .plots import Axis, Bar, Line, LinePlot, Mark, Plot, StackPlot

WIDTH, HEIGHT = 5.4, 3.5
"""Inches of a plot without its legend: on a telephone its text is still read, on a desk two are side by side."""
LEGEND_ROW = 0.19
POINTS = 72
"""Per inch, as SVG is drawn: what is laid out in points is where it will be."""
WIDEST = 11.0
BAR_WIDTH = 0.24
"""Inches that a bar has at least: what does not fit makes the plot wider."""
FONT = "DejaVu Sans"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"
SETTINGS: Any = {  # matplotlib knows their names, and some of its versions a type of them
    "svg.fonttype": "none", "font.family": [FONT], "font.size": 8.5, "axes.unicode_minus": False, "text.parse_math": False,
    "text.color": INK.light, "axes.labelcolor": INK.light, "axes.edgecolor": MUTED.light, "xtick.color": MUTED.light,
    "ytick.color": MUTED.light, "xtick.labelcolor": INK.light, "ytick.labelcolor": INK.light, "axes.facecolor": GROUND.light,
    "figure.facecolor": GROUND.light, "grid.color": GRID.light, "grid.linewidth": 0.8, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6, "legend.frameon": False,
    "legend.fontsize": 8.5, "legend.handlelength": 2.2, "legend.columnspacing": 1.4, "axes.axisbelow": True,
    "hatch.linewidth": 0.7,
}  # fmt: skip
MARKERS = ("o", "s", "D", "^", "v", "<", ">", "p")
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 3)), (0, (1, 3)), (0, (4, 1, 1, 1, 1, 1)),
)  # fmt: skip
HATCH = "///"
STEPS = (1, 2, 2.5, 5, 10)


def draw(plot: Plot) -> str:
    """The drawing: an element `svg`, on a light ground."""
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": plot.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the reader's own fonts have it
        figure = _lines(plot) if isinstance(plot, LinePlot) else _stacks(plot)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _finished(written.getvalue(), plot)


def _finished(svg: str, plot: Plot) -> str:
    """Without the head that only a file has, with identifiers that no other drawing on a page has, as wide as there is room."""
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' id="', f' id="{plot.name}-', svg)
    svg = re.sub(r'((?:xlink:href="|url\()#)', rf"\1{plot.name}-", svg)
    return svg.replace(f"'{FONT}'", FONTS).replace("<svg ", f'<svg role="img" aria-label="{escape(plot.title)}" ', 1)


def _figure(width: float, legend_rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, HEIGHT + LEGEND_ROW * legend_rows), layout="constrained", dpi=POINTS)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.tick_params(length=3)
    return figure, axes


# --- lines -----------------------------------------------------------------------------------------------------------------


def _lines(plot: LinePlot) -> Figure:
    columns, rows = _arranged([line.label for line in plot.lines])
    figure, axes = _figure(WIDTH, rows)
    _set_axis(axes, "x", plot.x, [mark.x for line in plot.lines for mark in line.marks])
    _set_axis(axes, "y", plot.y, [mark.y for line in plot.lines for mark in line.marks])
    for line in plot.lines:
        _draw_line(axes, line)
    if plot.y.scale == "linear":
        axes.set_ylim(bottom=0)
    if plot.x.scale == "linear" and not plot.x.ticks:
        axes.set_xlim(left=0)
    handles = [_handle(line) for line in plot.lines]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    _label_marks(figure, axes, plot)
    return figure


def _draw_line(axes: Axes, line: Line) -> None:
    colour = LINES[line.colour % len(LINES)].light
    dots: dict[str, Any] = {"marker": MARKERS[line.style % len(MARKERS)], "markersize": 5, "linestyle": "none", "color": colour}
    axes.plot(*_xy(line.marks), color=colour, linestyle=DASHES[line.style % len(DASHES)])
    sure = [mark for mark in line.marks if mark.interval is not None]
    if sure:
        reach = [[max(side, 0.0) for side in sides] for sides in zip(*map(_reach, sure), strict=True)]
        axes.errorbar(*_xy(sure), yerr=reach, color=colour, capsize=3, elinewidth=1, fmt="none")
    for is_stable, face in ((True, colour), (False, GROUND.light)):
        axes.plot(*_xy([mark for mark in line.marks if mark.is_stable is is_stable]), **dots, markerfacecolor=face)
    axes.plot(*_xy([mark for mark in line.marks if mark.has_failed]), "x", color=INK.light, markersize=9, markeredgewidth=1.4)


def _reach(mark: Mark) -> tuple[float, float]:
    low, high = mark.interval or (mark.y, mark.y)
    return mark.y - low, high - mark.y


def _xy(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    return [mark.x for mark in marks], [mark.y for mark in marks]


def _handle(line: Line) -> Line2D:
    return Line2D(
        [], [], color=LINES[line.colour % len(LINES)].light, linestyle=DASHES[line.style % len(DASHES)],
        marker=MARKERS[line.style % len(MARKERS)], markersize=5, label=line.label,
    )  # fmt: skip


def _set_axis(axes: Axes, which: Literal["x", "y"], wanted: Axis, values: Sequence[float]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(wanted.label)
    if wanted.scale != "linear":
        (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2 if wanted.scale == "log2" else 10)
        axis.set_minor_locator(NullLocator())
    if wanted.ticks:
        axis.set_ticks(wanted.ticks)
    elif wanted.scale == "log10":
        axis.set_ticks(_round_values(min(values), max(values)))
    else:
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
    if wanted.ticks or wanted.scale == "log10":
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    else:
        axis.set_major_formatter(_Even())


class _Even(Formatter):
    """Ticks with as many decimals each as the one that has most."""

    def __call__(self, value: float, _position: int | None = None) -> str:
        return number(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        decimals = max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)
        return [f"{value:,.{decimals}f}" for value in values]


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, from the last before `low` to the first behind `high`; of long ranges 1 alone."""
    decades = range(-9, 13)
    every = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    within = [value for value in every if low / 2.6 < value < high * 2.6]
    return within if len(within) <= 9 else [value for value in within if f"{value:e}".startswith("1.0")]


def _label_marks(figure: Figure, axes: Axes, plot: LinePlot) -> None:
    """Each label beside its mark where nothing else is; one that finds no room is left out."""
    marks = [mark for line in plot.lines for mark in line.marks]
    if not any(mark.label for mark in marks):
        return
    figure.draw_without_rendering()
    points = [tuple(axes.transData.transform((mark.x, mark.y))) for mark in marks]
    beside: dict[str, Any] = {"xytext": (0, 0), "textcoords": "offset points", "in_layout": False}
    texts = [axes.annotate(mark.label, (mark.x, mark.y), fontsize=7.5, color=MUTED.light, **beside) for mark in marks]
    sizes = [(box.width, box.height) for box in (text.get_window_extent() for text in texts)]
    area = axes.get_window_extent()
    for text, point, found in zip(texts, points, free_places(points, sizes, Box(*area.extents)), strict=True):
        if found is None:
            text.remove()
        else:
            text.set_position((found[0] - point[0], found[1] - point[1]))


# --- stacks ----------------------------------------------------------------------------------------------------------------


def _stacks(plot: StackPlot) -> Figure:
    bars = sum(len(group.bars) + 1 for group in plot.groups)
    width = min(max(WIDTH, 0.8 + BAR_WIDTH * bars), WIDEST)
    columns, rows = _arranged(plot.parts, width)
    figure, axes = _figure(width, rows)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    _draw_bars(axes, [place for x, group in enumerate(plot.groups) for place in _side_by_side(x, group.bars)])
    axes.set_xticks(range(len(plot.groups)), [group.label for group in plot.groups])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(plot.groups) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.yaxis.set_major_formatter(_Even())
    axes.set_ylim(0, 1.1 * max(sum(bar.parts) for group in plot.groups for bar in group.bars) or 1)
    handles = [Patch(facecolor=STAGES[part].light, label=name) for part, name in enumerate(plot.parts)]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    return figure


class _Place(NamedTuple):
    x: float
    width: float
    bar: Bar


def _side_by_side(x: float, bars: Sequence[Bar]) -> Iterator[_Place]:
    """A group takes 3/4 of its tick's place, a lone bar less."""
    width = min(0.75 / len(bars), 0.5)
    for position, bar in enumerate(bars):
        yield _Place(x + (position - (len(bars) - 1) / 2) * width, width * 0.9, bar)


def _draw_bars(axes: Axes, places: Sequence[_Place]) -> None:
    xs, widths = [place.x for place in places], [place.width for place in places]
    tops = [0.0] * len(places)
    for part, heights in enumerate(zip(*(place.bar.parts for place in places), strict=True)):
        axes.bar(xs, heights, widths, tops, color=STAGES[part].light, edgecolor=GROUND.light, linewidth=0.3)
        tops = [top + height for top, height in zip(tops, heights, strict=True)]
    for place, top in zip(places, tops, strict=True):
        if not place.bar.is_stable:
            axes.bar(place.x, top, place.width, color="none", edgecolor=GROUND.light, linewidth=0, hatch=HATCH)
        text = f"{place.bar.label}{'' if place.bar.is_stable else '†'}{'‡' if place.bar.has_failed else ''}"
        if text:
            axes.annotate(text, (place.x, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=7.5)


def _arranged(labels: Sequence[str], width: float = WIDTH) -> tuple[int, int]:
    """(columns, rows) of a legend above the plot: as many columns as the longest label leaves room for."""
    inches = 0.55 + 0.078 * max(map(len, labels))
    columns = min(max(int(width / inches), 1), len(labels))
    return columns, -(-len(labels) // columns)
