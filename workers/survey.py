# SPDX-License-Identifier: Apache-2.0
"""`python -m penstock.workers.survey`: which GPUs workers of this environment would find, as one line of JSON (ipc/gpus.py).

A process of its own, because the broker never loads CUDA: a driver that hangs or crashes costs the survey and nothing else.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..ipc import cuda
from ..ipc.errors import PenstockError
from ..ipc.gpus import Gpus, encode_gpus


def survey() -> Gpus:
    """The GPUs, or why there is none."""
    try:
        found = tuple(cuda.gpus())
        driver, runtime = _release(cuda.call("cudaDriverGetVersion")), _release(cuda.call("cudaRuntimeGetVersion"))
    except PenstockError as error:
        return Gpus(reason=error.message)
    if not found:
        return Gpus(reason="the driver shows no GPU to this process; see CUDA_VISIBLE_DEVICES", driver=driver, runtime=runtime)
    return Gpus(found, "", driver, runtime, usable_backends())


def usable_backends() -> tuple[str, ...]:
    """The backends that can use a GPU, told by what is installed, without importing it."""
    usable = ["identity"]
    if _version("onnxruntime-gpu"):
        usable.append("onnxruntime")
    torch = _version("torch")
    if torch and not torch.endswith("+cpu"):
        usable.append("pytorch")
    if find_spec("tensorrt") is not None:
        usable.append("tensorrt")
    return tuple(usable)


def _release(number: int) -> str:
    """CUDA's 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _version(distribution: str) -> str:
    """Of an installed distribution; "": it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.stdout.buffer.write(encode_gpus(survey()) + b"\n")
