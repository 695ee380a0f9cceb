# SPDX-License-Identifier: Apache-2.0
"""Triton's trace file: what its trace_summary.py reads. Source: server/docs/user_guide/trace.md, "JSON trace output".

An array in which each request has an entry that names its model and one with its timestamps. Instances and batches, of which
the format knows nothing, are left out; the Chrome file has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .records import Trace, TracedBatch


def triton_trace(trace: Trace) -> list[dict[str, Any]]:
    """All requests that a batch answered, and those that ended before, which have no COMPUTE timestamps."""
    entries: list[dict[str, Any]] = []
    for batch in trace.batches:
        for request in batch.requests:
            entries.append({"id": request.request, "model_name": batch.model, "model_version": batch.version})
            entries.append({"id": request.request, "timestamps": list(_timestamps(batch, request.arrived_ns))})
    for early in trace.early:
        stamps = [_stamp("REQUEST_START", early.arrived_ns), _stamp("QUEUE_START", early.arrived_ns)]
        entries.append({"id": early.request, "model_name": early.model, "model_version": early.version})
        entries.append({"id": early.request, "timestamps": [*stamps, _stamp("REQUEST_END", early.ended_ns)]})
    return entries


def _timestamps(batch: TracedBatch, arrived_ns: int) -> Iterator[dict[str, Any]]:
    yield _stamp("REQUEST_START", arrived_ns)
    yield _stamp("QUEUE_START", arrived_ns)
    yield _stamp("COMPUTE_START", batch.started_ns)
    yield _stamp("COMPUTE_INPUT_END", batch.started_ns + batch.input_ns)
    yield _stamp("COMPUTE_OUTPUT_START", batch.started_ns + batch.input_ns + batch.infer_ns)
    yield _stamp("COMPUTE_END", batch.computed_ns)
    yield _stamp("REQUEST_END", batch.ended_ns)


def _stamp(name: str, ns: int) -> dict[str, Any]:
    return {"name": name, "ns": ns}
