# SPDX-License-Identifier: Apache-2.0
"""What one request is told: its result or its failure, and when its memory is free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from ..ipc.codec import encode
from ..ipc.errors import PenstockError
from ..ipc.messages import Explanation, Failed, ItemResult, OutputTensor, Released, Result
from .cached_answers import CachedAnswers
from .fleet import Fleet
from .models import ModelTable
from .regions import RegionRegistry
from .requests import InferRequest
from .scheduling.requests import Request
from .sessions import Session
from .withheld import Answered


class Replies:
    """Puts outcomes and releases into the links of clients, and counts them. `unflushed`: the sessions that were told."""

    def __init__(
        self, models: ModelTable, regions: RegionRegistry, fleet: Fleet, unflushed: set[Session], cached: CachedAnswers
    ) -> None:
        self._models = models
        self._regions = regions
        self._fleet = fleet
        self._unflushed = unflushed
        self._cached = cached

    def __repr__(self) -> str:
        return f"<Replies to {len(self._unflushed)} unflushed sessions>"

    def answer(self, requests: Sequence[Request], answered: Answered, now_ns: int) -> None:
        """Each request gets its outcome and its release: the batch's failure, or what the worker says of it."""
        report = answered.report
        if report.message:
            name = self._models.by_number(answered.batch.model).name
            error = (report.code or "INTERNAL", f"model '{name}': {report.message}", report.fault)
            for request in requests:
                self.fail(request, error, now_ns)
                self.release(request)
        else:
            self._answer_live(requests, answered, now_ns)

    def _answer_live(self, requests: Sequence[Any], answered: Answered, now_ns: int) -> None:
        """Each request gets its outcome: as its placement promised, or (`found`) as the worker says request by request."""
        model = self._models.by_number(answered.batch.model)
        report, found = answered.report, answered.found
        rows = 0
        totals_ns: list[int] = []
        queues_ns: list[int] = []
        for request in requests:
            if found is None:
                reply = request.binding.reply
                if reply is None:
                    self.fail(request, ("INTERNAL", "a worker did not say what the outputs are", "model"), now_ns)
                    self.release(request)
                    continue
                self._succeed(request, reply, answered)
                if model.uses_cache:
                    self._cached.keep(request, reply, None)
            elif not self._answer_item(request, *found[request.number], answered, now_ns):
                self.release(request)
                continue
            arrived_ns = request.arrived_ns
            rows += request.rows
            totals_ns.append(now_ns - arrived_ns)
            queues_ns.append(max(0, report.started_ns - arrived_ns))
            self.release(request)
        model.record.completed(rows, totals_ns, queues_ns, report, answered.known_ns)

    def _answer_item(self, request: Any, item: ItemResult, fd: int | None, answered: Answered, now_ns: int) -> bool:
        """Outputs whose size or place was not known before, or a failure of this request alone; then False."""
        if item.code:
            self.fail(request, (item.code, item.message, item.fault), now_ns)
            return False
        outputs = _output_tensors(request, item, fd is not None)
        if outputs is None:
            error = ("INTERNAL", f"a worker answered with outputs that were not asked for: {item!r:.200}", "model")
            self.fail(request, error, now_ns)
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
            self.fail(request, (error.code.value, error.message, error.fault), now_ns)
            return False
        if request.ticket is not None:
            self._cached.keep(request, encoded, fd)
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

    def fail(self, request: Any, error: tuple[str, str, str], now_ns: int) -> None:
        """A failure at the worker, which is released with it."""
        request.binding.model.record.failed(now_ns - request.arrived_ns, error[0], error[2])
        self.tell(request, error, released=True)

    def tell(self, request: Any, error: tuple[str, str, str], released: bool) -> None:
        """A failure: code, message, and whose fault it is. Nothing is counted."""
        client = request.client
        if client.ended:
            return
        code, message, fault = error
        client.link.put(Failed(code, message, fault, request.client_id, released))
        self._unflushed.add(client)

    def release_late(self, request: Any) -> None:
        """The outcome was given earlier; the memory is free now."""
        self.release(request)
        if not request.client.ended:
            request.client.link.put(Released(request.client_id))
            self._unflushed.add(request.client)

    def release(self, request: Any) -> None:
        """No worker can touch the request's memory any more."""
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
