# SPDX-License-Identifier: Apache-2.0
"""What every bench measures with: CPU time of other processes, percentiles, medians of alternating runs, and the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.clients.perf.machine import installed, this_machine

Row = dict[str, Any]
PACKAGES = ("penstock", "numpy", "onnxruntime", "pyzmq", "msgspec", "torch", "cupy", "cuda-bindings", "tensorrt")
"""Those that a bench says the version of."""
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
    here = this_machine(())
    return {
        "processor": here.processor,
        "cores": here.cores,
        "memory_gib": here.memory_gib,
        "kernel": platform.release(),
        "python": here.python,
        "packages": installed(PACKAGES),
        "date": time.strftime("%Y-%m-%d"),
    }
