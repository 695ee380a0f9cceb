# SPDX-License-Identifier: Apache-2.0
"""Runs of plausible shape, for the tests of whatever reads them: `run()` is one, and each figure follows from where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.clients.perf.run_file import Machine, Measured, RowRecord, Run

BATCHES = (1, 2, 4, 8, 16, 32, 64)
STAGES = ("client_send", "network", "queue", "compute_input", "compute_infer", "compute_output", "client_recv", "unaccounted")


def row(batch: int = 1, concurrency: int = 1, rate: float | None = None, speed: float = 1.0, **changed: Any) -> RowRecord:
    """Stages that grow with the batch and wait with the concurrency; `speed` divides what is computed."""
    infer_ms = (0.113 + 0.0171 * batch) / speed
    stages = (
        0.0171 + 0.0003 * batch, 0.0613, 0.0131 + infer_ms * (concurrency - 1), 0.0043 * batch**0.5, infer_ms,
        0.0029 * batch**0.5, 0.0117, 0.0007,
    )  # fmt: skip
    latency_ms = sum(stages)
    throughput = rate * batch if rate is not None else batch * concurrency * 1e3 / latency_ms
    figures = {f"{name}_ms": value for name, value in zip(STAGES, stages, strict=True)}
    figures |= {f"p{percent}_latency_ms": latency_ms * (0.93 + (percent / 95) ** 9) for percent in (50, 90, 95, 99)}
    figures |= {"avg_latency_ms": latency_ms, "inferences_per_s": throughput}
    figures |= {"inferences_per_s_low": throughput * 0.981, "inferences_per_s_high": throughput * 1.019}
    known = {"requests": 3000 + 7 * batch + concurrency, "windows": 3, "stable": True, "client_cpu_percent": 41.3}
    return RowRecord(batch=batch, concurrency=concurrency, request_rate=rate, **{**figures, **known, **changed})


def offline(batches: Iterable[int] = BATCHES, concurrencies: Sequence[int] = (1,), **changed: Any) -> tuple[RowRecord, ...]:
    """Every batch size at every concurrency."""
    return tuple(row(batch, concurrency, **changed) for concurrency in concurrencies for batch in batches)


def run(rows: Sequence[RowRecord] | None = None, title: str = "digits, offline, local link", **changed: Any) -> Run:
    """One run of the digits."""
    machine = Machine(
        processor="AMD EPYC 7B13", cores=2, memory_gib=7.8, kernel="Linux 6.1.0-18-amd64 x86_64", python="CPython 3.11.7"
    )
    measured = Measured(
        server="penstock 0.1.0", link="local", model="digits", version=1, shared_memory="memfd", input_data="random", seed=0,
        processes=1,
    )  # fmt: skip
    configuration = {
        "Hardware": "AMD EPYC 7B13, 2 cores", "Backend": "onnxruntime", "Backend accelerator": "-", "Precision": "FP32",
        "Model format": "ONNX", "Max batch size": "64", "Number of model instances": "2", "Export format": "ONNX",
        "Device kind": "CPU", "Torch jit": "-",
    }  # fmt: skip
    said: dict[str, Any] = {
        "began": "2026-11-21T19:00:00Z", "seconds": 31.4, "command": "penstock perf digits --evaluation-mode offline --result-dir results",
        "evaluation_mode": "offline", "load": "closed loop", "machine": machine, "packages": {"numpy": "2.3.4", "onnxruntime": "1.23.2"},
        "measured": measured, "configuration": configuration,
    }  # fmt: skip
    return Run(title=title, rows=offline() if rows is None else tuple(rows), **{**said, **changed})
