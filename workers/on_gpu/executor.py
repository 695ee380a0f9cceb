# SPDX-License-Identifier: Apache-2.0
"""Executes jobs on the lanes of one worker: planned, put into a lane's streams, and finished when the device is through.

What loses the context (CudaError.is_sticky) is raised by whichever call meets it, and so is every error of waiting for the
device: whether it is through with some memory cannot be known after that. Everything else that goes wrong is the error of an
execution, or of one of its jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns

from ...ipc.cuda import CudaError
from ..backends.on_device import DeviceBackend, DeviceTensor
from ..devices.cuda import Event
from ..inputs import Job
from .flights import Execution, Flight
from .lanes import CopyRefusedError, DeviceLane
from .outputs import Delivery, DeviceOutputs
from .planning import Plan, Planner


class Executor:
    """The lanes of one worker, and what is in flight in them."""

    def __init__(self, lanes: Sequence[DeviceLane], backend: DeviceBackend, planner: Planner, outputs: DeviceOutputs) -> None:
        self._lanes = lanes
        self._backend = backend
        self._planner = planner
        self._outputs = outputs
        #: executions that have ended, and were not asked for yet
        self._ended: list[Execution] = []

    def __repr__(self) -> str:
        return f"<Executor {list(self._lanes)}, {len(self._ended)} executions ended>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a lane contradicts itself, or holds what has ended."""
        running = {id(execution) for lane in self._lanes for execution in lane.running}
        assert not running & {id(execution) for execution in self._ended}, repr(self)
        for lane in self._lanes:
            lane.check_invariants()

    @property
    def lanes(self) -> int:
        """How many there are."""
        return len(self._lanes)

    def has_room(self, number: int) -> bool:
        """Whether a lane can execute something without waiting for something else."""
        return bool(self._lanes[number].free)

    def execute(self, jobs: list[Job], flight: Flight) -> None:
        """Puts jobs into the streams of their batch's lane; waits for a slot where none is free."""
        lane = self._lanes[flight.batch.lane]
        while not lane.free:
            self._wait(lane)
        execution = Execution(jobs, lane.free.popleft(), flight)
        try:
            plan, delivery = self._kept(execution) or (self._planner.plan(jobs, execution.slot), None)
        except BaseException as error:  # noqa: BLE001 - no memory for it, or a mistake: nothing runs yet
            execution.error = _unless_lost(error)
            lane.take_back(execution)
            self._ended.append(execution)
            return
        execution.planned_ns = monotonic_ns()
        try:
            results = lane.begin(execution, plan, self._backend)
            if delivery is None or results is not plan.work.places or plan.work.failures:
                delivery = self._delivery(execution, plan, results)
            execution.delivery = delivery
            lane.deliver(execution, delivery.outward)
        except CopyRefusedError as error:
            lane.give_up(execution, error.cause)
            if len(jobs) > 1:  # that some memory cannot be copied is the business of its request alone: each by itself
                execution.is_repeated = True
                for job in jobs:
                    self.execute([job], flight)
        except BaseException as error:  # noqa: BLE001 - even a model's SystemExit costs its batch, not the worker
            lane.give_up(execution, _unless_lost(error))

    def ended(self) -> Sequence[Execution]:
        """The executions that have ended since this was asked last; waits for nothing."""
        for lane in self._lanes:
            while lane.running and lane.running[0].last.is_done():
                self._end(lane)
        if not self._ended:
            return ()
        ended, self._ended = self._ended, []
        return ended

    def awaited(self) -> list[tuple[int, Event]]:
        """(lane, event) for each lane in which something is in flight: the next to end there has ended with this event."""
        return [(lane.lane.index, lane.running[0].last) for lane in self._lanes if lane.running]

    def drain(self, region: int | None = None) -> None:
        """Waits until nothing is in flight, or nothing that uses this region."""
        for lane in self._lanes:
            while any(region is None or _uses(execution, region) for execution in lane.running):
                self._wait(lane)

    def close(self) -> None:
        """Waits for the streams, and forgets what was in them. Idempotent."""
        try:
            for lane in self._lanes:
                lane.synchronize()
        except CudaError as error:
            if not error.is_sticky:  # when the context is lost, nothing runs any more
                raise
        finally:
            for lane in self._lanes:
                lane.running.clear()
            self._ended.clear()

    # --- in --------------------------------------------------------------------------------------------------------------

    def _kept(self, execution: Execution) -> tuple[Plan, Delivery] | None:
        """What the same placement was in this slot before, unless the slot has other memory by now."""
        if len(execution.jobs) > 1:
            return None
        slot = execution.slot
        known = execution.jobs[0].prepared.plans.get(slot)
        return known if known is not None and known[0].work.slot is slot.memory.slot else None

    def _delivery(self, execution: Execution, plan: Plan, results: Sequence[DeviceTensor | None]) -> Delivery:
        """How the results get where they belong. Keeps plan and delivery where they will be the same the next time."""
        jobs, slot, work = execution.jobs, execution.slot, plan.work
        checked = self._outputs.checked(work, results)
        is_clean = not work.failures and all(job.error is None for job in jobs)
        for at, error in work.failures.items():
            jobs[at].error = jobs[at].error or error
        work.failures.clear()  # the same work may come again
        delivery = self._outputs.plan(jobs, work.wanted, checked, slot.outward)
        is_same = results is work.places and slot.inward.is_untouched and slot.outward.is_untouched
        if len(jobs) == 1 and is_same and is_clean and delivery.shares is None:
            jobs[0].prepared.plans[slot] = plan, delivery
        return delivery

    # --- out -------------------------------------------------------------------------------------------------------------

    def _wait(self, lane: DeviceLane) -> None:
        """Waits for the oldest execution of a lane, and ends it."""
        lane.running[0].last.synchronize()
        self._end(lane)

    def _end(self, lane: DeviceLane) -> None:
        """The device is through with the oldest execution of a lane: what is left is the host's."""
        execution = lane.running[0]
        try:
            if execution.error is None:
                self._finish(execution)
        except BaseException as error:  # noqa: BLE001 - as in `execute`
            execution.error = _unless_lost(error)
        lane.running.popleft()
        lane.take_back(execution)
        self._ended.append(execution)

    def _finish(self, execution: Execution) -> None:
        begun_ns = monotonic_ns()
        plan, delivery, account = execution.plan, execution.delivery, execution.flight.account
        assert plan is not None and delivery is not None, repr(execution)
        input_ns, infer_ns, output_ns = execution.times_ns()
        account.input_ns += execution.planned_ns - execution.begun_ns + input_ns
        account.infer_ns += infer_ns
        for copied in (*plan.copied, *delivery.copied):
            account.copied(copied.kind, copied.count, copied.byte_size)
        if delivery.staged or delivery.shares is not None:
            self._outputs.finish(execution.jobs, delivery, account)
            output_ns += monotonic_ns() - begun_ns
        account.output_ns += output_ns


def _uses(execution: Execution, region: int) -> bool:
    return any(region in job.prepared.regions for job in execution.jobs)


def _unless_lost(error: BaseException) -> BaseException:
    """The error; raises it when nothing on the device can be used after it."""
    if isinstance(error, CudaError) and error.is_sticky:
        raise error
    return error
