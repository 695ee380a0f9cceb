# SPDX-License-Identifier: Apache-2.0
"""Prints what run.py measured as Markdown: one line for each load, in which the better server stands; with --all every figure.

usage: table.py FILE [--all]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = {
    "Penstock, local": ("penstock", "local"), "Penstock, ZeroMQ": ("penstock", "zmq"), "Penstock, HTTP": ("penstock", "http"),
    "Penstock, gRPC": ("penstock", "grpc"), "Triton, HTTP": ("triton", "http"), "Triton, gRPC": ("triton", "grpc"),
    "mosec, HTTP": ("mosec", "http"),
}  # fmt: skip
"""Title -> server and link. A link that two tools measured shows the better of the two."""
LOAD = ("model", "batch", "concurrency")
EVEN = 1.05
"""So much faster is no faster."""
ALL_COLUMNS = (
    *LOAD, "server", "link", "tool", "inferences_per_s", "lowest", "highest", "p50_us", "p99_us", "queue_us",
    "compute_input_us", "compute_infer_us", "compute_output_us", "server_cpu_us", "client_cpu_us",
)  # fmt: skip


def side_by_side(rows: Sequence[Row]) -> str:
    """One line for each load; a link that was not measured has no column."""
    measured = {(row["server"], row["link"]) for row in rows}
    columns = {title: side for title, side in COLUMNS.items() if side in measured}
    lines = [["model", "rows x requests", *columns, "faster"]]
    for load in dict.fromkeys(tuple(row[name] for name in LOAD) for row in rows):
        of_load = [row for row in rows if tuple(row[name] for name in LOAD) == load]
        model, batch, concurrency = load
        cells = [_figures(_best(of_load, *side)) for side in columns.values()]
        lines.append([str(model), f"{batch} x {concurrency}", *cells, verdict(of_load)])
    return _table(lines)


def verdict(rows: Sequence[Row]) -> str:
    """Penstock's best link against Triton's best, whichever tool measured it, by inferences per second. "-": no such pair.

    Where Triton's best p50 or p99 is the lower one, that is said too, whoever answers more.
    """
    ours, theirs = ([row for row in rows if row["server"] == server] for server in ("penstock", "triton"))
    if not ours or not theirs:
        return "-"
    times = max(row["inferences_per_s"] for row in ours) / max(row["inferences_per_s"] for row in theirs)
    if max(times, 1 / times) < EVEN:
        said = ["even"]
    else:
        said = [f"Penstock, {_times(times)} x" if times > 1 else f"**Triton, {_times(1 / times)} x**"]
    for name in ("p50", "p99"):
        less = min(row[f"{name}_us"] for row in ours) / min(row[f"{name}_us"] for row in theirs)
        if less >= EVEN:
            said.append(f"**{name}: Triton, {_times(less)} x**")
    return "; ".join(said)


def everything(rows: Iterable[Row]) -> str:
    """A line for each load, side and tool: medians, and the lowest and the highest rate of the rounds."""
    lines = [list(ALL_COLUMNS)]
    for row in rows:
        rates = [one["inferences_per_s"] for one in row["rounds"]]
        full = {**row, "lowest": min(rates), "highest": max(rates)}
        lines.append([_cell(full.get(name, "-")) for name in ALL_COLUMNS])
    return _table(lines)


def heading(report: Row) -> str:
    """What it was measured on, with what, and what is not in it."""
    machine, versions = report["machine"], report["versions"]
    facts = [f"{name} {value}" for name, value in machine.items() if name != "packages"]
    tried = [f"{name} {number}" for name, number in versions.items()]
    idle = [f"{name} {percent} %" for name, percent in report["idle_percent_of_a_core"].items()]
    taken = f"{report['rounds']} rounds of {report['seconds']:g} s, {report['instances']} instance(s) of each model"
    parts = [
        f"{', '.join(facts)}. {', '.join(tried)}; onnxruntime {machine['packages'].get('onnxruntime', 'unknown')}.",
        f"Inferences (rows) per second and p50 latency, medians of {taken}. Idle, of a core: {', '.join(idle)}.",
    ]
    if not report["complete"]:
        parts.append("**The run was broken off**: what follows was measured before.")
    parts += [f"Left out: {why}." for why in report["left_out"]]
    return "\n\n".join(parts)


def _best(rows: Iterable[Row], server: str, link: str | None = None) -> Row | None:
    of_server = [row for row in rows if row["server"] == server and link in (None, row["link"])]
    return max(of_server, key=lambda row: float(row["inferences_per_s"]), default=None)


def _figures(row: Row | None) -> str:
    """Inferences per second, and the p50 latency of a request."""
    return "-" if row is None else f"{_rate(row['inferences_per_s'])}/s, {_ms(row['p50_us'])} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ms(us: float) -> str:
    return f"{us / 1000:.2f}" if us < 10_000 else f"{us / 1000:,.0f}"


def _times(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else str(value)


def _table(lines: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([first, "|" + "---|" * len(lines[0]), *others])


def main() -> None:
    parser = argparse.ArgumentParser(description="What run.py measured, as Markdown.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--all", action="store_true", help="every figure of every tool, too")
    options = parser.parse_args()
    report = json.loads(options.file.read_text())
    print(heading(report), side_by_side(report["rows"]), *([everything(report["rows"])] if options.all else []), sep="\n\n")


if __name__ == "__main__":
    main()
