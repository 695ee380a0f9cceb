# SPDX-License-Identifier: Apache-2.0
"""Penstock and Triton side by side: the same models, the same load, by turns in one run; mosec for scale.

All servers run during the whole run, since what they use while nobody asks them is measured first and is next to nothing;
restarting them for every turn would measure cold caches. A peer that is not built or does not start is named with its reason
and costs the others nothing. The results are written after every point, so that an interrupted run keeps what it has.

usage: run.py [--json FILE] [--only MODEL|SERVER ...] [--rounds N] [--seconds S] [--instances N]

Exit status: 0 everything was measured; 1 something was left out, and is named, or the servers answer differently; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measurement import Row, alternate, machine, median_row

from peers.analyzer import ANALYZER, AnalyzerFiles, analyzer_environment
from peers.environments import UnavailableError
from peers.loads import MOST_ROWS, Point, Side
from peers.processes import CommandError, cores_used
from peers.repositories import MODELS
from peers.servers import CACHED_LOGS, SERVERS, SHARED_MEMORY, Served, penstock_scores, triton_scores

BATCHES = CONCURRENCIES = (1, 8, 64)
IDLE_S = 3.0
TOLERANCE = 1e-4
"""Of scores that onnxruntime computed from the same image in another batch."""


def points(models: Iterable[str]) -> list[Point]:
    every = [Point(model, batch, concurrency) for model in models for batch in BATCHES for concurrency in CONCURRENCIES]
    return [point for point in every if point.rows_in_flight <= MOST_ROWS[point.model]]


def sides_of(served: Served, has_analyzer: bool) -> list[Side]:
    """Every link by `penstock perf`, those that perf_analyzer speaks by it too; mosec by its own load."""
    if served.name == "mosec":
        return [Side(served, "http", "http_load")]
    own = ("penstock perf",)
    both = (*own, "perf_analyzer") if has_analyzer else own
    return [Side(served, link, tool) for link in served.addresses for tool in (both if link in ("http", "grpc") else own)]


class Comparison:
    """The servers that run, what was measured of them, and what was left out and why."""

    def __init__(self, seconds: float, rounds: int, logs: Path) -> None:
        self.seconds, self.rounds, self.logs = seconds, rounds, logs
        self.servers: dict[str, Served] = {}
        #: what was left out and why -> the points that this concerns; none: all
        self._missing: dict[str, list[str]] = {}
        self.rows: list[Row] = []

    def start(self, names: Iterable[str], instances: int, stack: ExitStack) -> None:
        for name in names:
            try:
                self.servers[name] = stack.enter_context(SERVERS[name](self.logs, instances))
                print(f"{name} {self.servers[name].version} is ready", flush=True)
            except (UnavailableError, RuntimeError, OSError) as error:
                self._leave_out(f"{name}: {error}")

    def check_answers(self, models: Iterable[str]) -> None:
        """The servers that are compared must compute the same. Raises CommandError where they do not."""
        if not {"penstock", "triton"} <= self.servers.keys():
            return
        image = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
        for model in models:
            ours = penstock_scores(self.servers["penstock"].addresses["local"], model, image)
            theirs = triton_scores(self.servers["triton"].addresses["http"], model, image.tobytes())
            if len(ours) != MODELS[model] or not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * np.abs(ours).max()):
                raise CommandError(f"{model}: the servers answer differently: {ours[:3]} and {theirs[:3]} ...")

    def idle(self) -> dict[str, float]:
        """Server -> percent of a core that it uses while nobody asks it."""
        before, began = {name: served.cpu_ns() for name, served in self.servers.items()}, time.monotonic_ns()
        time.sleep(IDLE_S)
        elapsed = time.monotonic_ns() - began
        return {name: round(100 * cores_used(before[name], each.cpu_ns(), elapsed), 2) for name, each in self.servers.items()}

    def sides(self) -> list[Side]:
        has_analyzer = AnalyzerFiles(analyzer_environment()).started.exists()
        if not has_analyzer:
            self._leave_out("perf_analyzer is not built: run bench/peers/build.py")
        return [side for served in self.servers.values() for side in sides_of(served, has_analyzer)]

    def measure(self, point: Point, sides: Sequence[Side]) -> None:
        """All sides by turns. One that fails is left out of the rest of this point."""
        failed: set[str] = set()

        def attempt(side: Side) -> Row:
            if side.name in failed:
                return {}
            try:
                return side.measured(point, self.seconds, self.logs)
            except (CommandError, OSError) as error:
                failed.add(side.name)
                self._leave_out(f"{side.name}: {error}", f"{point.model} {point.batch} x {point.concurrency}")
                return {}

        taking = {side.name: side for side in sides if side.takes(point)}
        turns: Mapping[str, Callable[[], Row]] = {name: partial(attempt, side) for name, side in taking.items()}
        for name, rounds in alternate(turns, self.rounds).items():
            measured = [row for row in rounds if row]
            if measured:
                self.rows.append({**_facts(taking[name], point), **median_row(measured), "rounds": measured})
                print(_line(self.rows[-1]), flush=True)

    def left_out(self) -> list[str]:
        """What was left out and why, and at which points (MODEL ROWS x REQUESTS)."""
        return [f"{why} ({', '.join(where)})" if where else why for why, where in self._missing.items()]

    def _leave_out(self, why: str, *where: str) -> None:
        self._missing.setdefault(why, []).extend(where)
        print("left out:", *where, why, file=sys.stderr, flush=True)


def _facts(side: Side, point: Point) -> Row:
    return {
        "model": point.model, "batch": point.batch, "concurrency": point.concurrency,
        "server": side.served.name, "link": side.link, "tool": side.tool,
    }  # fmt: skip


def _line(row: Row) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items() if name != "rounds")


def compare(comparison: Comparison, models: Sequence[str], servers: Sequence[str], instances: int, file: Path | None) -> None:
    """The whole run; `file` grows with every point."""
    report: dict[str, Any] = {
        "bench": "peers", "machine": machine(), "seconds": comparison.seconds, "rounds": comparison.rounds,
        "instances": instances, "complete": False, "rows": comparison.rows,
    }  # fmt: skip
    with ExitStack() as stack:
        comparison.start(servers, instances, stack)
        comparison.check_answers(models)
        versions = {name: served.version for name, served in comparison.servers.items()}
        report |= {"versions": {**versions, "perf_analyzer": ANALYZER}, "idle_percent_of_a_core": comparison.idle()}
        sides = comparison.sides()
        for point in points(models):
            comparison.measure(point, sides)
            _write(report | {"left_out": comparison.left_out()}, file)
    _write(report | {"left_out": comparison.left_out(), "complete": True}, file)


def _write(report: dict[str, Any], file: Path | None) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Penstock beside Triton: the same models, the same load, by turns.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--only", nargs="+", choices=(*MODELS, *SERVERS), default=[], help="these models, these servers")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per figure")
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="of one measurement; of the real model 4 times, and at the most load twice that",
    )
    parser.add_argument("--instances", type=int, default=1, help="of each model, in every server")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    models, servers = ([name for name in known if name in options.only] or list(known) for known in (MODELS, SERVERS))
    before = set(SHARED_MEMORY.iterdir())
    comparison = Comparison(options.seconds, options.rounds, CACHED_LOGS / "run")
    if options.json:
        options.json.unlink(missing_ok=True)  # another run's figures are not taken for those of this one
    try:
        compare(comparison, models, servers, options.instances, options.json)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    left = sorted(path.name for path in set(SHARED_MEMORY.iterdir()) - before)
    if left:
        print(f"in {SHARED_MEMORY} now and not before, from this run or others': {', '.join(left)}", file=sys.stderr)
    left_out = comparison.left_out()
    print(*(f"left out: {why}" for why in left_out), sep="\n", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
