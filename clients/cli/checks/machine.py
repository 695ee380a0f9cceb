# SPDX-License-Identifier: Apache-2.0
"""The interpreter, the kernel, and the cores: what Penstock is built on and cannot replace."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding, Verdict

OLDEST_PYTHON, NEWEST_TESTED_PYTHON = (3, 10), (3, 13)
OLDEST_KERNEL = (5, 3)
"""pidfd_open(2), by which every death is seen."""
PEER_PIDFD_KERNEL = (6, 5)
"""SO_PEERPIDFD: the peer's pidfd from its socket, which no reuse of its pid can falsify."""


def python() -> Iterator[Finding]:
    """Python."""
    yield judge_python(platform.python_implementation(), sys.version_info[:3], sys.platform)


def judge_python(implementation: str, version: tuple[int, ...], system: str) -> Finding:
    """CPython 3.10 to 3.13 on Linux."""
    found = f"{implementation} {'.'.join(map(str, version))} on {system}"
    if system != "linux":
        return Finding(
            "Python",
            Verdict.PROBLEM,
            found,
            "memfd, pidfd and /proc are Linux's: no broker can run",
            "use Linux (WSL 2 will do)",
        )
    if implementation != "CPython" or version[:2] < OLDEST_PYTHON:
        return Finding("Python", Verdict.PROBLEM, found, "Penstock does not run on it", "use CPython 3.10 to 3.13")
    if version[:2] > NEWEST_TESTED_PYTHON:
        return Finding("Python", Verdict.NOTE, found, "newer than any that the tests were run on", "report what you see")
    return Finding("Python", Verdict.OK, found)


def kernel() -> Iterator[Finding]:
    """Kernel: its version, and whether it lets us have memfds and pidfds (containers may forbid them)."""
    release = platform.release()
    yield judge_kernel(release, _refusal(_make_memfd), _refusal(_make_pidfd))


def judge_kernel(release: str, memfd_refusal: str, pidfd_refusal: str) -> Finding:
    """`refusal`: what the kernel said when it was asked for one; "" where it gave one."""
    version = tuple(int(part) for part in release.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())
    for name, refusal in (("memfd_create", memfd_refusal), ("pidfd_open", pidfd_refusal)):
        if refusal:
            consequence = (
                "client memory cannot be shared" if name == "memfd_create" else "no broker can start: deaths go unseen"
            )
            fix = (
                f"allow {name} in the container's seccomp profile, or run Linux {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]} or newer"
            )
            return Finding("kernel", Verdict.PROBLEM, f"Linux {release}, {name}: {refusal}", consequence, fix)
    if version < PEER_PIDFD_KERNEL:
        consequence = (
            "a client's death is seen through its pid, which another process may have by then; in practice it never has"
        )
        return Finding("kernel", Verdict.OK, f"Linux {release}, memfd and pidfd; no SO_PEERPIDFD (6.5)", consequence)
    return Finding("kernel", Verdict.OK, f"Linux {release}, memfd, pidfd, SO_PEERPIDFD")


def cores() -> Iterator[Finding]:
    """Cores: those this process may use, and what the control group lets it use of them."""
    yield judge_cores(len(os.sched_getaffinity(0)), os.cpu_count() or 0, _quota(Path("/sys/fs/cgroup/cpu.max")))


def judge_cores(usable: int, online: int, quota: float | None) -> Finding:
    """`quota`: cores' worth of time; None: no limit."""
    found = f"{usable} of {online} usable" + (f", a quota of {quota:.3g}" if quota is not None else "")
    if quota is not None and quota < usable:
        consequence = (
            f"models get threads for {usable} cores and are stopped when {quota:.3g} cores' time is used up: slow tails"
        )
        return Finding(
            "cores", Verdict.WARNING, found, consequence, f"start Penstock with taskset on {max(1, int(quota))} cores"
        )
    if usable < 2:
        consequence = "client, broker and worker take turns on one core"
        return Finding("cores", Verdict.NOTE, found, consequence, "2 cores or more")
    return Finding("cores", Verdict.OK, found)


def numa() -> Iterator[Finding]:
    """NUMA nodes."""
    nodes = len([path for path in Path("/sys/devices/system/node").glob("node*") if path.name[4:].isdigit()])
    yield judge_numa(nodes)


def judge_numa(nodes: int) -> Finding:
    """Several nodes are worth a host policy."""
    if nodes < 2:
        return Finding("NUMA", Verdict.OK, "one node")
    consequence = "memory of another node is slower to reach"
    return Finding(
        "NUMA", Verdict.NOTE, f"{nodes} nodes", consequence, "--host-policy NAME,numa-node=N and instance_group.host_policy"
    )


def _refusal(make: object) -> str:
    assert callable(make)
    try:
        os.close(make())
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def _make_memfd() -> int:
    return os.memfd_create("penstock-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _make_pidfd() -> int:
    return os.pidfd_open(os.getpid())


def _quota(path: Path) -> float | None:
    try:
        limit, period = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)
