# SPDX-License-Identifier: Apache-2.0
"""Chrome's trace event format, which ui.perfetto.dev and chrome://tracing open; and `penstock timeline`'s own input.

A process per model version, a thread per instance, on it a slice per batch with the three stages of computing inside; each
request is an asynchronous slice beside them, from its arrival to its end. The arguments of a batch's slice are the whole
record, so that the file can be read back. Source: "Trace Event Format", catapult project. Times are microseconds there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ...ipc.errors import invalid
from .records import Trace, TracedBatch, trace_of

EVENTS = "traceEvents"
OURS = "penstock"
BATCH, EARLY = "batch", "early"
"""Categories of the events whose arguments are a record."""


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """The document."""
    pids = {label: number for number, label in enumerate(trace.labels, 1)}
    instances = sorted({(batch.label, batch.instance) for batch in trace.batches})
    tids = {instance: number for number, (_, instance) in enumerate(instances, 1)}
    events = [_name("process_name", pid, 0, label) for label, pid in pids.items()]
    events += [_name("thread_name", pids[label], tids[instance], instance) for label, instance in instances]
    for batch in trace.batches:
        events += _batch_events(batch, pids[batch.label], tids[batch.instance])
    for early in trace.early:
        name, ends = f"request {early.request} {early.code}", (early.arrived_ns, early.ended_ns)
        events += _request_events(name, EARLY, early.request, pids[early.label], ends, msgspec.to_builtins(early))
    return {EVENTS: events, "displayTimeUnit": "ns", OURS: {"dropped": trace.dropped}}


def read_chrome_trace(document: Any) -> Trace:
    """What `chrome_trace` wrote. Raises CallerError for a file of another program."""
    if not isinstance(document, Mapping) or OURS not in document or not isinstance(document.get(EVENTS), list):
        raise invalid("not a trace of `penstock trace`: it has no record of batches")
    kept = ((BATCH, "X"), (EARLY, "b"))
    records = [event["args"] for event in document[EVENTS] if (event.get("cat"), event.get("ph")) in kept]
    return trace_of(records, int(document[OURS].get("dropped", 0)))


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _batch_events(batch: TracedBatch, pid: int, tid: int) -> Iterator[dict[str, Any]]:
    place = {"pid": pid, "tid": tid, "ph": "X"}
    name = f"batch {batch.batch}: {batch.rows} rows, {len(batch.requests)} requests"
    yield {**place, **_span(name, BATCH, batch.started_ns, batch.computed_ns), "args": msgspec.to_builtins(batch)}
    begin_ns = batch.started_ns
    for stage, ns in (("input", batch.input_ns), ("infer", batch.infer_ns), ("output", batch.output_ns)):
        if ns:
            yield {**place, **_span(f"compute {stage}", "stage", begin_ns, begin_ns + ns), "args": {}}
        begin_ns += ns
    for request in batch.requests:
        ends = (request.arrived_ns, batch.ended_ns)
        yield from _request_events(f"request {request.request}", "request", request.request, pid, ends, {"batch": batch.batch})


def _request_events(
    name: str, category: str, number: int, pid: int, ends_ns: tuple[int, int], args: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    shared = {"name": name, "cat": category, "id": number, "pid": pid, "tid": 0}
    yield {**shared, "ph": "b", "ts": ends_ns[0] / 1e3, "args": args}
    yield {**shared, "ph": "e", "ts": ends_ns[1] / 1e3}


def _span(name: str, category: str, begin_ns: int, end_ns: int) -> dict[str, Any]:
    return {"name": name, "cat": category, "ts": begin_ns / 1e3, "dur": (end_ns - begin_ns) / 1e3}
