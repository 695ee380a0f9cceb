# SPDX-License-Identifier: Apache-2.0
"""The figures as Markdown tables, and each goal with what was measured beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

REHEARSAL = "REHEARSAL ON A SIMULATION: these numbers say nothing"

LATENCY_COLUMNS = (
    "model", "busy_wait", "memory", "batch", "p50_us", "p99_us", "infer_us", "beyond_infer_us", "raw_mode", "raw_us",
    "beyond_raw_us",
)  # fmt: skip
THROUGHPUT_COLUMNS = ("how", "instances", "mps", "batches_per_s", "raw_batches_per_s", "percent_of_raw", "times_one")

ONE_ROW_MS, ONE_ROW_BUSY_MS, MANY_ROWS_MS, ON_DEVICE_MS = 0.16, 0.08, 1.0, 0.1
LEAST_PERCENT = 95.0


class Figures:
    """What was measured so far, in a file, where one is named, from the first figure on. `left_out` grows meanwhile."""

    def __init__(self, head: Row, left_out: Sequence[str], file: Path | None) -> None:
        self._measured: Row = {**head, "complete": False}
        self._left_out = left_out
        self._file = file

    def __repr__(self) -> str:
        return f"<Figures {[name for name in self._measured if name not in ('rehearsal', 'machine', 'device')]}>"

    def put(self, name: str, found: Any) -> None:
        """One part as it is."""
        self._measured[name] = found
        self.save()

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """More rows of a part."""
        self.put(name, [*self._measured.get(name, []), *rows])

    def complete(self) -> None:
        """Nothing comes any more."""
        self.put("complete", True)

    def everything(self) -> Row:
        """With what follows from it."""
        reached = goals(self._measured.get("latency", ()), self._measured.get("full_load", ()))
        return {**self._measured, "goals": reached, "left_out": list(self._left_out)}

    def text(self) -> str:
        return markdown(self.everything())

    def save(self) -> None:
        """Writes JSON and table, each as a whole or not at all."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(self.everything(), indent=1) + "\n"
            for file, written in ((self._file, content), (self._file.with_suffix(".md"), self.text())):
                unfinished = file.with_name(f"{file.name}.unfinished")
                unfinished.write_text(written, encoding="utf-8")
                unfinished.replace(file)


def goals(latency: Iterable[Row], served: Iterable[Row]) -> list[Row]:
    """What must hold, row by row. Networks only: identity computes nothing, so that nothing of it can be hidden or compared."""
    found = []
    for row in latency:
        if row["model"] == "identity" or ("beyond_raw_us" not in row and row["memory"] != "cuda"):
            continue
        if row["memory"] == "cuda":
            found.append(_goal(row, "beyond_infer_us", "latency beyond compute_infer, CUDA region", ON_DEVICE_MS))
        elif row["batch"] == 1:
            limit = ONE_ROW_BUSY_MS if row["busy_wait"] == "always" else ONE_ROW_MS
            found.append(_goal(row, "beyond_raw_us", "latency beyond the raw loop's", limit))
        elif row["batch"] == 64:
            found.append(_goal(row, "beyond_raw_us", "latency beyond the raw loop's", MANY_ROWS_MS))
    for row in served:
        if row["model"] == "identity" or "percent_of_raw" not in row:
            continue
        percent = row["percent_of_raw"]
        what = f"{row['model']}, batch {row['batch']}: served throughput, percent of the raw loop's"
        by = "" if percent >= LEAST_PERCENT else f"missed by {LEAST_PERCENT - percent:.1f}"
        found.append({"goal": what, "limit": f">= {LEAST_PERCENT:g} %", "measured": f"{percent:.1f} %", "verdict": by or "met"})
    return found


def _goal(row: Row, figure: str, what: str, limit_ms: float) -> Row:
    measured_ms = row[figure] / 1e3
    where = f"{row['model']}, batch {row['batch']}, {row['memory']}, busy_wait {row['busy_wait']}"
    verdict = "met" if measured_ms <= limit_ms else f"missed by {measured_ms - limit_ms:.3f} ms"
    return {"goal": f"{where}: {what}", "limit": f"<= {limit_ms:g} ms", "measured": f"{measured_ms:.3f} ms", "verdict": verdict}


def markdown(figures: Row) -> str:
    """Everything that was measured, as one text."""
    title = f"# {figures['device']['name']}, {figures['machine']['date']}"
    parts = [f"# {REHEARSAL}" if figures["rehearsal"] else title, _facts(figures)]
    floors = figures.get("floors", {})
    for name in ("chain", "transfers", "gathers", "waits", "pinning", "opening"):
        if name in floors:
            rows = floors[name] if isinstance(floors[name], list) else [floors[name]]
            columns = dict.fromkeys(key for row in rows for key in row)
            parts += [f"## Raw: {name}", table(list(columns), rows)]
    for name, columns in (("latency", LATENCY_COLUMNS), ("throughput", THROUGHPUT_COLUMNS)):
        if figures.get(name):
            parts += [f"## Served: {name}", table(columns, figures[name])]
    for name in ("full_load", "overlap", "regions", "memory", "goals"):
        if figures.get(name):
            columns = dict.fromkeys(key for row in figures[name] for key in row)
            parts += [f"## {name.replace('_', ' ').capitalize()}", table(list(columns), figures[name])]
    if not figures["complete"]:
        parts.append("**Not complete:** it was ended before everything was measured.")
    if figures["left_out"]:
        parts.append("## Left out\n\n" + "\n".join(f"- {what}" for what in figures["left_out"]))
    if figures["rehearsal"]:
        parts.append(REHEARSAL)
    return "\n\n".join(parts) + "\n"


def _facts(figures: Row) -> str:
    device, machine = figures["device"], figures["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{device['name']} ({device['memory_gib']} GiB, {device['uuid']}), driver for CUDA {device['driver']}, CUDA runtime "
        f"{device['runtime']}; {machine['processor']}, {machine['cores']} cores, kernel {machine['kernel']}, Python "
        f"{machine['python']}; {packages}; {machine['date']}."
    )


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A Markdown table; a figure that a row does not have is left blank."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
