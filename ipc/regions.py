# SPDX-License-Identifier: Apache-2.0
"""Shared memory without a name: sealed memfds, and mappings whose end waits for the last view.

Memory is reserved when it is made (posix_fallocate; ftruncate promises memory that may not be there, and the first touch is
then a SIGBUS) and sealed against changes of size, so that whoever maps it can rely on it to its end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from types import TracebackType
from typing import final

import numpy as np
import numpy.typing as npt

from .available_memory import available_bytes
from .errors import MachineError, invalid

F_SEAL_FUTURE_WRITE = 0x0010  # linux/fcntl.h, since Linux 5.1; Python does not name it
_REQUIRED_SEALS = {"SHRINK": fcntl.F_SEAL_SHRINK, "GROW": fcntl.F_SEAL_GROW, "SEAL": fcntl.F_SEAL_SEAL}
_READ_ONLY_SEALS = fcntl.F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
LARGE_BYTES = 16 * 1024 * 1024
"""From here on it is asked first whether there is that much: the answer takes about 0.1 ms."""


def create_memfd(name: str, byte_size: int) -> int:
    """A memfd of `byte_size` zero bytes, reserved and sealed. `name` is for /proc only. Raises MachineError with the sizes."""
    if byte_size < 1:
        raise invalid(f"memory '{name}': byte_size must be at least 1, got {byte_size}")
    fd = -1
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        reserve(fd, byte_size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except (OSError, OverflowError) as error:
        if fd >= 0:
            os.close(fd)
        raise no_memory(name, byte_size, error) from error
    return fd


def reserve(fd: int, byte_size: int) -> None:
    """Gives the object its size and its memory. Raises OSError (ENOSPC, ENOMEM and the like) or OverflowError."""
    if byte_size >= LARGE_BYTES and byte_size > available_bytes():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    os.posix_fallocate(fd, 0, byte_size)


def no_memory(name: str, byte_size: int, error: OSError | OverflowError) -> MachineError:
    """The refusal to reserve memory, with what was asked for and what there is."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return MachineError(f"memory '{name}': {byte_size} bytes are not to be had ({reason}), {available_bytes()} are available")


def check_memfd(fd: int, byte_size: int) -> None:
    """Checks memory that a client hands over: sealed, writable, reserved, at least `byte_size` long. Raises CallerError."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise invalid(f"the descriptor is not a memfd (F_GET_SEALS: {error.strerror})") from error
    missing = [name for name, seal in _REQUIRED_SEALS.items() if not seals & seal]
    if missing:
        raise invalid(f"the memfd lacks the seals {', '.join('F_SEAL_' + name for name in missing)}")
    if seals & _READ_ONLY_SEALS or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise invalid("the memfd cannot be written: it is sealed against writing or open for reading only")
    status = os.fstat(fd)
    if status.st_size < byte_size:
        raise invalid(f"the memfd holds {status.st_size} bytes, {byte_size} are needed")
    if status.st_blocks * 512 < byte_size:
        raise invalid(
            f"the memfd has {status.st_blocks * 512} of {byte_size} bytes reserved; use posix_fallocate, not ftruncate"
        )


@final
class Mapping:
    """Shared memory in this process's address space: `array` (uint8) views it, `address` is where it begins.

    The memory stays mapped until `close` and until the last array made from `array` is gone, whichever comes later; so a
    view can never be left pointing at nothing.
    """

    __slots__ = ("address", "array", "byte_size", "closed")

    def __init__(self, fd: int, byte_size: int, offset: int = 0) -> None:
        if byte_size < 1 or offset < 0:
            raise invalid(f"cannot map {byte_size} bytes at offset {offset}")
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            memory = mmap.mmap(fd, offset - start + byte_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
        except (ValueError, OverflowError) as error:  # beyond the end of the object
            raise invalid(f"cannot map {byte_size} bytes at offset {offset}: the memory holds {_size(fd)} bytes") from error
        except OSError as error:
            raise MachineError(f"cannot map {byte_size} bytes at offset {offset}: {error.strerror}") from error
        self.byte_size = byte_size
        self.array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8, byte_size, offset - start)
        self.address: int = self.array.ctypes.data
        self.closed = False

    def __repr__(self) -> str:
        return f"<Mapping {self.byte_size} bytes {'closed' if self.closed else f'at {self.address:#x}'}>"

    def check_invariants(self) -> None:
        """Open, and the whole of it visible; or closed, and nothing."""
        assert len(self.array) == (0 if self.closed else self.byte_size), self

    def close(self) -> None:
        """Gives up the memory; it is unmapped when the last view is gone. Idempotent."""
        # The arrays hold the mmap object; mmap.close() would be a BufferError while they do, its deallocation waits for them.
        self.array = np.empty(0, np.uint8)
        self.address = 0
        self.closed = True

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _size(fd: int) -> int:
    return os.fstat(fd).st_size
