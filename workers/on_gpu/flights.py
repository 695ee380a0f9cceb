# SPDX-License-Identifier: Apache-2.0
"""A batch on its way through a device, and the executions that it is made of: one, as a rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING

from ...ipc.errors import PenstockError
from ...ipc.messages import Batch
from ..account import Account
from ..inputs import Job

if TYPE_CHECKING:
    from ..devices.cuda import Event
    from .lanes import DeviceSlot
    from .outputs import Delivery
    from .planning import Plan


class Flight:
    """A batch from when it came until it is reported."""

    __slots__ = ("account", "batch", "begun_ns", "jobs", "left", "was_behind", "whole_error")

    def __init__(self, batch: Batch, jobs: Sequence[Job | PenstockError]) -> None:
        self.batch = batch
        self.begun_ns = monotonic_ns()
        #: in the order of the batch
        self.jobs = jobs
        #: how many of them are to be executed, and have not ended
        self.left = 0
        self.account = Account(self.begun_ns)
        #: others were in flight when it came
        self.was_behind = False
        #: why all of it failed
        self.whole_error: PenstockError | None = None

    def __repr__(self) -> str:
        return f"<Flight of batch {self.batch.batch}, {self.left} of {len(self.jobs)} requests left>"

    def close(self) -> None:
        """Closes descriptors that will go with no report. Idempotent."""
        for job in self.jobs:
            if isinstance(job, Job) and job.fd >= 0:
                os.close(job.fd)
                job.fd = -1


class Execution:
    """Jobs that are executed together, from their plan until the device has delivered them."""

    __slots__ = (
        "begun_ns", "delivery", "error", "flight", "is_repeated", "jobs", "last", "output_from", "plan",
        "planned_ns", "slot", "starting",
    )  # fmt: skip

    def __init__(self, jobs: Sequence[Job], slot: DeviceSlot, flight: Flight) -> None:
        self.jobs = jobs
        self.slot = slot
        self.flight = flight
        self.plan: Plan | None = None
        self.delivery: Delivery | None = None
        #: why all of it failed
        self.error: BaseException | None = None
        #: it failed, and its jobs have got executions of their own
        self.is_repeated = False
        #: when planning began, and when it was done
        self.begun_ns = self.planned_ns = monotonic_ns()
        #: the events that say when computing began, when copying out began, and when the device is through with it
        self.starting: Event = slot.marks.copied_in
        self.output_from: Event = slot.marks.computed
        self.last: Event = slot.marks.computed

    def __repr__(self) -> str:
        failed = f", failed: {self.error}" if self.error else ""
        return f"<Execution of {len(self.jobs)} requests of {self.flight!r} in {self.slot!r}{failed}>"

    def times_ns(self) -> tuple[int, int, int]:
        """What the device took to copy in, to compute, and to copy out; it is through."""
        marks = self.slot.marks
        return (
            marks.copied_in.ns_since(marks.begun) if self.plan is not None and self.plan.inward else 0,
            marks.computed.ns_since(self.starting),
            0 if self.last is marks.computed else self.last.ns_since(self.output_from),
        )
