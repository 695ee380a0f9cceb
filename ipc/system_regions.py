# SPDX-License-Identifier: Apache-2.0
"""POSIX shared memory by name: Triton's `system` kind. The only importer of posix_ipc.

A key is opened once, by the broker; everybody else gets the descriptor, so that what was checked is what is used. The
standard library's SharedMemory is no choice here: its resource tracker unlinks other processes' segments (cpython issue 82300).
"""

from __future__ import annotations

import os
import stat

import posix_ipc

from .errors import CallerError, Code, MachineError, invalid
from .regions import no_memory, reserve

MAX_KEY_BYTES = 254  # NAME_MAX less the leading slash, shm_open(3)
RESERVED_PREFIXES = ("sem.", "triton_python_backend_shm_region_")
"""glibc's named semaphores live in the same directory; Triton reserves the other for its Python backend."""


def normalise_key(key: str) -> str:
    """The key as shm_open wants it: one leading slash, whatever number was given. Raises CallerError for what is no key."""
    name = key.lstrip("/")
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise invalid(f"invalid shared memory key {key!r}: a key is one file name, with or without leading slashes")
    if len(os.fsencode(name)) > MAX_KEY_BYTES:
        raise invalid(f"invalid shared memory key {key!r:.40}: {len(os.fsencode(name))} bytes, at most {MAX_KEY_BYTES}")
    for prefix in RESERVED_PREFIXES:
        if name.startswith(prefix):
            raise invalid(f"shared memory key {key!r} has the reserved prefix {prefix!r}")
    return "/" + name


def create_system(key: str, byte_size: int) -> int:
    """Makes a segment of `byte_size` reserved zero bytes, readable and writable for its owner only. The caller unlinks it.

    Raises CallerError when the key exists, MachineError with the sizes when the memory is not to be had.
    """
    name = normalise_key(key)
    if byte_size < 1:
        raise invalid(f"shared memory key {key!r}: byte_size must be at least 1, got {byte_size}")
    try:
        fd: int = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd
    except posix_ipc.ExistentialError as error:
        raise CallerError(f"shared memory key {key!r} exists already", Code.ALREADY_EXISTS) from error
    except OSError as error:
        raise MachineError(f"shared memory key {key!r} cannot be made: {error.strerror or error}") from error
    try:
        reserve(fd, byte_size)
    except (OSError, OverflowError) as error:
        os.close(fd)
        unlink_system(key)
        raise no_memory(key, byte_size, error) from error
    return fd


def open_system(key: str) -> int:
    """A descriptor of the segment, for reading and writing. Raises CallerError naming the key as it was given."""
    name = normalise_key(key)
    try:
        fd: int = posix_ipc.SharedMemory(name).fd
    except posix_ipc.ExistentialError as error:
        raise CallerError(f"unable to open shared memory region: {key!r}", Code.NOT_FOUND) from error
    except posix_ipc.PermissionsError as error:
        raise invalid(f"unable to open shared memory region: {key!r}: not permitted") from error
    except OSError as error:
        raise MachineError(f"unable to open shared memory region: {key!r}: {error.strerror or error}") from error
    return fd


def unlink_system(key: str) -> None:
    """Removes the name; the memory lives on in the descriptors and mappings. Nothing happens when the name is gone already."""
    try:
        posix_ipc.unlink_shared_memory(normalise_key(key))
    except posix_ipc.ExistentialError:
        return


def check_system(fd: int, key: str, byte_size: int, offset: int, uid: int) -> None:
    """Checks an opened segment against the claim of a process that runs as `uid`. Raises CallerError."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
        raise invalid(f"shared memory key {key!r} does not belong to uid {uid}, which asks for it")
    if byte_size < 1 or offset < 0:
        raise invalid(f"shared memory key {key!r}: cannot use {byte_size} bytes at offset {offset}")
    if offset + byte_size > status.st_size:
        raise invalid(f"shared memory key {key!r} holds {status.st_size} bytes, {byte_size} at offset {offset} need more")
