# SPDX-License-Identifier: Apache-2.0
"""The machine's processors and memory under the names of Triton's metrics guide. Sources: proc_stat(5), proc_meminfo(5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .exposition import Family, Sample

_IDLE, _IOWAIT, _GUEST = 3, 4, 8
"""Columns of a line of /proc/stat: idle ones, and the first of those that are counted in others already."""


class Machine:
    """Looks when it is asked to. Utilization is that since the last look, at first since the machine was started."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._busy = self._total = 0  # ticks of all processors together, at the last look

    def __repr__(self) -> str:
        return f"<Machine {self._busy} of {self._total} ticks busy>"

    def families(self) -> Iterator[Family]:
        """Three gauges."""
        total_bytes, used_bytes = self._memory()
        yield _gauge("nv_cpu_utilization", "Processors that are busy, of all: 0.0 to 1.0", self._utilization())
        yield _gauge("nv_cpu_memory_total_bytes", "Memory of the machine", total_bytes)
        yield _gauge("nv_cpu_memory_used_bytes", "Memory that no program can have", used_bytes)

    def _utilization(self) -> float:
        line = (self._proc / "stat").read_text().partition("\n")[0]
        ticks = [int(column) for column in line.split()[1:]][:_GUEST]
        total = sum(ticks)
        busy = total - ticks[_IDLE] - ticks[_IOWAIT]
        passed = total - self._total
        share = (busy - self._busy) / passed if passed > 0 else 0.0
        self._busy, self._total = busy, total
        return min(max(share, 0.0), 1.0)  # iowait may go back, says proc_stat(5)

    def _memory(self) -> tuple[int, int]:
        lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
        kib = {name.rstrip(":"): int(value) for name, value, *_ in lines}
        return kib["MemTotal"] * 1024, (kib["MemTotal"] - kib["MemAvailable"]) * 1024


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, [Sample({}, value)])
