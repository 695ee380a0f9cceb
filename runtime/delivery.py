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
from .scheduling.commands import AnyCommand, Completed, Drained, Finish, Kill, Release, SendBatch
from .scheduling.requests import Batch as SentBatch
from .sessions import Session
from .tracing import Traces

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
        self._handlers: dict[type, Callable[[Any], None]] = {
            SendBatch: self._send_batch,
            Finish: self._finish,
            Release: self._release_late,
            Kill: self._kill,
            Drained: self._drained,
        }

    def __repr__(self) -> str:
        return f"<Delivery to {len(self._unflushed)} unflushed sessions>"

    def carry_out(self, command: AnyCommand) -> None:
        """Carries out any command but Completed, which needs the worker's report."""
        self._handlers[type(command)](command)

    def batch_done(self, commands: Sequence[AnyCommand], report: BatchDone, fds: list[int], now_ns: int) -> None:
        """Carries out what followed from a worker's report. The caller keeps `fds`."""
        for command in commands:
            if type(command) is Completed:
                self._completed(command, report, fds, now_ns)
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
        batch = command.batch
        model = self._models.by_number(batch.model)
        model.record.executed(batch.rows, batch.closed.value, report, time.time_ns() // 1_000_000)
        if report.items and len(report.items) != len(batch.requests):
            report = _broken(report, len(batch.requests))
        if report.message:
            error = (report.code or "INTERNAL", f"model '{model.name}': {report.message}", report.fault)
            for request in command.live:
                self._fail(request, error, now_ns)
                self._release(request)
        else:
            found = _results_by_number(batch.requests, report, fds) if report.items else None
            self._answer_live(command, report, found, now_ns)
        for request in command.late:
            self._release_late_request(request)
        if self._traces.recorders:
            name = self._fleet.instances[batch.instance].name
            self._traces.batch_ended(batch, model.name, model.version, name, report, now_ns)

    def _answer_live(
        self, command: Completed, report: BatchDone, found: dict[int, tuple[ItemResult, int | None]] | None, now_ns: int
    ) -> None:
        """Each request gets its outcome: as its placement promised, or (`found`) as the worker says request by request."""
        batch = command.batch
        model = self._models.by_number(batch.model)
        rows = 0
        totals_ns: list[int] = []
        queues_ns: list[int] = []
        for request in command.live:
            if found is None:
                self._succeed(request, request.binding.reply, batch, report)  # type: ignore[attr-defined]
                if model.uses_cache:
                    self._answers.keep(request, request.binding.reply, None)  # type: ignore[arg-type, attr-defined]
            elif not self._answer_item(request, *found[request.number], batch, report, now_ns):
                self._release(request)
                continue
            arrived_ns = request.arrived_ns
            rows += request.rows
            totals_ns.append(now_ns - arrived_ns)
            queues_ns.append(max(0, report.started_ns - arrived_ns))
            self._release(request)
        model.record.completed(rows, totals_ns, queues_ns, report, now_ns)

    def _answer_item(
        self, request: Any, item: ItemResult, fd: int | None, batch: SentBatch, report: BatchDone, now_ns: int
    ) -> bool:
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
            self._succeed(request, encoded, batch, report, brought, parts)
        except PenstockError as error:  # no descriptor is left to hand the outputs over with
            self._fail(request, (error.code.value, error.message, error.fault), now_ns)
            return False
        if request.ticket is not None:
            self._answers.keep(request, encoded, fd)
        return True

    def _succeed(
        self, request: Any, outputs: Raw, batch: SentBatch, report: BatchDone, brought: Sequence[int] = (),
        parts: Sequence[bytes] = (),
    ) -> None:  # fmt: skip
        client = request.client
        if client.ended:
            return
        explain = self._explanation(request, batch, report) if request.explain else None
        version = request.binding.model.version
        client.link.put(Result(request.client_id, outputs, version, explain, len(brought), len(parts)), brought, parts)
        self._unflushed.add(client)

    def _explanation(self, request: InferRequest, batch: SentBatch, report: BatchDone) -> Explanation:
        return Explanation(
            self._fleet.instances[batch.instance].name, batch.rows, len(batch.requests), batch.closed.value,
            max(0, report.started_ns - request.arrived_ns), report.input_ns, report.infer_ns, report.output_ns, report.copies,
        )  # fmt: skip

    def _finish(self, command: Finish) -> None:
        request: Any = command.request
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

    def _release_late(self, command: Release) -> None:
        self._release_late_request(command.request)

    def _release_late_request(self, request: Any) -> None:
        self._release(request)
        if not request.client.ended:
            request.client.link.put(Released(request.client_id))
            self._unflushed.add(request.client)

    def _release(self, request: Any) -> None:
        del request.client.in_flight[request.client_id]
        told = self._regions.release(request.binding.regions)
        if told:
            self._fleet.unflushed.update(told)


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
