# SPDX-License-Identifier: Apache-2.0
"""When an instance has run its first batch for too long."""

from __future__ import annotations

from .instances import Instance
from .timers import Timers

NS_PER_MS = 1_000_000


class Watchdogs:
    """One timer per instance, not per batch: it outlives the batch it was set for and is moved when it falls due."""

    __slots__ = ("timers",)

    def __init__(self) -> None:
        #: instance -> a time not after the one at which its first batch has run for its limit.
        self.timers = Timers()

    def watch(self, instance: Instance, limit_ns: int) -> None:
        """A batch became first at the instance."""
        if limit_ns and not instance.killed and instance.number not in self.timers:
            self.timers.set(instance.number, instance.since_ns + limit_ns)

    def has_run_out(self, instance: Instance, limit_ns: int, now_ns: int) -> bool:
        """Asked when the instance's timer fell due: for the batch that is first now, or only for an earlier one."""
        if not instance.batches:
            return False
        if now_ns < instance.since_ns + limit_ns:
            self.timers.set(instance.number, instance.since_ns + limit_ns)
            return False
        return True

    def check(self, instance: Instance, limit_ns: int) -> None:
        """Raises AssertionError where the instance should be watched and is not, or too late."""
        if limit_ns and instance.batches and not instance.killed:
            due_ns = self.timers.when(instance.number)
            assert due_ns is not None and due_ns <= instance.since_ns + limit_ns, (instance, self)

    def __repr__(self) -> str:
        return f"<watchdogs: {self.timers!r}>"


def overrun(instance: Instance, limit_ns: int) -> str:
    """What is said of an instance that is killed."""
    return f"batch {instance.batches[0].number} ran past the limit of {limit_ns / NS_PER_MS:.1f} ms for one execution"
