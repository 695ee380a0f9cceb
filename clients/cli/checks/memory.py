# SPDX-License-Identifier: Apache-2.0
"""Memory that can be shared, locked and had at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from ....ipc.available_memory import available_bytes
from ..rendering import memory
from .finding import Finding, Verdict

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory, shm_overview(7)
LITTLE_SHARED_BYTES = 256 * 1024 * 1024
"""Docker gives 64 MiB unless told otherwise; a batch of images in several slots needs more."""
LITTLE_BYTES = 1024**3


def shared_memory() -> Iterator[Finding]:
    """POSIX shared memory: the size of the file system behind it, and whether it can be written to."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield judge_shared_memory(0, 0, str(error))
        return
    refusal = "" if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else f"{SHARED_MEMORY} is not writable"
    yield judge_shared_memory(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, refusal)


def judge_shared_memory(total: int, free: int, refusal: str) -> Finding:
    """`system` regions come out of it: what ZeroMQ clients and Triton's clients use. memfds do not."""
    what = "POSIX shared memory"
    if refusal:
        return Finding(
            what, Verdict.WARNING, refusal, "no `system` regions: clients over ZeroMQ cannot share memory; the local link can",
            f"mount a tmpfs at {SHARED_MEMORY}",
        )  # fmt: skip
    found = f"{memory(free)} free of {memory(total)}"
    if free < LITTLE_SHARED_BYTES:
        return Finding(
            what, Verdict.WARNING, found, "larger `system` regions are refused (SIGBUS for programs that do not reserve)",
            f"docker run --shm-size=1g, or mount -o remount,size=1g {SHARED_MEMORY}; see what lies there with ls -l",
        )  # fmt: skip
    return Finding(what, Verdict.OK, found)


def main_memory() -> Iterator[Finding]:
    """Memory: what can still be had, control groups included."""
    yield judge_main_memory(available_bytes())


def judge_main_memory(available: int) -> Finding:
    """memfd regions and models come out of it."""
    found = f"{memory(available)} can still be had (control groups included)"
    if available < LITTLE_BYTES:
        consequence = "slots and models that do not fit are refused"
        return Finding("memory", Verdict.WARNING, found, consequence, "give the container more, or stop something")
    return Finding("memory", Verdict.OK, found)


def locked_memory() -> Iterator[Finding]:
    """Locked memory (RLIMIT_MEMLOCK)."""
    yield judge_locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])


def judge_locked_memory(limit: int) -> Finding:
    """Pinning for GPU transfers is the driver's affair and not counted by it; nothing else locks memory."""
    found = "unlimited" if limit == resource.RLIM_INFINITY else memory(limit)
    return Finding("locked memory", Verdict.OK, f"{found} (RLIMIT_MEMLOCK)", "not needed: a GPU's driver pins without it")
