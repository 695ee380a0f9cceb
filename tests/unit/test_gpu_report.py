# SPDX-License-Identifier: Apache-2.0
"""What bench/gpu.py makes of its figures: each goal with what was measured, and a rehearsal that nobody can take for a result."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        from on_gpu import report
    finally:
        sys.path.remove(str(BENCH))
    return report


def row(model: str = "convnet", batch: int = 1, memory: str = "memfd", busy: str = "auto", **figures: float) -> dict[str, Any]:
    return {
        "model": model,
        "batch": batch,
        "memory": memory,
        "busy_wait": busy,
        "beyond_raw_us": 0.0,
        "beyond_infer_us": 0.0,
    } | figures


CASES = [
    (row(beyond_raw_us=160.0), "<= 0.16 ms", "met"),
    (row(beyond_raw_us=170.0), "<= 0.16 ms", "missed by 0.010 ms"),
    (row(busy="always", beyond_raw_us=79.0), "<= 0.08 ms", "met"),
    (row(busy="always", beyond_raw_us=120.0), "<= 0.08 ms", "missed by 0.040 ms"),
    (row(batch=64, beyond_raw_us=1500.0), "<= 1 ms", "missed by 0.500 ms"),
    (row(batch=8, memory="cuda", beyond_infer_us=100.0), "<= 0.1 ms", "met"),
    (row(batch=64, memory="cuda", beyond_infer_us=250.0), "<= 0.1 ms", "missed by 0.150 ms"),
]


@pytest.mark.parametrize(("measured", "limit", "verdict"), CASES)
def test_a_goal_is_met_or_missed_by_so_much(report: ModuleType, measured: dict[str, Any], limit: str, verdict: str) -> None:
    (goal,) = report.goals([measured], [])
    assert (goal["limit"], goal["verdict"]) == (limit, verdict)


def test_what_has_no_goal_gets_none_and_throughput_has_one(report: ModuleType) -> None:
    assert report.goals([row(batch=8), row("identity")], []) == []
    served = [{"model": "chain", "batch": 8, "percent_of_raw": percent} for percent in (95.0, 90.0)]
    assert [goal["verdict"] for goal in report.goals([], served)] == ["met", "missed by 5.0"]


def test_a_rehearsal_says_so_first_and_last(report: ModuleType) -> None:
    facts = {"processor": "p", "cores": 2, "kernel": "k", "python": "3", "packages": {}, "date": "2026-11-21"}
    device = {"name": "Simulated GPU 0", "memory_gib": 8, "uuid": "GPU-0", "driver": "13.0", "runtime": "13.0"}
    text = report.markdown(
        {"rehearsal": report.REHEARSAL, "machine": facts, "device": device, "complete": True, "left_out": []}
    )
    assert text.startswith(f"# {report.REHEARSAL}") and text.endswith(f"{report.REHEARSAL}\n")
    assert report.markdown({"rehearsal": "", "machine": facts, "device": device, "complete": True, "left_out": []}).startswith(
        "# Simulated GPU 0"
    )
