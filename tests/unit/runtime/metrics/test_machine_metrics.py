# SPDX-License-Identifier: Apache-2.0
"""The machine's figures, from what the kernel writes."""

from __future__ import annotations

from pathlib import Path

from penstock.runtime.metrics.machine import Machine

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nHugePages_Total:       0\n"


def gauges(machine: Machine) -> dict[str, float]:
    return {family.name: family.samples[0].value for family in machine.families()}


def test_processors_are_busy_since_the_last_look(tmp_path: Path) -> None:
    """idle and iowait are not busy; what guests used is counted as user already."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    machine = Machine(tmp_path)
    (tmp_path / "stat").write_text("cpu  10 0 10 70 10 0 0 0 10 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert gauges(machine)["nv_cpu_utilization"] == 0.2
    (tmp_path / "stat").write_text("cpu  40 0 10 75 15 0 0 0 40 0\n")
    assert gauges(machine)["nv_cpu_utilization"] == 0.75
    assert gauges(machine)["nv_cpu_utilization"] == 0.0


def test_memory_that_programs_can_have_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "stat").write_text("cpu  1 1 1 1 1 1 1 1 1 1\n")
    found = gauges(Machine(tmp_path))
    assert (found["nv_cpu_memory_total_bytes"], found["nv_cpu_memory_used_bytes"]) == (1000 * 1024, 400 * 1024)
