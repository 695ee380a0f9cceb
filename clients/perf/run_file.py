# SPDX-License-Identifier: Apache-2.0
"""A measurement as it is kept: one JSON document per run, from which `penstock report` makes its tables and plots.

Whatever measures (`penstock perf`, the runners in `bench/`) writes it; whatever shows figures reads it. Unknown keys are
refused, so that an older report does not silently leave out what a newer run says.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from ...ipc.errors import invalid

FORMAT: Literal["penstock perf run 1"] = "penstock perf run 1"


class _AnyDocument(Struct):
    format: str


class Machine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it ran on."""

    processor: str
    cores: int  # that this process may use
    memory_gib: float
    kernel: str
    python: str
    gpus: tuple[str, ...] = ()


class Measured(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, and over what."""

    server: str  # "penstock 0.1.0", "triton 2.51.0"
    link: str
    address: str = ""
    model: str
    version: int
    shared_memory: str
    input_data: str
    seed: int
    processes: int  # client processes


class RowRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table. Times in ms, means per request unless named otherwise; docs/performance.md defines each."""

    batch: int
    concurrency: int  # requests in flight; of an open loop, the most there were
    request_rate: float | None = None  # requests/s asked for, of an open loop
    inferences_per_s: float
    inferences_per_s_low: float  # 95 % confidence interval of the mean throughput
    inferences_per_s_high: float
    client_send_ms: float
    network_ms: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    client_recv_ms: float
    p50_latency_ms: float
    p90_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    avg_latency_ms: float
    unaccounted_ms: float
    requests: int
    failed: int = 0
    windows: int
    stable: bool
    client_cpu_percent: float  # of one core, of the busiest client process
    notes: tuple[str, ...] = ()  # what a reader must know of this row


class Run(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of one model: a row for each point of its plan that was measured."""

    format: Literal["penstock perf run 1"] = FORMAT
    title: str
    began: str  # ISO 8601, UTC
    seconds: float
    command: str
    evaluation_mode: Literal["offline", "online"]
    load: Literal["closed loop", "poisson", "constant"]
    machine: Machine
    packages: dict[str, str]  # name -> version
    measured: Measured
    configuration: dict[str, str]  # a row for each: Hardware, Backend, Backend accelerator, Precision, Model format, ...
    rows: tuple[RowRecord, ...]
    notes: tuple[str, ...] = ()
    complete: bool = True  # False: it was interrupted, or failed; these rows were measured before


def run_text(run: Run) -> str:
    """The document."""
    return msgspec.json.format(msgspec.json.encode(run)).decode() + "\n"


def write_run(run: Run, path: Path) -> None:
    """Replaces what is there, at once. Raises OSError."""
    replace_text(path, run_text(run))


def replace_text(path: Path, text: str) -> None:
    """Whoever reads the file meanwhile, or after a failure, finds all that was there before. Raises OSError naming `path`."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # there is one only where it was not finished, and what was wrong then is what is said
            beside.unlink()


def read_run(path: Path) -> Run:
    """Raises OSError, and CallerError naming what is wrong with the document."""
    text = path.read_bytes()
    try:
        return msgspec.json.decode(text, type=Run)
    except msgspec.MsgspecError as error:
        said = format_of(text)
        why = f"it is a '{said}', and this version of penstock reads '{FORMAT}'" if said not in ("", FORMAT) else error
        raise invalid(f"{path} is no measurement of penstock perf: {why}") from None


def format_of(text: bytes) -> str:
    """What a document says it is, even where it is cut off or no JSON for another reason; "" where it says nothing."""
    try:
        return msgspec.json.decode(text, type=_AnyDocument).format
    except msgspec.ValidationError:
        return ""
    except msgspec.DecodeError:
        found = re.search(rb'"format": *"([^"\\]*)"', text)
        return found[1].decode(errors="replace") if found else ""
