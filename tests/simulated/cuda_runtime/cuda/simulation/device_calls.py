# SPDX-License-Identifier: Apache-2.0
"""Calls about devices, versions and errors."""

from __future__ import annotations

from typing import Any

from .errors import MEANINGS, DeviceFault, cudaError_t
from .machine import MACHINE, SUCCESS, call
from .types import cudaDeviceAttr, cudaDeviceProp

VERSION = 13000


@call(results=1)
def cudaGetDeviceCount() -> int:
    if not MACHINE.devices:
        raise DeviceFault("cudaErrorNoDevice")
    return len(MACHINE.devices)


@call()
def cudaSetDevice(device: int) -> None:
    MACHINE.device(device)
    MACHINE.thread.ordinal = device
    MACHINE.contexts.setdefault(device, 0)


@call(results=1)
def cudaGetDevice() -> int:
    MACHINE.device(0)
    ordinal: int = getattr(MACHINE.thread, "ordinal", 0)
    return ordinal


@call()
def cudaSetDeviceFlags(flags: int) -> None:
    MACHINE.contexts[MACHINE.context()] = flags


@call(results=1)
def cudaGetDeviceFlags() -> int:
    return MACHINE.contexts[MACHINE.context()]


@call()
def cudaInitDevice(device: int, deviceFlags: int, flags: int) -> None:
    MACHINE.device(device)
    MACHINE.contexts[device] = deviceFlags if flags & 1 else MACHINE.contexts.get(device, 0)


@call(results=1)
def cudaGetDeviceProperties(device: int) -> cudaDeviceProp:
    simulated = MACHINE.device(device)
    name = f"Simulated GPU {simulated.index}{' MIG 1g.10gb' if MACHINE.is_mig else ''}"
    return cudaDeviceProp(name, simulated.octets, MACHINE.total_bytes, simulated.index + 1)


@call(results=1)
def cudaDeviceGetAttribute(attr: cudaDeviceAttr, device: int) -> int:
    MACHINE.device(device)
    values = {
        cudaDeviceAttr.cudaDevAttrMpsEnabled: int(MACHINE.has_mps),
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: 9,
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: 0,
    }
    return values.get(cudaDeviceAttr(attr), 1)


@call(results=1)
def cudaDeviceGetPCIBusId(length: int, device: int) -> bytes:
    text = f"0000:{MACHINE.device(device).index + 1:02X}:00.0".encode()
    return text.ljust(length, b"\0")


@call(results=2)
def cudaDeviceGetStreamPriorityRange() -> tuple[int, int]:
    MACHINE.context()
    return 0, -5


@call(results=2)
def cudaMemGetInfo() -> tuple[int, int]:
    used = MACHINE.memory.used_bytes(MACHINE.context())
    return MACHINE.total_bytes - used, MACHINE.total_bytes


@call()
def cudaDeviceSynchronize() -> None:
    MACHINE.context()
    MACHINE.guard()
    MACHINE.drain_all()


@call(results=1, survives=True)
def cudaRuntimeGetVersion() -> int:
    return VERSION


@call(results=1, survives=True)
def cudaDriverGetVersion() -> int:
    return VERSION


def cudaGetLastError() -> tuple[cudaError_t]:
    last = MACHINE.lost or getattr(MACHINE.thread, "last", SUCCESS)
    MACHINE.thread.last = SUCCESS
    return (last,)


def cudaPeekAtLastError() -> tuple[cudaError_t]:
    return (MACHINE.lost or getattr(MACHINE.thread, "last", SUCCESS),)


def cudaGetErrorName(error: Any) -> tuple[cudaError_t, bytes]:
    return SUCCESS, cudaError_t(error).name.encode()


def cudaGetErrorString(error: Any) -> tuple[cudaError_t, bytes]:
    return SUCCESS, MEANINGS[cudaError_t(error)].encode()
