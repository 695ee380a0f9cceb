# SPDX-License-Identifier: Apache-2.0
"""Calls that share device memory between processes.

A handle names its exporter, the descriptor of the memory there, and what to expect behind it. It is opened through /proc, which
ends with the exporter, and finds something else when the memory was freed.
"""

from __future__ import annotations

import ctypes
import os
import struct

from .errors import DeviceFault
from .machine import MACHINE, call
from .memory import Allocation, Kind
from .types import cudaIpcMemHandle_t

LAYOUT = struct.Struct("<8sIIQQQ16s8x")
MAGIC = b"simulate"

_opened: dict[bytes, Allocation] = {}


@call(results=1)
def cudaIpcGetMemHandle(devPtr: int) -> cudaIpcMemHandle_t:
    _check_supported()
    one = MACHINE.memory.around(devPtr)
    if one is None or one.is_freed or one.kind is not Kind.DEVICE or one.address != devPtr:
        raise DeviceFault("cudaErrorInvalidValue")
    one.is_exported = True
    handle = cudaIpcMemHandle_t()
    inode = os.fstat(one.fd).st_ino
    octets = MACHINE.devices[one.ordinal].octets
    packed = LAYOUT.pack(MAGIC, os.getpid(), one.fd, inode, one.byte_size, one.address, octets)
    ctypes.memmove(handle.getPtr(), packed, 64)
    return handle


@call(results=1)
def cudaIpcOpenMemHandle(handle: cudaIpcMemHandle_t, flags: int) -> int:
    _check_supported()
    ordinal = MACHINE.context()
    MACHINE.guard()
    if flags != 1:
        raise DeviceFault("cudaErrorInvalidValue")
    raw = ctypes.string_at(handle.getPtr(), 64)
    again = _opened.get(raw)
    if again is not None:
        again.opened += 1
        return again.address
    magic, pid, fd, inode, byte_size, _, octets = LAYOUT.unpack(raw)
    if magic != MAGIC:
        raise DeviceFault("cudaErrorInvalidValue")
    if pid == os.getpid():
        raise DeviceFault("cudaErrorDeviceUninitialized")
    found = [index for index, device in enumerate(MACHINE.devices) if device.octets == octets]
    one = _mapped(pid, fd, inode, byte_size, found[0] if found else ordinal)
    one.opened = 1
    _opened[raw] = one
    return one.address


@call()
def cudaIpcCloseMemHandle(devPtr: int) -> None:
    MACHINE.guard()
    one = MACHINE.memory.around(devPtr)
    if one is None or one.kind is not Kind.IMPORT or one.is_freed or one.address != devPtr:
        MACHINE.violate(f"closing {devPtr:#x}, which is not another process's memory that is open")
        raise DeviceFault("cudaErrorInvalidValue")
    one.opened -= 1
    if one.opened:
        return
    if MACHINE.users(one.address, one.extent):
        MACHINE.violate(f"{one!r} is closed with work in flight that uses it")
        MACHINE.drain_all()
    MACHINE.memory.free(one)
    for raw in [raw for raw, known in _opened.items() if known is one]:
        del _opened[raw]


def _mapped(pid: int, fd: int, inode: int, byte_size: int, ordinal: int) -> Allocation:
    try:
        exporter = os.pidfd_open(pid)
    except OSError:
        raise DeviceFault("cudaErrorMapBufferObjectFailed") from None
    try:
        theirs = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.close(exporter)
        raise DeviceFault("cudaErrorMapBufferObjectFailed") from None
    try:
        if os.fstat(theirs).st_ino != inode:
            os.close(exporter)
            raise DeviceFault("cudaErrorInvalidResourceHandle")
        one = MACHINE.memory.place_import(theirs, byte_size, ordinal)
    finally:
        os.close(theirs)
    one.exporter = exporter
    return one


def _check_supported() -> None:
    if MACHINE.has_no_ipc:
        raise DeviceFault("cudaErrorNotSupported")
