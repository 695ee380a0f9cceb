# SPDX-License-Identifier: Apache-2.0
"""What this process runs on: the machine, and the packages beside it, as a run's document has them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from .run_file import Machine

PACKAGES = ("penstock", "numpy", "pyzmq", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch", "cuda-python", "tritonclient")
"""Those whose version can make a difference to what is measured."""


def this_machine(gpus: Sequence[str]) -> Machine:
    """`gpus` are named by whoever knows them: this process does not load CUDA. Raises OSError."""
    return Machine(
        processor=processor(), cores=len(os.sched_getaffinity(0)), memory_gib=round(_memory_kib() / (1 << 20), 1),
        kernel=f"{platform.system()} {platform.release()}", python=platform.python_version(), gpus=tuple(gpus),
    )  # fmt: skip


def in_words(machine: Machine) -> str:
    """Its processor and how many cores of it there are to compute on."""
    return f"{machine.processor}, {machine.cores} core{'' if machine.cores == 1 else 's'}"


def processor() -> str:
    """As Linux names it (on x86), or else its architecture."""
    return _value("/proc/cpuinfo", "model name") or platform.machine()


def installed(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Those of these packages that are installed here, and their versions."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _memory_kib() -> int:
    return int(_value("/proc/meminfo", "MemTotal").split()[0])


def _value(path: str, key: str) -> str:
    """Of the first line `key : value` of a file; "" where there is none."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        pairs = (line.partition(":") for line in lines)
        return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
