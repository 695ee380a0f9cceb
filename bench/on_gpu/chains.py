# SPDX-License-Identifier: Apache-2.0
"""A chain of small kernels: what a small network is to a GPU, and what is launched, captured and overlapped here.

Made with torch, else with cupy, else of small copies within the device, which need nothing but CUDA.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from penstock.workers.devices.cuda import Copy, CopyKind, DeviceBuffer, Stream, copy_all

KERNELS = 60
WIDTH = 32 * 1024
"""Elements per kernel: microseconds of work, on a fraction of the GPU."""


def kernel_chain(stream: Stream) -> tuple[str, Callable[[], Any]]:
    """What it is made with, and a function that puts it into the stream."""
    if importlib.util.find_spec("torch") is not None:
        chain = _with_torch(stream)
        if chain is not None:
            return "torch", chain
    if importlib.util.find_spec("cupy") is not None:
        return "cupy", _with_cupy(stream)
    return "copies", _with_copies(stream)


def _with_torch(stream: Stream) -> Callable[[], Any] | None:
    """None where this torch has no CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    external = torch.cuda.ExternalStream(stream.address, device=stream.device.ordinal)
    x = torch.ones(WIDTH, device=f"cuda:{stream.device.ordinal}")
    torch.cuda.synchronize()

    def run() -> None:
        with torch.cuda.stream(external), torch.inference_mode():
            for _ in range(KERNELS):
                x.mul_(1.0001)

    return run


def _with_cupy(stream: Stream) -> Callable[[], Any]:
    import cupy

    external = cupy.cuda.ExternalStream(stream.address)
    x = cupy.ones(WIDTH, cupy.float32)
    cupy.cuda.Device().synchronize()

    def run() -> None:
        with external:
            for _ in range(KERNELS):
                cupy.multiply(x, cupy.float32(1.0001), out=x)

    return run


def _with_copies(stream: Stream) -> Callable[[], Any]:
    here, there = DeviceBuffer(4 * WIDTH), DeviceBuffer(4 * WIDTH)
    steps = [Copy(there.address, here.address, 4 * WIDTH), Copy(here.address, there.address, 4 * WIDTH)]

    def run() -> None:
        for step in range(KERNELS):
            copy_all([steps[step % 2]], stream, CopyKind.WITHIN_DEVICE)

    return run
