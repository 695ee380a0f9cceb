# SPDX-License-Identifier: Apache-2.0
"""Batches on a device, from the message to the report: put into the streams of a lane, and reported when they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic_ns
from typing import NamedTuple

from ...ipc.errors import MachineError, PenstockError
from ...ipc.messages import Batch, BatchDone, ModelSpec
from ..backends.on_device import DeviceBackend
from ..batches import as_error, failed, naming_the_model, report_of
from ..classification import Labels
from ..devices.cuda import Device, Event
from ..devices.host import Scratch
from ..inputs import InputPacker, Job
from ..outputs import OutputWriter
from ..placements import PlacementCache
from ..region_table import RegionTable
from .executor import Executor
from .flights import Execution, Flight
from .lanes import DeviceLane
from .outputs import DeviceOutputs
from .planning import Planner, Reach


class Ended(NamedTuple):
    """A batch that has ended: its report, and the descriptors that go with it, which whoever takes this closes."""

    batch: Batch
    report: BatchDone
    fds: list[int]


class DeviceRunner:
    """Executes batches of one model on the lanes of one worker.

    What loses the context (CudaError.is_sticky) is raised by whichever call meets it, and so is what keeps this from waiting
    for the device; `lose` then says what became of the batches in flight. Everything else that goes wrong costs batches or
    requests, and is in their reports.
    """

    def __init__(
        self, spec: ModelSpec, backend: DeviceBackend, regions: RegionTable, device: Device, lanes: Sequence[DeviceLane],
        placements: PlacementCache, labels: Labels, spin_ns: int,
    ) -> None:  # fmt: skip
        self._spec = spec
        self.device = device
        #: how long to look for the end of a batch before sleeping
        self.spin_ns = spin_ns
        self._placements = placements
        self._reach = reach = Reach(spec, regions)
        self._writer = OutputWriter(spec, regions, placements, labels)
        self._order = InputPacker(spec, regions, placements, Scratch()).order
        planner = Planner(spec, backend, regions, placements, reach)
        outputs = DeviceOutputs(spec, placements.shapes, self._writer, reach)
        self._executor = Executor(lanes, backend, planner, outputs)
        #: batches that have not ended, by number, in the order in which they came
        self._flights: dict[int, Flight] = {}
        #: a model without a batch dimension cannot execute two requests at once
        self._one_by_one = spec.max_batch_size == 0

    def __repr__(self) -> str:
        return f"<DeviceRunner of '{self._spec.name}': {len(self._flights)} batches in flight, {self._executor!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a part contradicts itself or another."""
        self._placements.check_invariants()
        self._executor.check_invariants()
        self._reach.check_invariants()
        assert all(0 <= flight.left <= len(flight.jobs) for flight in self._flights.values()), repr(self)

    @property
    def in_flight(self) -> int:
        """Batches that were submitted and have not been given out by `finished`."""
        return len(self._flights)

    @property
    def lanes(self) -> range:
        """The numbers of the lanes."""
        return range(self._executor.lanes)

    def has_room(self, lane: int) -> bool:
        """Whether a batch could be put into the streams of a lane without waiting for another."""
        return self._executor.has_room(lane)

    def submit(self, batch: Batch) -> None:
        """Puts a batch into the streams of its lane, after waiting for a slot where none is free."""
        kept = self._placements.kept
        jobs = [Job(known) if (known := kept.get(bytes(item))) is not None else self._job(bytes(item)) for item in batch.items]
        flight = Flight(batch, jobs)
        flight.was_behind = any(other.batch.lane == batch.lane for other in self._flights.values())
        self._flights[batch.batch] = flight
        placed = [job for job in jobs if isinstance(job, Job)]
        groups = [self._order(together) for together in ([[job] for job in placed] if self._one_by_one else [placed])]
        flight.left = sum(map(len, groups))
        flight.account.input_ns += flight.account.lap()
        for ordered in groups:
            if ordered:
                self._executor.execute(ordered, flight)

    def finished(self) -> list[Ended]:
        """The batches that have ended since this was asked last, those of each lane in the order in which they came.

        Waits for nothing.
        """
        for execution in self._executor.ended():
            if not execution.is_repeated:
                execution.flight.left -= len(execution.jobs)
                if execution.error is not None:
                    self._fail(execution, execution.error)
        over: list[Flight] = []
        behind: set[int] = set()  # lanes in which an earlier batch has not ended; one that was refused may be over before it
        for flight in self._flights.values():
            if flight.left:
                behind.add(flight.batch.lane)
            elif flight.batch.lane not in behind:
                over.append(flight)
        for flight in over:
            del self._flights[flight.batch.batch]
        return [self._report(flight) for flight in over]

    def awaited(self) -> list[tuple[int, Event]]:
        """See Executor.awaited."""
        return self._executor.awaited()

    def run(self, batch: Batch) -> tuple[BatchDone, list[int]]:
        """Executes one batch to its end, while no other is in flight; see BatchRunner.run."""
        self.submit(batch)
        self.drain()
        ((_, report, fds),) = self.finished()
        return report, fds

    def drain(self) -> None:
        """Waits until nothing is in flight; `finished` then has all of it."""
        self._executor.drain()

    def forget_region(self, number: int) -> None:
        """Waits for what uses a region, and lets go of every address in it; to be called before it is unmapped."""
        self._executor.drain(number)
        self._placements.forget_region(number)
        self._reach.forget(number)

    def lose(self, error: MachineError) -> list[Ended]:
        """The context is lost: every batch in flight has failed of it, and no other will ever be executed."""
        lost = [Ended(flight.batch, failed(flight.batch, flight.begun_ns, error), []) for flight in self._flights.values()]
        with suppress(MachineError):  # as far as can still be waited for, the device is through with their memory
            self.close()
        return lost

    def close(self) -> None:
        """Waits for the streams, answers nobody, and lets go of all memory but the lanes'. Idempotent."""
        try:
            self._executor.close()
        finally:
            for flight in self._flights.values():
                flight.close()
            self._flights.clear()
            self._placements.clear()

    def _job(self, encoded: bytes) -> Job | PenstockError:
        try:
            return Job(self._placements.get(encoded))
        except PenstockError as error:
            return error

    def _fail(self, execution: Execution, error: BaseException) -> None:
        cause, flight = as_error(error), execution.flight
        if len(execution.jobs) == len(flight.jobs):
            flight.whole_error = cause
        for job in execution.jobs:
            job.error = job.error or naming_the_model(cause, self._spec.name)

    def _report(self, flight: Flight) -> Ended:
        started_ns, account = flight.begun_ns, flight.account
        if flight.whole_error is not None:
            flight.close()
            return Ended(flight.batch, failed(flight.batch, started_ns, flight.whole_error, account.infer_ns), [])
        if flight.was_behind:  # the wait for those before it is waiting, as in a queue
            started_ns = max(started_ns, monotonic_ns() - account.input_ns - account.infer_ns - account.output_ns)
        account.lap()  # from submitting it until here the device's clock counts
        return Ended(flight.batch, *report_of(flight.batch, flight.jobs, account, started_ns, self._writer))
