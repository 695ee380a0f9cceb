# SPDX-License-Identifier: Apache-2.0
"""What the gateway costs: perf_analyzer over HTTP and gRPC, beside the local link and beside Triton, by turns in one run.

The model costs nothing and its rows have 64 bytes in shared memory, so that what is measured is the way to it. CPU time is that
of each kind of process: it says where the time goes. Penstock runs twice, with one gateway process and with two.

usage: gateway.py [--json FILE] [--rounds N] [--seconds S] [--only SERVER ...]
       gateway.py --table FILE      the Markdown tables of what was measured

Exit status: 0 everything was measured; 1 something was left out, and is named.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from measurement import Row, alternate, machine, median_row
from peers.analyzer import ANALYZER, AnalyzerFiles, analyzer_environment
from peers.environments import UnavailableError
from peers.loads import Point, Side
from peers.processes import CommandError
from peers.repositories import small_repository
from peers.servers import CACHED_LOGS, Served, penstock, triton
from table import table

CONCURRENCIES = (1, 8, 64)
LOGS = CACHED_LOGS / "gateway"
SERVERS: dict[str, Callable[[], AbstractContextManager[Served]]] = {
    "penstock": lambda: penstock(LOGS, models=small_repository("penstock")),
    "penstock, 2 gateways": lambda: penstock(LOGS, models=small_repository("penstock"), gateways=2),
    "triton": lambda: triton(LOGS, models=small_repository("triton")),
}
LOCAL = "local"
ROLES = ("broker", "gateway", "worker", "server")
"""Kinds of processes of a server; `server`: those of one that has no such kinds."""


def role_of(server: str, pid: int, leader: int) -> str:
    """The kind of a process of a server, whose first one is the leader."""
    if not server.startswith("penstock"):
        return "server"
    if pid == leader:
        return "broker"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended, and has no share
        return "worker"
    return "gateway" if b"penstock.runtime.gateway" in command else "worker"


def shares(served: Served, before: dict[int, int], after: dict[int, int]) -> dict[str, float]:
    """Kind of process -> its share of the CPU time that the server has used between two readings."""
    used: dict[str, int] = {}
    for pid in before.keys() & after.keys():
        role = role_of(served.name, pid, served.pid)
        used[role] = used.get(role, 0) + after[pid] - before[pid]
    whole = sum(used.values()) or 1
    return {role: spent / whole for role, spent in used.items()}


def sides_of(served: Served, has_analyzer: bool) -> list[Side]:
    """Penstock's own link by its own client, once; both protocols by perf_analyzer."""
    own = [Side(served, LOCAL, "penstock perf")] if served.name == "penstock" else []
    return own + [Side(served, link, "perf_analyzer") for link in ("http", "grpc") if has_analyzer]


def measured(side: Side, point: Point, seconds: float) -> Row:
    """One measurement, with the CPU time per request of each kind of process in us. Raises CommandError."""
    before = side.served.cpu_ns()
    row = side.measured(point, seconds, LOGS)
    found = shares(side.served, before, side.served.cpu_ns())
    costs = {f"{role}_cpu_us": round(row["server_cpu_us"] * found[role], 2) for role in ROLES if role in found}
    return {
        "requests_per_s": row["inferences_per_s"], "p50_us": row["p50_us"], "p99_us": row["p99_us"],
        **costs, "client_cpu_us": row["client_cpu_us"],
        "server_cores": row["server_cores"], "client_cores": row["client_cores"],
    }  # fmt: skip


class Comparison:
    """What was measured so far, and what was left out and why."""

    def __init__(self, seconds: float, rounds: int) -> None:
        self.seconds, self.rounds = seconds, rounds
        self.rows: list[Row] = []
        self.left_out: list[str] = []

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} rows, {len(self.left_out)} left out>"

    def leave_out(self, why: str) -> None:
        """Something is not measured, and this is why."""
        self.left_out.append(why)
        print(f"left out: {why}", file=sys.stderr, flush=True)

    def measure(self, sides: Sequence[Side], concurrency: int) -> None:
        """All sides by turns. One that fails is left out of the rest of this concurrency."""
        point, failed = Point("identity", 1, concurrency), set[str]()

        def attempt(side: Side) -> Row:
            if side.name not in failed:
                try:
                    return measured(side, point, self.seconds)
                except (CommandError, OSError) as error:
                    failed.add(side.name)
                    self.leave_out(f"{side.name}, concurrency {concurrency}: {error}")
            return {}

        found = alternate({side.name: partial(attempt, side) for side in sides}, self.rounds)
        for side in sides:
            rounds = [row for row in found[side.name] if row]
            if rounds:
                facts = {"server": side.served.name, "link": side.link, "tool": side.tool, "concurrency": concurrency}
                self.rows.append({**facts, **median_row(rounds), "rounds": rounds})
                print(*(f"{name} {value}" for name, value in self.rows[-1].items() if name != "rounds"), sep="  ", flush=True)


def compare(comparison: Comparison, names: Iterable[str], file: Path | None) -> None:
    """The whole run; the file grows with every concurrency."""
    report: Row = {
        "bench": "gateway", "machine": machine(), "seconds": comparison.seconds, "rounds": comparison.rounds,
        "rows": comparison.rows, "left_out": comparison.left_out, "complete": False,
    }  # fmt: skip
    has_analyzer = AnalyzerFiles(analyzer_environment()).started.exists()
    if not has_analyzer:
        comparison.leave_out("perf_analyzer is not there: `python bench/peers/analyzer.py` makes it")
    with ExitStack() as stack:
        servers = []
        for name in names:
            try:
                servers.append(replace(stack.enter_context(SERVERS[name]()), name=name))
            except (UnavailableError, RuntimeError, OSError) as error:
                comparison.leave_out(f"{name}: {error}")
        report["versions"] = {served.name: served.version for served in servers} | {"perf_analyzer": ANALYZER}
        sides = [side for served in servers for side in sides_of(served, has_analyzer)]
        for concurrency in CONCURRENCIES:
            comparison.measure(sides, concurrency)
            write(report, file)
    report["complete"] = True
    write(report, file)
    print(rendered(report))


def write(report: Row, file: Path | None) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=1) + "\n")


def rendered(report: Row) -> str:
    """The tables: a row for each way, figures by concurrency; and where the CPU time goes."""
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items() if name != "packages")
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    rates: dict[str, Row] = {}
    costs = []
    for row in report["rows"]:
        way = f"{row['server']}: {row['link']}"
        cell = f"{row['requests_per_s']:,.0f}/s, {row['p50_us']:,.0f} us"
        rates.setdefault(way, {"way": way})[f"concurrency {row['concurrency']}"] = cell
        costs.append({"way": way, **{name: row.get(name, "") for name in ("concurrency", *COSTS)}})
    columns = ("way", *(f"concurrency {number}" for number in CONCURRENCIES))
    parts = [
        f"{facts}. {versions}. Medians of {report['rounds']} rounds of {report['seconds']:g} s: requests per second, p50.",
        table(columns, list(rates.values())),
        "CPU time per request of each kind of process, in us:",
        table(("way", "concurrency", *COSTS), costs),
        *(f"Left out: {why}." for why in report["left_out"]),
    ]
    return "\n\n".join(parts)


COSTS = (*(f"{role}_cpu_us" for role in ROLES), "client_cpu_us")


def main() -> int:
    parser = argparse.ArgumentParser(description="What the gateway costs, beside the local link and beside Triton.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per figure")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument(
        "--only", nargs="+", choices=list(SERVERS), default=list(SERVERS), metavar="SERVER", help="these servers"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing: print the tables of this file")
    options = parser.parse_args()
    if options.table:
        print(rendered(json.loads(options.table.read_text())))
        return 0
    comparison = Comparison(options.seconds, options.rounds)
    compare(comparison, options.only, options.json)
    return 1 if comparison.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
