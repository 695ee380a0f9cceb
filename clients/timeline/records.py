# SPDX-License-Identifier: Apache-2.0
"""What a broker recorded, as values. Times are CLOCK_MONOTONIC nanoseconds; see runtime/tracing.py for who records when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ...ipc.errors import invalid


class TracedRequest(Struct, frozen=True, array_like=True):
    """A request of a batch. `request` is the broker's number for it."""

    request: int
    rows: int
    arrived_ns: int


class TracedBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A batch from being sent to its answer. `error` "": it was executed, though single requests may have failed.

    Waiting at the worker (started_ns - sent_ns) counts as waiting. The three durations follow each other from started_ns.
    """

    batch: int
    model: str
    version: int
    instance: str
    rows: int
    closed: str
    sent_ns: int
    started_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    ended_ns: int
    requests: list[TracedRequest]
    error: str = ""

    @property
    def label(self) -> str:
        """The model version."""
        return f"{self.model}/{self.version}"

    @property
    def computed_ns(self) -> int:
        """When the worker was done with it; `ended_ns` is when the broker had the answer."""
        return self.started_ns + self.input_ns + self.infer_ns + self.output_ns


class EndedEarly(Struct, frozen=True, forbid_unknown_fields=True):
    """A request that got its outcome without a batch's answer: cancelled, timed out, or its worker died."""

    request: int
    model: str
    version: int
    rows: int
    arrived_ns: int
    ended_ns: int
    code: str

    @property
    def label(self) -> str:
        """The model version."""
        return f"{self.model}/{self.version}"


class Trace(Struct, frozen=True):
    """A recording. `dropped`: requests that the broker could not keep until they were taken."""

    batches: list[TracedBatch]
    early: list[EndedEarly]
    dropped: int = 0

    @property
    def labels(self) -> list[str]:
        """The model versions in it, by name."""
        return sorted({batch.label for batch in self.batches} | {request.label for request in self.early})

    @property
    def begin_ns(self) -> int:
        """The first arrival; 0 for an empty trace."""
        arrivals = [request.arrived_ns for batch in self.batches for request in batch.requests]
        return min([*arrivals, *(request.arrived_ns for request in self.early)], default=0)

    @property
    def end_ns(self) -> int:
        """The last end."""
        return max([*(batch.ended_ns for batch in self.batches), *(request.ended_ns for request in self.early)], default=0)

    def between(self, begin_ns: int, end_ns: int) -> Trace:
        """What overlaps that stretch of time."""
        batches = [batch for batch in self.batches if batch.ended_ns > begin_ns and _first_ns(batch) < end_ns]
        early = [request for request in self.early if request.ended_ns > begin_ns and request.arrived_ns < end_ns]
        return Trace(batches, early, self.dropped)


def trace_of(records: Iterable[Mapping[str, Any]], dropped: int = 0) -> Trace:
    """From a broker's records, or those found in a file. Raises CallerError for what is none."""
    batches: list[TracedBatch] = []
    early: list[EndedEarly] = []
    try:
        for record in records:
            if "batch" in record:
                batches.append(msgspec.convert(record, TracedBatch))
            else:
                early.append(msgspec.convert(record, EndedEarly))
    except (msgspec.ValidationError, TypeError) as error:
        raise invalid(f"not a record of a trace: {error}") from error
    batches.sort(key=lambda batch: (batch.started_ns, batch.batch))
    return Trace(batches, sorted(early, key=lambda request: request.arrived_ns), dropped)


def _first_ns(batch: TracedBatch) -> int:
    return min(request.arrived_ns for request in batch.requests)
