# SPDX-License-Identifier: Apache-2.0
"""Processes that end together: dying with the parent, and pidfds by which a death is seen.

A pidfd becomes readable when its process ends, and names that process even after its number has been given to another;
an end-of-file on a socket does neither, for a forked child keeps the socket open.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
M_TRIM_THRESHOLD = -1  # glibc's malloc.h
M_MMAP_THRESHOLD = -3
MOST_IN_HEAP = 32 * 1024 * 1024
"""Bytes of the largest block that glibc takes from its heap, by itself too: mallopt(3)."""


def die_with_parent(parent_pid: int) -> None:
    """From now on SIGKILL ends this process when its parent does; at once if it already has.

    To be called first thing in a process that the parent's main thread spawned: the signal is sent when the spawning
    *thread* ends (prctl(2)), and a parent that died before this call sends none, hence the look at getppid afterwards.
    """
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), "PR_SET_PDEATHSIG")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def allow_descriptors() -> None:
    """As many as this process may have: the soft limit is often 1024 for select()'s sake alone. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory(byte_size: int) -> None:
    """The C library keeps so much of what is freed at the end of a heap; what it gives back is zeroed and mapped anew later.

    By itself glibc keeps twice the largest block that it had mapped, which several large messages exceed again and again.
    Where the C library is another one, nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, min(MOST_IN_HEAP, byte_size))
        libc.mallopt(M_TRIM_THRESHOLD, byte_size)


def adopt_orphans() -> None:
    """From now on a descendant whose parent ends becomes this process's child, whatever sessions and groups it is in."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def children(pid: int) -> list[int]:
    """The children of a process, by whichever of its threads they were started; nothing if it is gone."""
    found: list[int] = []
    for task in _entries(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split())
    return found


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({name}): {os.strerror(code)}")


def open_pidfd(pid: int) -> int:
    """A descriptor, the caller's to close, that becomes readable when the process ends. Raises ProcessLookupError."""
    return os.pidfd_open(pid)
