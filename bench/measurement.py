# SPDX-License-Identifier: Apache-2.0
"""What every bench measures with: CPU time of other processes, percentiles, medians of alternating runs, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Row = dict[str, Any]
CPUCLOCK_SCHED = 2
"""Linux, posix-timers.h: the clock of the time that a process was running, in ns, its ended threads included."""


def cpu_ns(pid: int) -> int:
    """CPU time that a process has used. Raises OSError when there is no such process."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)


def children_of(pid: int) -> list[int]:
    """The processes that a process started, of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def percentiles_us(latencies_ns: npt.NDArray[np.int64]) -> dict[str, float]:
    p50, p99 = np.percentile(latencies_ns, (50, 99))
    return {"p50_us": round(float(p50) / 1e3, 1), "p99_us": round(float(p99) / 1e3, 1)}


def alternate(sides: Mapping[str, Callable[[], Row]], rounds: int) -> dict[str, list[Row]]:
    """Runs the sides by turns, so that a slow minute of the machine strikes all of them; the rows of each, in order."""
    rows: dict[str, list[Row]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides) if turn % 2 == 0 else list(reversed(sides))
        for name in names:
            rows[name].append(sides[name]())
    return rows


def median_row(rows: Sequence[Row]) -> Row:
    """One row with the median of each measured figure; what is the same in all rows is kept."""
    first = rows[0]
    merged: Row = {}
    for key, value in first.items():
        values = [row[key] for row in rows]
        same = all(other == value for other in values) or not isinstance(value, int | float)
        merged[key] = value if same else round(statistics.median(values), 2)
    return merged


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processors = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages: dict[str, str] = {}
    for name in ("penstock", "numpy", "onnxruntime", "pyzmq", "msgspec", "torch", "cupy", "cuda-bindings", "tensorrt"):
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "processor": processors[0] if processors else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
        "date": time.strftime("%Y-%m-%d"),
    }
