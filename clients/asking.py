# SPDX-License-Identifier: Apache-2.0
"""What a request asks for besides its tensors, checked once where the caller says it."""

from __future__ import annotations

import time

from msgspec import Struct

from ..ipc.errors import invalid

GRACE_NS = 250_000_000
"""How much longer than the broker's deadline this side waits: the broker's own answer says more."""

LONGEST_S = 1e6
"""Timeouts beyond it, 11 days, are as long as that: what the machine waits with takes no more than 2 ** 31 ms."""
LARGEST = 2**63 - 1


class Asked(Struct, frozen=True, gc=False):
    """How one request is to be served. Times are relative, in microseconds; 0 means none, as on the wire (messages.Infer).

    `timeout_us` is Triton's queue timeout, `deadline_us` ours over queue and execution. `priority` 0: the model's default.
    """

    version: int = -1
    deadline_us: int = 0
    principal: str = ""
    explain: bool = False
    priority: int = 0
    timeout_us: int = 0


def asked(
    version: int, timeout_s: float | None, principal: str, explain: bool, priority: int, queue_timeout_s: float | None
) -> Asked:
    """From what callers give. Raises CallerError (INVALID_ARG)."""
    if not (isinstance(priority, int) and 0 <= priority <= LARGEST):
        raise invalid(f"priority must be 0 (the model's default) or a level from 1 on, got {priority!r}")
    if not (isinstance(version, int) and -1 <= version <= LARGEST):
        raise invalid(f"version must be -1 (the newest) or a version's number, got {version!r}")
    return Asked(
        version, _microseconds("timeout_s", timeout_s), principal, explain, priority,
        _microseconds("queue_timeout_s", queue_timeout_s),
    )  # fmt: skip


def give_up_ns(timeout_s: float | None) -> int:
    """When this side gives up on a request that is sent now, on the monotonic clock; 0: never."""
    return 0 if timeout_s is None else time.monotonic_ns() + int(_bounded("timeout_s", timeout_s) * 1e9) + GRACE_NS


def _microseconds(name: str, seconds: float | None) -> int:
    if seconds is None:
        return 0
    return max(1, int(_bounded(name, seconds) * 1e6))


def _bounded(name: str, seconds: float) -> float:
    if not seconds > 0:
        raise invalid(f"{name} must be above 0, got {seconds}")
    return min(seconds, LONGEST_S)
