# SPDX-License-Identifier: Apache-2.0
"""What is exposed: Triton's `nv_inference_*` under Triton's names, and what only Penstock knows as `penstock_*`. Pure.

Made of the documents that clients can ask for as well (queries.py), so that a figure means the same wherever it is read.
Source of Triton's names, units and labels: its metrics guide; durations there are whole microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .exposition import Family, Sample

STAGES = ("total", "queue", "compute_input", "compute_infer", "compute_output")
BOUNDS_NS = tuple(1 << bits for bits in range(12, 36))
"""Upper bounds of exposed buckets: powers of two from 4 us to 34 s, at which the broker's own buckets end (histograms.py)."""
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Triton's reasons of failures; all are there from the start, so that a rate can be taken of the first."""
NS_PER_US = 1000

TRITON_COUNTERS = (
    ("nv_inference_request_success", "Successful requests, all batch sizes", "inference_stats.success.count"),
    ("nv_inference_count", "Inferences: rows of successful requests", "inference_count"),
    ("nv_inference_exec_count", "Executions of batches", "execution_count"),
    ("nv_inference_request_duration_us", "Time of requests, in microseconds", "inference_stats.success.ns"),
    ("nv_inference_queue_duration_us", "Time that requests waited, in microseconds", "inference_stats.queue.ns"),
    ("nv_inference_compute_input_duration_us", "Time of inputs, in microseconds", "inference_stats.compute_input.ns"),
    ("nv_inference_compute_infer_duration_us", "Time of executing, in microseconds", "inference_stats.compute_infer.ns"),
    (
        "nv_inference_compute_output_duration_us",
        "Time of outputs, in microseconds",
        "inference_stats.compute_output.ns",
    ),
    ("nv_cache_num_hits_per_model", "Requests answered from the response cache", "inference_stats.cache_hit.count"),
    ("nv_cache_num_misses_per_model", "Requests that the response cache did not have", "inference_stats.cache_miss.count"),
    ("nv_cache_hit_duration_per_model", "Time of look-ups that found, in microseconds", "inference_stats.cache_hit.ns"),
    (
        "nv_cache_miss_duration_per_model",
        "Time of other look-ups, in microseconds",
        "inference_stats.cache_miss.ns",
    ),
)
"""(name, help, where it is in an element of `model_stats`)."""

Rows = Sequence[Mapping[str, Any]]


class Documents(NamedTuple):
    """One moment of a broker. `tags`: NAME/VERSION -> its metric_tags."""

    status: Mapping[str, Any]
    model_stats: Rows
    stages: Rows
    tags: Mapping[str, Mapping[str, str]]


def families(found: Documents) -> Iterator[Family]:
    """All of them, in a fixed order."""
    yield from _of_triton(found)
    yield from _of_models(found)
    yield from _of_broker(found.status)


def _of_triton(found: Documents) -> Iterator[Family]:
    for name, text, path in TRITON_COUNTERS:
        yield Family(name, "counter", text, [Sample(_labels(row, found), _value(row, path)) for row in found.model_stats])
    yield Family(
        "nv_inference_request_failure", "counter", "Failed requests, all batch sizes, by reason",
        [
            Sample({**_labels(row, found), "reason": reason}, row["failures"].get(reason, 0))
            for row in found.stages for reason in REASONS
        ],
    )  # fmt: skip
    queued = found.status["queued"]
    yield Family(
        "nv_inference_pending_request_count", "gauge", "Requests that wait for execution",
        [Sample(_labels(row, found), queued.get(_key(row), 0)) for row in found.model_stats],
    )  # fmt: skip
    yield Family(
        "nv_model_load_duration_secs", "gauge", "How long loading took, in seconds",
        [Sample(_labels(row, found), row["load_ns"] / 1e9) for row in found.stages if row["load_ns"]],
    )  # fmt: skip


def _value(row: Mapping[str, Any], path: str) -> int:
    """A number of the statistics document; durations, which are in ns there, in whole microseconds."""
    found: Any = row
    for key in path.split("."):
        found = found[key]
    return int(found) // NS_PER_US if path.endswith(".ns") else int(found)


def _of_models(found: Documents) -> Iterator[Family]:
    yield Family(
        "penstock_stage_seconds", "histogram", "Where the time goes: total and queue by request, computing by execution",
        [sample for row in found.stages for stage in STAGES for sample in _histogram(row, stage, found)],
    )  # fmt: skip
    yield Family(
        "penstock_batches_closed_total", "counter", "Batches by why they were closed",
        [Sample({**_labels(row, found), "closed": why}, count) for row in found.stages for why, count in row["closed"].items()],
    )  # fmt: skip
    for name, what in (("byte_size", "bytes"), ("count", "copies")):
        yield Family(
            f"penstock_copied_{what}_total", "counter", f"What workers copied, in {what}, by kind of copy",
            [
                Sample({**_labels(row, found), "kind": kind}, counted[name])
                for row in found.stages for kind, counted in row["copies"].items()
            ],
        )  # fmt: skip
    states: dict[tuple[str, str, str], int] = {}
    for row in found.status["instances"]:
        key = (row["model"], str(row["version"]), row["state"])
        states[key] = states.get(key, 0) + 1
    yield Family(
        "penstock_instances", "gauge", "Workers by state",
        [Sample({"model": m, "version": v, "state": state}, count) for (m, v, state), count in sorted(states.items())],
    )  # fmt: skip
    yield Family(
        "penstock_model_ready", "gauge", "1 where the model version is READY",
        [
            Sample({"model": row["name"], "version": row.get("version", "")}, row.get("state") == "READY")
            for row in found.status["models"]
        ],
    )  # fmt: skip


def _of_broker(status: Mapping[str, Any]) -> Iterator[Family]:
    gauges = {
        "penstock_clients": ("Connected clients", len(status["sessions"])),
        "penstock_regions": ("Registered regions", status["regions"]),
        "penstock_region_bytes": ("Bytes of registered regions", status["region_bytes"]),
    }
    for name, (text, value) in gauges.items():
        yield Family(name, "gauge", text, [Sample({}, value)])
    yield Family(
        "penstock_bad_messages_total",
        "counter",
        "Messages that were refused as malformed",
        [Sample({}, status["bad_messages"])],
    )


def _histogram(row: Mapping[str, Any], stage: str, found: Documents) -> Iterator[Sample]:
    """Cumulative buckets, as the format wants them. A broker's bucket lies wholly below a bound or wholly above."""
    labels = {**_labels(row, found), "stage": stage}
    histogram = row["histograms_ns"][stage]
    buckets = iter(histogram["buckets"])
    bucket = next(buckets, None)
    below = 0
    for bound_ns in BOUNDS_NS:
        while bucket is not None and bucket[1] < bound_ns:
            below += bucket[2]
            bucket = next(buckets, None)
        yield Sample({**labels, "le": f"{bound_ns / 1e9:g}"}, below, "_bucket")
    yield Sample({**labels, "le": "+Inf"}, histogram["count"], "_bucket")
    yield Sample(labels, histogram["sum"] / 1e9, "_sum")
    yield Sample(labels, histogram["count"], "_count")


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['name']}/{row['version']}"


def _labels(row: Mapping[str, Any], found: Documents) -> dict[str, str]:
    tags = {f"_{name}": value for name, value in found.tags.get(_key(row), {}).items()}  # as Triton's are, for no clash
    return {**tags, "model": row["name"], "version": row["version"]}
