# SPDX-License-Identifier: Apache-2.0
"""Calls that make, pin, describe and free memory."""

from __future__ import annotations

from typing import Any

from .errors import DeviceFault
from .machine import MACHINE, call
from .memory import Kind
from .types import cudaMemoryType, cudaPointerAttributes


@call(results=1)
def cudaMalloc(size: int) -> int:
    return _allocate(Kind.DEVICE, size)


@call(results=1)
def cudaMallocAsync(size: int, hStream: Any) -> int:
    MACHINE.stream(hStream)
    return _allocate(Kind.POOL, size)


@call(results=1)
def cudaMallocManaged(size: int, flags: int) -> int:
    return _allocate_host(Kind.MANAGED, size)


@call(results=1)
def cudaHostAlloc(size: int, flags: int) -> int:
    return _allocate_host(Kind.PINNED, size)


@call(results=1)
def cudaMallocHost(size: int) -> int:
    return _allocate_host(Kind.PINNED, size)


@call()
def cudaFree(devPtr: int) -> None:
    MACHINE.context()
    MACHINE.guard()
    if devPtr:
        _free(devPtr, (Kind.DEVICE, Kind.POOL, Kind.MANAGED))


@call()
def cudaFreeAsync(devPtr: int, hStream: Any) -> None:
    stream = MACHINE.stream(hStream)
    if stream is not None:
        MACHINE.executor.drain(stream)
    _free(devPtr, (Kind.POOL,))


@call()
def cudaFreeHost(ptr: int) -> None:
    MACHINE.guard()
    _free(ptr, (Kind.PINNED,))


@call()
def cudaHostRegister(ptr: int, size: int, flags: int) -> None:
    ordinal = MACHINE.context()
    MACHINE.guard()
    if not ptr or not size:
        raise DeviceFault("cudaErrorInvalidValue")
    _within_pinned_limit(size)
    MACHINE.memory.register(ptr, size, ordinal, read_only=bool(flags & 8))


@call()
def cudaHostUnregister(ptr: int) -> None:
    MACHINE.guard()
    one = MACHINE.memory.host_at(ptr)
    if one is None or one.kind is not Kind.REGISTERED:
        raise DeviceFault("cudaErrorHostMemoryNotRegistered")
    _end(one)


@call(results=1)
def cudaHostGetDevicePointer(pHost: int, flags: int) -> int:
    one = MACHINE.memory.around(pHost)
    if one is None or not one.kind.is_host:
        raise DeviceFault("cudaErrorInvalidValue")
    return pHost


@call(results=1)
def cudaPointerGetAttributes(ptr: int) -> cudaPointerAttributes:
    MACHINE.context()
    one = MACHINE.memory.around(ptr)
    if one is None or one.is_freed:
        return cudaPointerAttributes(
            cudaMemoryType.cudaMemoryTypeUnregistered, -2, 0, 0 if MACHINE.memory.is_device(ptr) else ptr
        )
    if one.kind is Kind.MANAGED:
        return cudaPointerAttributes(cudaMemoryType.cudaMemoryTypeManaged, one.ordinal, ptr, ptr)
    if one.kind.is_host:
        return cudaPointerAttributes(cudaMemoryType.cudaMemoryTypeHost, one.ordinal, ptr, ptr)
    return cudaPointerAttributes(cudaMemoryType.cudaMemoryTypeDevice, one.ordinal, ptr, 0)


def _allocate(kind: Kind, size: int) -> int:
    ordinal = MACHINE.context()
    if kind is Kind.DEVICE:
        MACHINE.guard()
    if not size:
        return 0
    if MACHINE.memory.used_bytes(ordinal) + size > MACHINE.total_bytes:
        raise DeviceFault("cudaErrorMemoryAllocation")
    return MACHINE.memory.allocate(kind, size, ordinal).address


def _allocate_host(kind: Kind, size: int) -> int:
    ordinal = MACHINE.context()
    MACHINE.guard()
    if kind is Kind.PINNED:
        _within_pinned_limit(size)
    return MACHINE.memory.allocate_host(kind, size, ordinal).address


def _within_pinned_limit(size: int) -> None:
    if MACHINE.memory.pinned_bytes() + size > MACHINE.pinned_limit:
        raise DeviceFault("cudaErrorMemoryAllocation")


def _free(address: int, kinds: tuple[Kind, ...]) -> None:
    one = MACHINE.memory.around(address)
    if one is None or one.address != address or one.kind not in kinds or one.is_freed:
        MACHINE.violate(f"freeing {address:#x}, which is {one!r}")
        raise DeviceFault("cudaErrorInvalidValue")
    _end(one)


def _end(one: Any) -> None:
    if MACHINE.users(one.address, one.extent):
        MACHINE.violate(f"{one!r} is given back with work in flight that uses it")
        MACHINE.drain_all()
    MACHINE.memory.free(one)
