# SPDX-License-Identifier: Apache-2.0
"""What lies behind addresses: device memory (reserved addresses, shared memory behind them) and host memory that is pinned."""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import select
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceFault

Octets = npt.NDArray[np.uint8]

SPACE_BYTES = 1 << 40
BLOCK_BYTES = 2 << 20
"""cudaMalloc takes memory in blocks of so many bytes, and IPC shares whole blocks."""
UNDEFINED, FREED = 0xCD, 0xDB
FILLED_BELOW = 64 << 20
"""Larger memory is left zero, as filling it would take longer than a test should."""
MAP_NORESERVE = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Kind(Enum):
    DEVICE = auto()
    POOL = auto()
    IMPORT = auto()  # another process's DEVICE, by its handle
    MANAGED = auto()
    PINNED = auto()  # cudaHostAlloc
    REGISTERED = auto()  # cudaHostRegister

    @property
    def is_host(self) -> bool:
        return self in (Kind.MANAGED, Kind.PINNED, Kind.REGISTERED)


class Allocation:
    """One piece of memory. `extent` is what is behind the address, `byte_size` what was asked for."""

    def __init__(self, kind: Kind, address: int, byte_size: int, extent: int, ordinal: int, octets: Octets) -> None:
        self.kind = kind
        self.address = address
        self.byte_size = byte_size
        self.extent = extent
        self.ordinal = ordinal
        self.octets = octets
        self.is_freed = False
        self.is_read_only = False
        #: whether another process may have it
        self.is_exported = False
        #: of a DEVICE: the memory's descriptor, which others open
        self.fd = -1
        #: of an IMPORT: how often it was opened, and its exporter's pidfd
        self.opened = 0
        self.exporter = -1
        #: of PINNED and MANAGED: what keeps the memory
        self.keeper: Any = None

    def __repr__(self) -> str:
        state = ", freed" if self.is_freed else ""
        return f"<{self.kind.name.lower()} memory of {self.byte_size} bytes at {self.address:#x}{state}>"

    @property
    def end(self) -> int:
        return self.address + self.extent


class Memory:
    """All memory that CUDA knows of in this process. Device addresses are never used again, so that old ones are recognised."""

    def __init__(self, violate: Callable[[str], None]) -> None:
        self._violate = violate
        self._space = _libc.mmap(None, SPACE_BYTES, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if self._space in (None, ctypes.c_void_p(-1).value):
            raise MemoryError("the simulation cannot reserve addresses")
        #: another process has the same memory elsewhere
        self._next = self._space + (os.getpid() % 4096) * BLOCK_BYTES
        #: by address, rising: on the device, the freed included, and on the host
        self._device: dict[int, Allocation] = {}
        self._host: dict[int, Allocation] = {}
        self._device_order: list[int] = []

    def living(self) -> list[Allocation]:
        return [one for one in (*self._device.values(), *self._host.values()) if not one.is_freed]

    def used_bytes(self, ordinal: int) -> int:
        own = (Kind.DEVICE, Kind.POOL, Kind.MANAGED)
        return sum(one.byte_size for one in self.living() if one.kind in own and one.ordinal == ordinal)

    def pinned_bytes(self) -> int:
        return sum(one.byte_size for one in self.living() if one.kind in (Kind.PINNED, Kind.REGISTERED))

    def allocate(self, kind: Kind, byte_size: int, ordinal: int) -> Allocation:
        """New memory on a device, of undefined content."""
        fd = os.memfd_create("simulated-device-memory", os.MFD_CLOEXEC)
        extent = max(-(-byte_size // BLOCK_BYTES), 1) * BLOCK_BYTES
        os.ftruncate(fd, extent)
        made = self._place(kind, fd, byte_size, byte_size, ordinal)
        made.fd = fd
        if byte_size <= FILLED_BELOW:
            made.octets[:] = UNDEFINED
        return made

    def place_import(self, fd: int, byte_size: int, ordinal: int) -> Allocation:
        """Another process's memory at an address of this one; whole blocks of it can be reached."""
        extent = max(-(-byte_size // BLOCK_BYTES), 1) * BLOCK_BYTES
        return self._place(Kind.IMPORT, fd, byte_size, extent, ordinal)

    def _place(self, kind: Kind, fd: int, byte_size: int, extent: int, ordinal: int) -> Allocation:
        octets = np.frombuffer(mmap.mmap(fd, extent), np.uint8)[:extent]
        made = Allocation(kind, self._next, byte_size, extent, ordinal, octets)
        self._next += -(-extent // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES  # what runs over an end meets nothing
        assert self._next < self._space + SPACE_BYTES, "the simulation is out of addresses"
        self._device[made.address] = made
        self._device_order.append(made.address)
        return made

    def allocate_host(self, kind: Kind, byte_size: int, ordinal: int) -> Allocation:
        keeper = mmap.mmap(-1, max(byte_size, 1))
        octets = np.frombuffer(keeper, np.uint8)
        octets[:] = UNDEFINED
        made = Allocation(kind, octets.ctypes.data, byte_size, byte_size, ordinal, octets)
        made.keeper = keeper
        self._host[made.address] = made
        return made

    def register(self, address: int, byte_size: int, ordinal: int, read_only: bool) -> None:
        for one in self._host.values():
            if one.address < address + byte_size and address < one.end:
                raise DeviceFault("cudaErrorHostMemoryAlreadyRegistered")
        if not _is_mapped(address, byte_size, "r" if read_only else "rw"):
            raise DeviceFault("cudaErrorInvalidValue")
        made = Allocation(Kind.REGISTERED, address, byte_size, byte_size, ordinal, host_octets(address, byte_size))
        made.is_read_only = read_only
        self._host[address] = made

    def free(self, one: Allocation) -> None:
        """Ends an allocation. Who has it by IPC, or a view, finds other content in it from now on."""
        one.is_freed = True
        if one.is_exported and one.extent <= FILLED_BELOW:
            one.octets[:] = FREED
        for fd in (one.fd, one.exporter):
            if fd >= 0:
                os.close(fd)
        one.fd = one.exporter = -1
        one.octets, one.keeper = np.empty(0, np.uint8), None
        if one.kind.is_host:
            del self._host[one.address]

    def host_at(self, address: int) -> Allocation | None:
        """The pinned or managed memory that begins here."""
        return self._host.get(address)

    def is_device(self, address: int) -> bool:
        return bool(self._space <= address < self._space + SPACE_BYTES)

    def around(self, address: int) -> Allocation | None:
        """The memory that an address lies in: CUDA knows no other."""
        if self.is_device(address):
            index = bisect.bisect_right(self._device_order, address) - 1
            found = self._device[self._device_order[index]] if index >= 0 else None
        else:
            found = next((one for one in self._host.values() if one.address <= address < one.end), None)
        return found if found is not None and address < found.end else None

    def is_pageable(self, address: int, byte_size: int) -> bool:
        """Whether memory is the host's and not pinned. Raises DeviceFault for a range that is half in one registration."""
        if self.is_device(address):
            return False
        touched = [one for one in self._host.values() if one.address < address + byte_size and address < one.end]
        if not touched:
            return True
        if len(touched) > 1 or address < touched[0].address or address + byte_size > touched[0].end:
            raise DeviceFault("cudaErrorInvalidValue")
        return False

    def octets(self, address: int, byte_size: int, to_write: bool) -> Octets:
        """The bytes at an address, as the device sees them. Raises DeviceFault for what the device would fault on."""
        if not self.is_device(address):
            pinned = self.around(address)
            if pinned is not None and pinned.is_read_only and to_write:
                self._violate(f"a write into {pinned!r}, which was registered for reading only")
                raise DeviceFault("cudaErrorIllegalAddress")
            return host_octets(address, byte_size)
        one = self.around(address)
        if one is None or address + byte_size > one.end:
            self._violate(f"{byte_size} bytes at {address:#x} are out of bounds{f' of {one!r}' if one else ''}")
            raise DeviceFault("cudaErrorIllegalAddress")
        if one.is_freed:
            self._violate(f"{byte_size} bytes at {address:#x} are used after they were given back: {one!r}")
            raise DeviceFault("cudaErrorIllegalAddress")
        if one.exporter >= 0 and _has_ended(one.exporter):
            one.octets[:] = FREED
            os.close(one.exporter)
            one.exporter = -1
        start = address - one.address
        return one.octets[start : start + byte_size]

    def close(self) -> None:
        for one in self.living():
            self.free(one)
        self._device.clear()
        _libc.munmap(self._space, SPACE_BYTES)


def host_octets(address: int, byte_size: int) -> Octets:
    return np.ctypeslib.as_array((ctypes.c_uint8 * byte_size).from_address(address))


def _is_mapped(address: int, byte_size: int, access: str) -> bool:
    """Whether this process has memory there throughout, with that access."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            bounds, allowed = line.split()[:2]
            begin, end = (int(bound, 16) for bound in bounds.split("-"))
            if begin <= address < end:
                if not set(access) <= set(allowed):
                    return False
                if address + byte_size <= end:
                    return True
                address, byte_size = end, address + byte_size - end
    return False


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
