# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extensions over gRPC."""

from __future__ import annotations

from typing import Any

from ..callers import Caller
from ..shared_memory import SharedMemory
from .schema import pb


async def system_status(memory: SharedMemory, request: Any, caller: Caller) -> Any:
    """The caller's POSIX segments by name."""
    response = pb.SystemSharedMemoryStatusResponse()
    for row in await memory.status(caller, "system", request.name):
        region = response.regions[row["name"]]
        region.name, region.key, region.offset, region.byte_size = (
            row[name] for name in ("name", "key", "offset", "byte_size")
        )
    return response


async def cuda_status(memory: SharedMemory, request: Any, caller: Caller) -> Any:
    """The caller's CUDA memory by name."""
    response = pb.CudaSharedMemoryStatusResponse()
    for row in await memory.status(caller, "cuda", request.name):
        region = response.regions[row["name"]]
        region.name, region.device_id, region.byte_size = (row[name] for name in ("name", "device_id", "byte_size"))
    return response


async def register_system(memory: SharedMemory, request: Any, caller: Caller) -> Any:
    """Registers a POSIX segment."""
    await memory.register_system(caller, request.name, request.key, request.offset, request.byte_size)
    return pb.SystemSharedMemoryRegisterResponse()


async def register_cuda(memory: SharedMemory, request: Any, caller: Caller) -> Any:
    """Registers CUDA memory."""
    await memory.register_cuda(caller, request.name, request.raw_handle, request.device_id, request.byte_size)
    return pb.CudaSharedMemoryRegisterResponse()
