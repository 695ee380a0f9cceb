# SPDX-License-Identifier: Apache-2.0
"""Which HTTP server, and which gRPC server, costs the least under the gateway's kind of load: docs/decisions/0017.

Each that is installed here serves the same handler in a process of its own: it reads a request like perf_analyzer's (JSON, the
tensors in shared memory), decodes it, and answers with JSON; over gRPC with messages of the same content. A client in another
process keeps one request in flight on each connection. All by turns, the order reversed every other round; CPU time is that of
the server's own processes.

usage: http_servers.py [--json FILE] [--rounds N] [--seconds S] [--only NAME ...]
       http_servers.py --table FILE          the Markdown table of what was measured

Exit status: 0 everything that is installed was measured; 1 something failed, and is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from front_ends import FRONT_ENDS, FrontEnd
from measurement import Row, alternate, machine, median_row
from peers.environments import UnavailableError
from peers.processes import CommandError, free_ports, running, tree_cpu_ns, wait_until
from peers.servers import CACHED_LOGS
from table import table

CONNECTIONS = (1, 8, 64)
START_S, STARTS_S = 20.0, 5.0
PROGRAM = Path(__file__).with_name("front_ends.py")
LOAD = Path(__file__).with_name("front_end_load.py")
LOGS = CACHED_LOGS / "http_servers"


class Running(NamedTuple):
    """A front end that serves."""

    front_end: FrontEnd
    pid: int
    port: int

    def measured(self, connections: int, seconds: float) -> Row:
        """One measurement. Raises CommandError."""
        command = [
            sys.executable, str(LOAD), self.front_end.protocol, str(self.port), "--connections", str(connections),
            "--seconds", str(seconds),
        ]  # fmt: skip
        before = tree_cpu_ns(self.pid)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STARTS_S + 10 * seconds)
        after = tree_cpu_ns(self.pid)
        if done.returncode:
            raise CommandError(f"{self.front_end.name}: {done.stderr.strip()[-300:]}")
        figures: Row = json.loads(done.stdout)
        used = sum(after[pid] - before[pid] for pid in before.keys() & after.keys())
        return {**figures, "server_cpu_us": round(used / figures.pop("requests") / 1e3, 1)}


def installed(front_end: FrontEnd) -> dict[str, str]:
    """Package -> version of what it needs. Raises UnavailableError."""
    try:
        return {package: version(package) for package in front_end.packages}
    except PackageNotFoundError as error:
        raise UnavailableError(f"{front_end.name}: {error.name} is not installed") from None


def started(front_end: FrontEnd, stack: ExitStack) -> Running:
    """Serves until the stack is left. Raises UnavailableError."""
    (port,) = free_ports(1)
    log = LOGS / f"{front_end.name}.log".replace(" ", "-")
    process = stack.enter_context(running([sys.executable, str(PROGRAM), front_end.name, str(port)], log))
    found = Running(front_end, process.pid, port)

    def answers() -> bool:
        try:
            found.measured(1, 0.05)
        except CommandError:
            return False
        return True

    try:
        wait_until(answers, process, log, START_S)
    except UnavailableError as error:
        raise UnavailableError(f"{front_end.name}: {error}") from None
    return found


def measure(serving: Sequence[Running], connections: int, seconds: float, rounds: int, failed: list[str]) -> list[Row]:
    """All by turns; one that fails is named, and left out of these connections."""

    def attempt(side: Running) -> Row:
        try:
            return side.measured(connections, seconds)
        except (CommandError, subprocess.TimeoutExpired) as error:
            failed.append(f"{side.front_end.name}, {connections} connections: {error}")
            return {}

    turns: dict[str, Callable[[], Row]] = {side.front_end.name: partial(attempt, side) for side in serving}
    rows = []
    for name, found in alternate(turns, rounds).items():
        done = [row for row in found if row]
        if done:
            rows.append({"server": name, "connections": connections, **median_row(done), "rounds": done})
            print(*(f"{key} {value}" for key, value in rows[-1].items() if key != "rounds"), sep="  ", flush=True)
    return rows


def rendered(report: Row) -> str:
    """The table: a row for each server, figures by connections."""
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items() if name != "packages")
    rows: dict[str, Row] = {}
    for row in report["rows"]:
        cell = f"{row['requests_per_s']:,.0f}/s, {row['p50_us']:,.0f} us, {row['server_cpu_us']:,.0f} us"
        rows.setdefault(row["server"], {"server": row["server"]})[f"{row['connections']} connections"] = cell
    columns = ("server", *(f"{number} connections" for number in CONNECTIONS))
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    taken = (
        f"Medians of {report['rounds']} rounds of {report['seconds']:g} s: requests/s, p50, CPU time of the server per request."
    )
    return "\n\n".join([
        f"{facts}; {versions}. {taken}",
        table(columns, list(rows.values())),
        *(f"Left out: {why}." for why in report["left_out"]),
    ])  # fmt: skip


def main() -> int:
    names = [front_end.name for front_end in FRONT_ENDS]
    parser = argparse.ArgumentParser(description="HTTP and gRPC servers under the gateway's kind of load.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per figure")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing: print the table of this file")
    options = parser.parse_args()
    if options.table:
        print(rendered(json.loads(options.table.read_text())))
        return 0
    left_out: list[str] = []
    failed: list[str] = []
    versions: dict[str, str] = {}
    rows: list[Row] = []
    with ExitStack() as stack:
        serving = []
        for front_end in FRONT_ENDS:
            if front_end.name in options.only:
                try:
                    versions |= installed(front_end)
                    serving.append(started(front_end, stack))
                except UnavailableError as error:
                    left_out.append(str(error))
        for connections in CONNECTIONS:
            rows += measure(serving, connections, options.seconds, options.rounds, failed)
    report: Row = {
        "bench": "http_servers", "machine": machine(), "versions": versions, "seconds": options.seconds,
        "rounds": options.rounds, "rows": rows, "left_out": left_out + failed,
    }  # fmt: skip
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(rendered(report))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
