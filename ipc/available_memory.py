# SPDX-License-Identifier: Apache-2.0
"""How much memory can still be had, asked before much is reserved.

A memfd has no size limit of its own: posix_fallocate on one takes page after page until the kernel kills processes, whosever
they are. So a reservation that cannot succeed must not be begun.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """What this process may still take: free or reclaimable memory and swap, no more than its control groups allow in all."""
    return min([_machine_bytes(), *_group_limits()])


def _machine_bytes() -> int:
    kib = {"MemAvailable": 0, "SwapFree": 0}
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in kib:
                kib[name] = int(value.split()[0])
    return sum(kib.values()) * 1024


def _group_limits() -> Iterator[int]:
    """Memory limits of our control groups and those around them, of both kinds (cgroups(7)); a missing file is no limit."""
    with open("/proc/self/cgroup", encoding="utf-8") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                yield from _limits_above(_CGROUPS, path, "memory.max")
            elif controllers == "memory":
                yield from _limits_above(_CGROUPS / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, file_name: str) -> Iterator[int]:
    group = root / path.lstrip("/")
    for directory in (group, *group.parents):
        try:
            text = (directory / file_name).read_text(encoding="ascii").strip()
        except OSError:
            text = "max"
        yield sys.maxsize if text == "max" else int(text)
        if directory == root:
            return
