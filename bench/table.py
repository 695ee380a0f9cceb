# SPDX-License-Identifier: Apache-2.0
"""Prints the figures of benches as the Markdown tables of bench/README.md, with the goals beside what has one.

usage: table.py FILE...      files that overhead.py and real_model.py wrote with --json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROW_COLUMNS = (
    "link", "batch", "concurrency", "clients", "in_flight", "byte_size", "requests_per_s", "p50_us", "p99_us",
    "broker_cpu_us", "worker_cpu_us", "client_cpu_us",
)  # fmt: skip
REAL_COLUMNS = (
    "model",
    "batch",
    "link",
    "served_batches_per_s",
    "loop_batches_per_s",
    "best_loop",
    "percent",
    "p50_us",
    "p99_us",
)
CPU_GOALS_US = {"broker_cpu_us": 10, "worker_cpu_us": 5, "client_cpu_us": 8}
REAL_GOALS_PERCENT = {"resnet50_shaped": 95, "one_ms": 85}
PAYLOAD_GOAL_US, GATHER_GOAL_TIMES, IDLE_GOAL_PERCENT = 15, 1.3, 0.5


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else str(value)


def goal(question: str, value: float, bound: str, limit: float) -> Row:
    """One line of the table of goals; `bound` is "at most" or "at least"."""
    met = value <= limit if bound == "at most" else value >= limit
    return {"question": question, "measured": round(value, 3), "goal": f"{bound} {limit}", "met": "yes" if met else "**no**"}


def overhead_goals(report: Row) -> list[Row]:
    """The goals that a run of overhead.py can be held against."""
    rows = {(row["link"], row["concurrency"], row["clients"], row["batch"]): row for row in report.get("rows", [])}
    found: list[Row] = []
    bounds = (("local", 1, "p50_us", "at most", 2.0), ("zmq", 1, "p50_us", "at most", 1.3),
              ("local", 8, "requests_per_s", "at least", 0.35), ("local", 64, "requests_per_s", "at least", 0.25))  # fmt: skip
    for link, concurrency, figure, bound, limit in bounds:
        served, beneath = (rows.get((name, concurrency, 1, 1)) for name in (link, f"floor_{link}"))
        if served and beneath:
            times = served[figure] / beneath[figure]
            found.append(goal(f"{link}, concurrency {concurrency}: {figure}, times the floor's", times, bound, limit))
    if ("local", 64, 1, 1) in rows:
        found += [goal(f"local, 64: {name}", rows["local", 64, 1, 1][name], "at most", us) for name, us in CPU_GOALS_US.items()]
    for row in report.get("payload", []):
        found.append(goal(f"payload, {row['memory']}: us more than the floor", row["extra_us"], "at most", PAYLOAD_GOAL_US))
    if "gather" in report:
        found.append(goal("gather: times a memcpy", report["gather"]["times_memcpy"], "at most", GATHER_GOAL_TIMES))
    if "idle" in report:
        found.append(goal("idle: % of one core", report["idle"]["percent_of_one_core"], "at most", IDLE_GOAL_PERCENT))
    return found


def render(report: Row) -> str:
    parts = [", ".join(f"{name} {value}" for name, value in report["machine"].items() if name != "packages")]
    parts.append("Packages: " + ", ".join(f"{name} {number}" for name, number in report["machine"]["packages"].items()))
    goals: list[Row] = []
    if report["bench"] == "real_model":
        parts.append(table(REAL_COLUMNS, report["rows"]))
        for row in report["rows"]:
            question = f"{row['model']}, batch {row['batch']}, {row['link']}: % of the best loop"
            goals.append(goal(question, row["percent"], "at least", REAL_GOALS_PERCENT[row["model"]]))
    else:
        if "rows" in report:
            parts.append(table(ROW_COLUMNS, report["rows"]))
        for name in ("payload", "gather", "idle"):
            if name in report:
                rows = report[name] if isinstance(report[name], list) else [report[name]]
                parts.append(f"{name}:\n\n{table(list(rows[0]), rows)}")
        goals = overhead_goals(report)
    parts.append(table(("question", "measured", "goal", "met"), goals))
    return "\n\n".join(parts)


def main() -> None:
    for file in sys.argv[1:]:
        print(render(json.loads(Path(file).read_text())), end="\n\n")


if __name__ == "__main__":
    main()
