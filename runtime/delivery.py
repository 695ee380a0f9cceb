# SPDX-License-Identifier: Apache-2.0
"""The scheduler's commands, carried out: batches to workers, outcomes and releases to clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw, structs

from ..ipc.messages import Batch, BatchDone, ItemResult
from .fleet import Fleet
from .models import ModelTable
from .regions import RegionRegistry
from .replies import Replies
from .scheduling.commands import AnyCommand, Completed, Deliver, Drained, Finish, Kill, Release, SendBatch, Vacated, Withhold
from .scheduling.requests import Batch as SentBatch
from .tracing import Traces
from .withheld import Answered, WithheldReports

log = logging.getLogger("penstock.broker")


class Delivery:
    """Turns commands into messages to workers, and into outcomes (replies.py) for clients."""

    def __init__(
        self,
        models: ModelTable,
        regions: RegionRegistry,
        fleet: Fleet,
        replies: Replies,
        traces: Traces,
        clock: Callable[[], int],
    ) -> None:
        self._models = models
        self._regions = regions
        self._fleet = fleet
        self._replies = replies
        self._traces = traces
        self._clock = clock
        self._withheld = WithheldReports()
        self._handlers: dict[type, Callable[[Any], None]] = {
            SendBatch: self._send_batch,
            Finish: self._finish,
            Deliver: self._deliver,
            Release: lambda command: self._replies.release_late(command.request),
            Kill: self._kill,
            Vacated: self._vacated,
            Drained: self._drained,
        }

    def __repr__(self) -> str:
        return f"<Delivery by {self._replies!r}, {self._withheld!r}>"

    def check_invariants(self) -> None:
        """What is kept is waited for."""
        self._withheld.check_invariants()

    def carry_out(self, command: AnyCommand) -> None:
        """Carries out any command but Completed and Withhold, which need the worker's report."""
        self._handlers[type(command)](command)

    def batch_done(self, commands: Sequence[AnyCommand], report: BatchDone, fds: list[int], now_ns: int) -> None:
        """Carries out what followed from a worker's report. The caller closes the `fds` that are left in the list."""
        for command in commands:
            if type(command) is Completed:
                self._completed(command, report, fds, now_ns)
            elif type(command) is Withhold:
                self._withhold(command, report, fds, now_ns)
            else:
                self._handlers[type(command)](command)

    # --- to workers ------------------------------------------------------------------------------------------------------

    def _send_batch(self, command: SendBatch) -> None:
        batch = command.batch
        instance, lane, _ = self._fleet.lanes[batch.instance]
        mapped = instance.mapped
        items: list[Raw] = []
        for request in batch.requests:
            binding = request.binding  # type: ignore[attr-defined]
            for region in binding.regions:
                if region.number not in mapped:
                    self._regions.map_into(region, instance)
            items.append(binding.item)
        instance.link.put(Batch(batch.number, items, lane))
        self._fleet.unflushed.add(instance)

    def _kill(self, command: Kill) -> None:
        self._fleet.lanes[command.instance].instance.kill(command.message)

    def _vacated(self, command: Vacated) -> None:
        self._fleet.departures.lane_vacated(self._fleet.lanes[command.instance].instance)

    def _drained(self, command: Drained) -> None:
        self._fleet.departures.drained(self._models.by_number(command.model))

    # --- to clients ------------------------------------------------------------------------------------------------------

    def _completed(self, command: Completed, report: BatchDone, fds: list[int], now_ns: int) -> None:
        self._replies.answer(command.live, self._executed(command.batch, report, fds, now_ns), now_ns)
        for request in command.late:
            self._replies.release_late(request)

    def _withhold(self, command: Withhold, report: BatchDone, fds: list[int], now_ns: int) -> None:
        """The report is kept, and its descriptors taken over, until each of its requests has had its turn or is over."""
        self._withheld.keep(command.requests, self._executed(command.batch, report, fds, now_ns), fds)
        for request in command.late:
            self._replies.release_late(request)

    def _deliver(self, command: Deliver) -> None:
        self._replies.answer(command.requests, self._withheld.find(command.batch), self._clock())
        for request in command.requests:
            self._withheld.drop(request)

    def _executed(self, batch: SentBatch, report: BatchDone, fds: list[int], now_ns: int) -> Answered:
        """Counts the execution; what its requests are answered with."""
        model, instance = self._models.by_number(batch.model), self._fleet.lanes[batch.instance].name
        model.record.executed(batch.rows, batch.closed.value, report, time.time_ns() // 1_000_000)
        if self._traces.recorders:
            self._traces.batch_ended(batch, model.name, model.version, instance, report, now_ns)
        return _answered(batch, instance, report, fds, now_ns)

    def _finish(self, command: Finish) -> None:
        request: Any = command.request
        self._withheld.drop(request)
        message = f"model '{request.binding.model.name}': {command.message}"
        code, record = command.code.value, request.binding.model.record
        if command.accepted:
            now_ns = self._clock()
            record.failed(now_ns - request.arrived_ns, code, command.fault)
            if self._traces.recorders:
                self._traces.ended_early(request, request.binding.model.name, request.binding.model.version, code, now_ns)
        else:
            record.refused(code, command.fault)
        self._replies.tell(request, (code, message, command.fault), command.released)
        if command.released:
            self._replies.release(request)


def _answered(batch: SentBatch, instance: str, report: BatchDone, fds: list[int], known_ns: int) -> Answered:
    """What a worker said of a batch, if it fits."""
    if report.items and len(report.items) != len(batch.requests):
        report = _broken(report, len(batch.requests))
    found = _results_by_number(batch.requests, report, fds) if report.items else None
    return Answered(batch, report, instance, known_ns, found)


def _broken(report: BatchDone, requests: int) -> BatchDone:
    """A report that does not fit its batch fails all of it."""
    return structs.replace(report, items=[], message=f"a worker answered {len(report.items)} of {requests} requests")


def _results_by_number(requests: Sequence[Any], report: BatchDone, fds: list[int]) -> dict[int, tuple[ItemResult, int | None]]:
    """Each request's own result and the descriptor it brought."""
    waiting = iter(fds)
    return {
        request.number: (item, next(waiting, None) if item.fds else None)
        for request, item in zip(requests, report.items, strict=True)
    }
