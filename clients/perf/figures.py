# SPDX-License-Identifier: Apache-2.0
"""A row of the table: the figures of one batch size at one concurrency, and the columns they are shown in. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .percentiles import Latencies
from .stages import Stages


class Row(NamedTuple):
    """Of the windows that agreed (of the last three, where none did)."""

    batch: int
    concurrency: int  # requests in flight; of an open loop, the most there were
    request_rate: float | None  # requests/s asked for, of an open loop
    inferences_per_s: float
    inferences_per_s_low: float  # 95 % confidence interval of the mean throughput
    inferences_per_s_high: float
    stages: Stages
    latencies: Latencies
    requests: int  # that succeeded
    failed: int  # that did not, and belong to no other figure
    windows: int  # how many were measured until three agreed, or until there were enough
    is_stable: bool
    client_cpu_percent: float  # of one core, of the busiest client process
    notes: tuple[str, ...] = ()  # what a reader must know of this row


class Placed(Protocol):
    """Of a plan's points, and of rows."""

    @property
    def batch(self) -> int: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def request_rate(self) -> float | None: ...


def place_of(point: Placed) -> str:
    """Which row of the table, in words."""
    if point.request_rate is not None:
        return f"batch {point.batch}, {point.request_rate:g} requests/s"
    return f"batch {point.batch}, concurrency {point.concurrency}"


class Column(NamedTuple):
    """`title` as every table spells it; `key` in JSON; `value` of a row: a count, a rate, or ms."""

    title: str
    key: str
    value: Callable[[Row], float]
    decimals: int  # that are shown in a file; ms are given to the ns


def _stage(title: str, name: str) -> Column:
    return Column(title, f"{name}_ms", lambda row: int(getattr(row.stages, f"{name}_ns")) / 1e6, 6)


def _latency(title: str, name: str) -> Column:
    return Column(title, f"{name}_latency_ms", lambda row: int(getattr(row.latencies, f"{name}_ns")) / 1e6, 6)


COLUMNS = (
    Column("Batch", "batch", lambda row: row.batch, 0),
    Column("Concurrency", "concurrency", lambda row: row.concurrency, 0),
    Column("Inferences/Second", "inferences_per_s", lambda row: row.inferences_per_s, 2),
    _stage("Client Send (ms)", "client_send"),
    _stage("Network+Server Send/Recv (ms)", "network"),
    _stage("Server Queue (ms)", "queue"),
    _stage("Server Compute Input (ms)", "compute_input"),
    _stage("Server Compute Infer (ms)", "compute_infer"),
    _stage("Server Compute Output (ms)", "compute_output"),
    _stage("Client Recv (ms)", "client_recv"),
    _latency("p50 latency (ms)", "p50"),
    _latency("p90 latency (ms)", "p90"),
    _latency("p95 latency (ms)", "p95"),
    _latency("p99 latency (ms)", "p99"),
    _latency("avg latency (ms)", "avg"),
    _stage("Unaccounted", "unaccounted"),
)
"""In the order of Triton's perf_analyzer, with what is left over at the end."""


def document(row: Row) -> dict[str, Any]:
    """The row for JSON: every column by its key, then how it came about."""
    figures = {column.key: round(column.value(row), column.decimals) for column in COLUMNS}
    return figures | {"requests": row.requests, "windows": row.windows, "stable": row.is_stable}
