# SPDX-License-Identifier: Apache-2.0
"""Which CPUs a process runs on and which NUMA node its memory comes from. Linux's lists of CPUs ("0-3,6"), read and written.

The memory policy is set by the system call itself, set_mempolicy(2), so that libnuma is not needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Collection, Iterable
from contextlib import suppress

from .errors import Code, MachineError, invalid

_NODES = "/sys/devices/system/node"
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Machine -> number of the system call: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""
_MPOL_DEFAULT, _MPOL_BIND = 0, 2
_MAX_NODES = 1024
_MAX_CPUS = 1 << 16  # more than any kernel is built for
_WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs of a list such as "0-3,6", each once, ascending. Raises CallerError."""
    found: set[int] = set()
    for piece in text.strip().split(","):
        lower, dash, upper = piece.strip().partition("-")
        last = upper if dash else lower
        if not (lower.isdecimal() and last.isdecimal() and int(lower) <= int(last) < _MAX_CPUS):
            raise invalid(f"a list of CPUs is <lower>-<upper> or single numbers, with commas between; got '{text.strip()}'")
        found.update(range(int(lower), int(last) + 1))
    return tuple(sorted(found))


def format_cpus(cpus: Iterable[int]) -> str:
    """The reverse: runs of CPUs as "lower-upper"."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{lower}-{upper}" if lower != upper else str(lower) for lower, upper in runs)


def cpus_of_node(node: int) -> tuple[int, ...]:
    """The CPUs of a NUMA node. Raises MachineError where there is no such node."""
    try:
        with open(f"{_NODES}/node{node}/cpulist") as file:
            text = file.read().strip()
    except OSError:
        there = "a single one, without number"
        with suppress(OSError), open(f"{_NODES}/online") as file:
            there = file.read().strip()
        raise MachineError(f"NUMA node {node} does not exist on this machine; it has {there}", Code.NOT_FOUND) from None
    return parse_cpus(text) if text else ()


def refused_cpus(cpus: Iterable[int]) -> list[int]:
    """Those of `cpus` that the kernel does not let this thread run on: they do not exist, or its cpuset is without them."""
    before = os.sched_getaffinity(0)
    refused = []
    try:
        for cpu in cpus:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError:
                refused.append(cpu)
    finally:
        os.sched_setaffinity(0, before)
    return refused


def occupy(cpus: Collection[int], numa_node: int) -> None:
    """Puts this process, with all threads that it has and will have, on `cpus` (none: any), and its memory on a node (-1: any).

    Memory: what this thread and those that it starts allocate from now on. Raises MachineError.
    """
    try:
        for thread in os.listdir("/proc/self/task") if cpus else ():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread), cpus)
    except OSError as error:
        raise MachineError(f"cannot run on the CPUs {format_cpus(cpus)}: {error.strerror}") from error
    if numa_node >= 0:
        bind_memory(numa_node)


def bind_memory(node: int) -> None:
    """Memory that this thread allocates from now on comes from `node`, and from no other. Raises MachineError."""
    mask = (ctypes.c_ulong * (_MAX_NODES // _WORD_BITS))()
    if node < _MAX_NODES:
        mask[node // _WORD_BITS] = 1 << node % _WORD_BITS
    failed = _set_mempolicy(_MPOL_BIND, mask)
    if failed:
        raise MachineError(f"Unable to set NUMA memory policy for node {node}: {os.strerror(failed)}")


def unbind_memory() -> None:
    """Memory comes from anywhere again. Cannot fail where `bind_memory` did not."""
    _set_mempolicy(_MPOL_DEFAULT, None)


def _set_mempolicy(mode: int, mask: ctypes.Array[ctypes.c_ulong] | None) -> int:
    """errno, 0 for success."""
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    call = ctypes.CDLL(None, use_errno=True).syscall
    # The kernel takes one bit less than it is told (mm/mempolicy.c, get_nodes).
    done = call(ctypes.c_long(number), ctypes.c_int(mode), mask, ctypes.c_ulong(_MAX_NODES + 1 if mask else 0))
    return ctypes.get_errno() if done else 0
