# SPDX-License-Identifier: Apache-2.0
"""The scheduler's commands, carried out: batches to workers, outcomes and releases to clients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw, structs

from ..ipc.codec import encode
from ..ipc.errors import PenstockError
from ..ipc.messages import Batch, BatchDone, Explanation, Failed, ItemResult, OutputTensor, Released, Result
from .cached_answers import CachedAnswers
from .fleet import Fleet
from .models import ModelTable
from .regions import RegionRegistry
from .requests import InferRequest
from .scheduling.commands import AnyCommand, Completed, Deliver, Drained, Finish, Kill, Release, SendBatch, Withhold
from .scheduling.requests import Batch as SentBatch
from .scheduling.requests import Request
from .sessions import Session
from .tracing import Traces
from .withheld import Answered, WithheldReports

log = logging.getLogger("penstock.broker")


class Delivery:
    """Turns commands into messages, and keeps the books of what was delivered."""

    def __init__(
        self,
        models: ModelTable,
        regions: RegionRegistry,
        fleet: Fleet,
        unflushed: set[Session],
        traces: Traces,
        clock: Callable[[], int],
        answers: CachedAnswers,
    ) -> None:
        self._models = models
        self._regions = regions
        self._fleet = fleet
        self._unflushed = unflushed
        self._traces = traces
        self._clock = clock
        self._answers = answers
        self._withheld = WithheldReports()
        self._handlers: dict[type, Callable[[Any], None]] = {
            SendBatch: self._send_batch,
            Finish: self._finish,
            Deliver: self._deliver,
            Release: lambda command: self._release_late(command.request),
            Kill: self._kill,
            Drained: self._drained,
        }

    def __repr__(self) -> str:
        return f"<Delivery to {len(self._unflushed)} unflushed sessions, {self._withheld!r}>"

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
        instance = self._fleet.instances[batch.instance]
        mapped = instance.mapped
        items: list[Raw] = []
        for request in batch.requests:
            binding = request.binding  # type: ignore[attr-defined]
            for region in binding.regions:
                if region.number not in mapped:
                    self._regions.map_into(region, instance)
            items.append(binding.item)
        instance.link.put(Batch(batch.number, items))
        self._fleet.unflushed.add(instance)

    def _kill(self, command: Kill) -> None:
        self._fleet.instances[command.instance].kill(command.message)

    def _drained(self, command: Drained) -> None:
        log.info("model %s is drained", self._models.by_number(command.model).label)

    # --- to clients ------------------------------------------------------------------------------------------------------

    def _completed(self, command: Completed, report: BatchDone, fds: list[int], now_ns: int) -> None:
        self._answer(command.live, self._executed(command.batch, report, fds, now_ns), now_ns)
        for request in command.late:
            self._release_late(request)

    def _withhold(self, command: Withhold, report: BatchDone, fds: list[int], now_ns: int) -> None:
        """The report is kept, and its descriptors taken over, until each of its requests has had its turn or is over."""
        self._withheld.keep(command.requests, self._executed(command.batch, report, fds, now_ns), fds)
        for request in command.late:
            self._release_late(request)

    def _deliver(self, command: Deliver) -> None:
        self._answer(command.requests, self._withheld.find(command.batch), self._clock())
        for request in command.requests:
            self._withheld.drop(request)

    def _executed(self, batch: SentBatch, report: BatchDone, fds: list[int], now_ns: int) -> Answered:
        """Counts the execution; what its requests are answered with."""
        model, instance = self._models.by_number(batch.model), self._fleet.instances[batch.instance].name
        model.record.executed(batch.rows, batch.closed.value, report, time.time_ns() // 1_000_000)
        if self._traces.recorders:
            self._traces.batch_ended(batch, model.name, model.version, instance, report, now_ns)
        return _answered(batch, instance, report, fds, now_ns)

    def _answer(self, requests: Sequence[Request], answered: Answered, now_ns: int) -> None:
        """Each request gets its outcome and its release: the batch's failure, or what `_answer_live` says."""
        report = answered.report
        if report.message:
            name = self._models.by_number(answered.batch.model).name
            error = (report.code or "INTERNAL", f"model '{name}': {report.message}", report.fault)
            for request in requests:
                self._fail(request, error, now_ns)
                self._release(request)
        else:
            self._answer_live(requests, answered, now_ns)

    def _answer_live(self, requests: Sequence[Request], answered: Answered, now_ns: int) -> None:
        """Each request gets its outcome: as its placement promised, or (`found`) as the worker says request by request."""
        model = self._models.by_number(answered.batch.model)
        report, found = answered.report, answered.found
        rows = 0
        totals_ns: list[int] = []
        queues_ns: list[int] = []
        for request in requests:
            if found is None:
                self._succeed(request, request.binding.reply, answered)  # type: ignore[attr-defined]
                if model.uses_cache:
                    self._answers.keep(request, request.binding.reply, None)  # type: ignore[arg-type, attr-defined]
            elif not self._answer_item(request, *found[request.number], answered, now_ns):
                self._release(request)
                continue
            arrived_ns = request.arrived_ns
            rows += request.rows
            totals_ns.append(now_ns - arrived_ns)
            queues_ns.append(max(0, report.started_ns - arrived_ns))
            self._release(request)
        model.record.completed(rows, totals_ns, queues_ns, report, answered.known_ns)

    def _answer_item(self, request: Any, item: ItemResult, fd: int | None, answered: Answered, now_ns: int) -> bool:
        """Outputs whose size or place was not known before, or a failure of this request alone; then False."""
        if item.code:
            self._fail(request, (item.code, item.message, item.fault), now_ns)
            return False
        outputs = _output_tensors(request, item, fd is not None)
        if outputs is None:
            error = ("INTERNAL", f"a worker answered with outputs that were not asked for: {item!r:.200}", "model")
            self._fail(request, error, now_ns)
            return False
        brought: list[int] = []
        parts: list[bytes] = []
        if fd is not None and request.client.takes_fds:
            brought = [fd]
        elif fd is not None and not request.client.ended:
            parts = [os.pread(fd, output.byte_size, output.offset) for output in outputs if not output.region]
        encoded = Raw(encode(outputs))
        try:
            self._succeed(request, encoded, answered, brought, parts)
        except PenstockError as error:  # no descriptor is left to hand the outputs over with
            self._fail(request, (error.code.value, error.message, error.fault), now_ns)
            return False
        if request.ticket is not None:
            self._answers.keep(request, encoded, fd)
        return True

    def _succeed(
        self, request: Any, outputs: Raw, answered: Answered, brought: Sequence[int] = (), parts: Sequence[bytes] = ()
    ) -> None:
        client = request.client
        if client.ended:
            return
        explain = _explanation(request, answered) if request.explain else None
        version = request.binding.model.version
        client.link.put(Result(request.client_id, outputs, version, explain, len(brought), len(parts)), brought, parts)
        self._unflushed.add(client)

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
        self._tell(request, (code, message, command.fault), command.released)
        if command.released:
            self._release(request)

    def _fail(self, request: Any, error: tuple[str, str, str], now_ns: int) -> None:
        """A failure at the worker, which is released with it."""
        request.binding.model.record.failed(now_ns - request.arrived_ns, error[0], error[2])
        self._tell(request, error, released=True)

    def _tell(self, request: Any, error: tuple[str, str, str], released: bool) -> None:
        client = request.client
        if client.ended:
            return
        code, message, fault = error
        client.link.put(Failed(code, message, fault, request.client_id, released))
        self._unflushed.add(client)

    # --- release ---------------------------------------------------------------------------------------------------------

    def _release_late(self, request: Any) -> None:
        self._release(request)
        if not request.client.ended:
            request.client.link.put(Released(request.client_id))
            self._unflushed.add(request.client)

    def _release(self, request: Any) -> None:
        del request.client.in_flight[request.client_id]
        told = self._regions.release(request.binding.regions)
        if told:
            self._fleet.unflushed.update(told)


def _explanation(request: InferRequest, answered: Answered) -> Explanation:
    batch, report = answered.batch, answered.report
    return Explanation(
        answered.instance, batch.rows, len(batch.requests), batch.closed.value, max(0, report.started_ns - request.arrived_ns),
        report.input_ns, report.infer_ns, report.output_ns, report.copies,
    )  # fmt: skip


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


def _output_tensors(request: InferRequest, item: ItemResult, has_descriptor: bool) -> list[OutputTensor] | None:
    """The reply's outputs; None when the worker's answer does not fit what was asked for."""
    model, places = request.binding.model, request.binding.places
    if [output.output for output in item.outputs] != [model.output_position[place.name] for place in places]:
        return None
    if not has_descriptor and not all(place.region for place in places):
        return None
    outputs: list[OutputTensor] = []
    for place, output in zip(places, item.outputs, strict=True):
        spec = model.spec.outputs[output.output]
        offset = place.offset if place.region else output.offset
        datatype = "BYTES" if place.classification else spec.datatype
        outputs.append(OutputTensor(spec.name, datatype, output.shape, place.region, offset, output.byte_size))
    return outputs
