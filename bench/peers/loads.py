# SPDX-License-Identifier: Apache-2.0
"""What puts load on a server and measures it: `penstock perf`, perf_analyzer, and http_load.py; one row of figures each.

All keep a fixed number of requests in flight for three windows and take the three together, stable or not: that the machine is
steady is judged by the rounds.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from measurement import Row

from .analyzer import AnalyzerFiles, analyzer_environment
from .processes import CommandError, Usage, loaded
from .servers import Served

WINDOWS = 3
ANY_PERCENT = "999"
"""Of instability, which is accepted."""
LONGER = {"identity": 1.0, "resnet50_shaped": 4.0}
"""How many times --seconds a measurement of a model lasts."""
MOST_ROWS = {"identity": 4096, "resnet50_shaped": 64}
"""Rows in flight, at most."""
MOST_LONGER, MOST_LEAST_S = 2.0, {"identity": 6.0, "resnet50_shaped": 24.0}
"""How many times longer these are measured, and how long at least: 64 rows of the real model take seconds."""
WARM_UP = {"identity": "8", "resnet50_shaped": "1"}
"""Requests before `penstock perf` measures: 8 of 64 rows of the real model would take longer than what is measured."""
START_S, LENIENCE = 120.0, 10.0
"""How long a load generator may take to make its inputs, up to 2.5 GB, and how many times as long as it measures."""
TOO_SHORT = ("No valid requests recorded", "Failed to obtain stable measurement")
"""What perf_analyzer says where no request ended in a window; with ANY_PERCENT windows may else differ tenfold."""
AGAIN_LONGER = 4.0
"""How many times longer it is then asked to measure, once."""

ANALYZER_FIGURES = {
    "queue_us": "Server Queue", "compute_input_us": "Server Compute Input", "compute_infer_us": "Server Compute Infer",
    "compute_output_us": "Server Compute Output", "p50_us": "p50 latency", "p99_us": "p99 latency",
}  # fmt: skip
PERF_FIGURES = {
    "queue_us": "queue_ms", "compute_input_us": "compute_input_ms", "compute_infer_us": "compute_infer_ms",
    "compute_output_us": "compute_output_ms", "p50_us": "p50_latency_ms", "p99_us": "p99_latency_ms",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What is asked of a server: rows per request, requests in flight."""

    model: str
    batch: int
    concurrency: int

    @property
    def rows_in_flight(self) -> int:
        return self.batch * self.concurrency

    def seconds(self, asked: float) -> float:
        """How long it is measured, where `asked` is what was asked for."""
        longer = asked * LONGER[self.model]
        is_most = self.rows_in_flight == MOST_ROWS[self.model]
        return max(longer * MOST_LONGER, MOST_LEAST_S[self.model]) if is_most else longer


@dataclass(frozen=True)
class Side:
    """A server, the link to it, and the tool that measures."""

    served: Served
    link: str
    tool: str

    @property
    def name(self) -> str:
        return f"{self.served.name} {self.link}, {self.tool}"

    def takes(self, point: Point) -> bool:
        """mosec has the identity model only, one row at a time."""
        return self.tool != "http_load" or (point.model == "identity" and point.batch == 1)

    def measured(self, point: Point, asked: float, logs: Path) -> Row:
        """One measurement. Raises CommandError."""
        log = logs / f"{self.served.name}-{self.link}-{self.tool}.log".replace(" ", "-")
        figures, usage = TOOLS[self.tool](self, point, asked, log)
        rate = figures["inferences_per_s"]
        cores = {"server_cores": usage.server_cores, "client_cores": usage.client_cores}
        costs = {name.replace("_cores", "_cpu_us"): round(used / rate * 1e6, 2) for name, used in cores.items()}
        return {**figures, **cores, **costs}


def window_ms(seconds: float) -> str:
    """Of a measurement that lasts so long."""
    return str(max(1, round(seconds * 1000 / WINDOWS)))


def limit_s(seconds: float) -> float:
    """After which a load generator that is to measure for so long is given up."""
    return START_S + LENIENCE * seconds


def penstock_perf(side: Side, point: Point, asked: float, log: Path) -> tuple[Row, Usage]:
    seconds = point.seconds(asked)
    command = [*perf_command(side, point), "--measurement-interval-ms", window_ms(seconds), "--json"]
    usage = loaded(command, log, side.served.pid, limit_s(seconds))
    return perf_figures(log.read_text()), usage


def perf_command(side: Side, point: Point) -> list[str]:
    address = side.served.addresses[side.link]
    where = ["--url", address] if side.link in ("http", "grpc") else ["--address", address]
    return [
        sys.executable, "-m", "penstock.clients.cli", "perf", point.model, "--link", side.link, *where,
        "--shared-memory", "memfd" if side.link == "local" else "system",
        "--batch-sizes", str(point.batch), "--concurrency", str(point.concurrency),
        "--warmup", WARM_UP[point.model], "--max-trials", str(WINDOWS), "--stability-percentage", ANY_PERCENT,
    ]  # fmt: skip


def perf_figures(said: str) -> Row:
    """Of the JSON document among what `penstock perf` wrote. Raises CommandError."""
    start = said.find("{\n") if "{\n" in said else said.find("{")
    try:
        document, _ = json.JSONDecoder().raw_decode(said[start:] if start >= 0 else "")
        (row,) = document["rows"]
        figures = {name: round(row[key] * 1000, 1) for name, key in PERF_FIGURES.items()}
        return {"inferences_per_s": round(row["inferences_per_s"], 1), **figures}
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"penstock perf printed no row: {error!r} in {said[-300:]!r}") from None


def perf_analyzer(side: Side, point: Point, asked: float, log: Path) -> tuple[Row, Usage]:
    """It counts what ends within a window, and fails where nothing does: then it is asked again, for longer ones."""
    seconds = point.seconds(asked)
    try:
        return _analyzed(side, point, seconds, log)
    except CommandError as error:
        if not any(said in str(error) for said in TOO_SHORT):
            raise
        return _analyzed(side, point, AGAIN_LONGER * seconds, log)


def _analyzed(side: Side, point: Point, seconds: float, log: Path) -> tuple[Row, Usage]:
    files = AnalyzerFiles(analyzer_environment())
    report = log.with_suffix(".csv")
    report.unlink(missing_ok=True)
    command = [str(files.program), *analyzer_arguments(side, point), "-p", window_ms(seconds), "-f", str(report)]
    usage = loaded(command, log, side.served.pid, limit_s(seconds), files.variables())
    return analyzer_figures(report.read_text() if report.exists() else ""), usage


def analyzer_arguments(side: Side, point: Point) -> list[str]:
    """With START:END a thread for each request in flight, which is its own default, is not limited to 16."""
    return [
        "-m", point.model, "-i", side.link, "-u", side.served.addresses[side.link], "--shared-memory", "system",
        "-b", str(point.batch), "--concurrency-range", f"{point.concurrency}:{point.concurrency}", "--sync",
        "-r", str(WINDOWS), "-s", ANY_PERCENT,
    ]  # fmt: skip


def analyzer_figures(report: str) -> Row:
    """Of perf_analyzer's CSV, in which inferences are rows and times are us. Raises CommandError."""
    rows = list(csv.DictReader(report.splitlines()))
    try:
        (row,) = rows
        figures = {name: float(row[column]) for name, column in ANALYZER_FIGURES.items()}
        return {"inferences_per_s": round(float(row["Inferences/Second"]), 1), **figures}
    except (ValueError, KeyError) as error:
        raise CommandError(f"perf_analyzer's report has no row as expected: {error!r} in {report[:300]!r}") from None


def http_load(side: Side, point: Point, asked: float, log: Path) -> tuple[Row, Usage]:
    program, seconds = Path(__file__).resolve().with_name("http_load.py"), point.seconds(asked)
    command = [
        sys.executable, str(program), side.served.addresses[side.link],
        "--concurrency", str(point.concurrency), "--seconds", str(seconds),
    ]  # fmt: skip
    usage = loaded(command, log, side.served.pid, limit_s(seconds))
    figures = json.loads(log.read_text())
    return {"inferences_per_s": figures.pop("requests_per_s"), **figures}, usage


TOOLS: Mapping[str, Callable[[Side, Point, float, Path], tuple[Row, Usage]]] = {
    "penstock perf": penstock_perf, "perf_analyzer": perf_analyzer, "http_load": http_load,
}  # fmt: skip
