# SPDX-License-Identifier: Apache-2.0
"""How many descriptors and processes there may be, and who we are."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from .finding import Finding, Verdict

PER_CLIENT = 4
"""Descriptors that a broker holds for a client on the local link with one region: connection, pidfd, region, one to spare."""
FEW_DESCRIPTORS = 4096
FEW_PROCESSES = 512


def user() -> Iterator[Finding]:
    """User."""
    yield judge_user(os.geteuid())


def judge_user(uid: int) -> Finding:
    """The uid is the trust boundary."""
    if uid == 0:
        return Finding(
            "user", Verdict.NOTE, "root", "a broker run as root still refuses memory that another uid owns; models run as root",
            "run it as a user of its own",
        )  # fmt: skip
    return Finding("user", Verdict.OK, f"uid {uid}: a broker takes shared memory of this uid only")


def descriptors() -> Iterator[Finding]:
    """Descriptors (RLIMIT_NOFILE): a broker raises the soft limit to the hard one itself."""
    yield judge_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def judge_descriptors(hard: int) -> Finding:
    """One per region and a few per client."""
    if hard == resource.RLIM_INFINITY or hard >= FEW_DESCRIPTORS:
        count = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return Finding("descriptors", Verdict.OK, f"{count} (RLIMIT_NOFILE, hard)")
    consequence = f"no more than about {hard // PER_CLIENT} clients with one region each"
    return Finding(
        "descriptors", Verdict.WARNING, f"{hard} (RLIMIT_NOFILE, hard)", consequence, "ulimit -Hn 65536, or LimitNOFILE="
    )


def processes() -> Iterator[Finding]:
    """Processes and threads (RLIMIT_NPROC)."""
    yield judge_processes(resource.getrlimit(resource.RLIMIT_NPROC)[0])


def judge_processes(limit: int) -> Finding:
    """Each instance is a process with a thread per core."""
    if limit == resource.RLIM_INFINITY or limit >= FEW_PROCESSES:
        count = "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
        return Finding("processes", Verdict.OK, f"{count} (RLIMIT_NPROC)")
    consequence = "workers may not start: each instance is a process with threads"
    return Finding("processes", Verdict.WARNING, f"{limit} (RLIMIT_NPROC)", consequence, "ulimit -u 4096")
