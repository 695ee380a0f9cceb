# SPDX-License-Identifier: Apache-2.0
"""What happened between two looks at a broker: counters and histograms only grow, so their differences are the interval's.

Those of a version that is loaded again begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .rendering import model_label

READY = "ready"
"""How status spells an instance that takes batches (runtime/instances.py); models are spelt as Triton does."""


class Look(NamedTuple):
    """What a broker said at one moment. `time_s` is this process's monotonic clock."""

    time_s: float
    status: dict[str, Any]
    model_stats: list[dict[str, Any]]
    stages: list[dict[str, Any]]


class ModelRates(NamedTuple):
    """One model version over one interval. Rates are per second; durations in ns, None where nothing was served."""

    model: str  # NAME/VERSION, or NAME of one that could not be read
    state: str
    instances: int  # READY ones
    queued: int
    requests: float
    rows: float
    failures: float
    mean_batch: float | None  # rows per execution
    p50_ns: int | None  # from acceptance to reply
    p99_ns: int | None
    queue_p99_ns: int | None


def rates(before: Look, after: Look) -> list[ModelRates]:
    """A row per model version that `after` knows, in its order."""
    seconds = max(after.time_s - before.time_s, 1e-9)
    statistics = {model_label(row): row for row in after.model_stats}
    earlier = {model_label(row): row for row in before.model_stats}
    stages = {model_label(row): row["histograms_ns"] for row in after.stages}
    earlier_stages = {model_label(row): row["histograms_ns"] for row in before.stages}
    ready: dict[str, int] = {}
    for instance in after.status["instances"]:
        if instance["state"] == READY:
            label = f"{instance['model']}/{instance['version']}"
            ready[label] = ready.get(label, 0) + 1
    found = []
    for model in after.status["models"]:
        label = model_label(model)
        now, then = statistics.get(label), earlier.get(label)
        if _began_anew(now, then):
            then = None
        total = _grown(stages.get(label), earlier_stages.get(label) if then else None, "total")
        queue = _grown(stages.get(label), earlier_stages.get(label) if then else None, "queue")
        executions = _count(now, "execution_count") - _count(then, "execution_count")
        inferences = _count(now, "inference_count") - _count(then, "inference_count")
        found.append(
            ModelRates(
                label, model.get("state", ""), ready.get(label, 0), after.status["queued"].get(label, 0),
                (_ended(now, "success") - _ended(then, "success")) / seconds,
                inferences / seconds,
                (_ended(now, "fail") - _ended(then, "fail")) / seconds,
                inferences / executions if executions else None,
                quantile(total, 0.5), quantile(total, 0.99), quantile(queue, 0.99),
            )
        )  # fmt: skip
    return found


def _began_anew(now: dict[str, Any] | None, then: dict[str, Any] | None) -> bool:
    """Whether the version was loaded again in between: then some counter is behind what it was."""
    executed = _count(now, "execution_count") < _count(then, "execution_count")
    return executed or any(_ended(now, how) < _ended(then, how) for how in ("success", "fail"))


def quantile(buckets: Sequence[tuple[int, int, int]], q: float) -> int | None:
    """The middle of the bucket (low, high, count) in which the quantile lies; None without values."""
    rank = max(1, -int(-q * sum(count for _, _, count in buckets) // 1))
    for low, high, count in buckets:
        rank -= count
        if rank <= 0:
            return (low + high) // 2
    return None


def _grown(now: dict[str, Any] | None, then: dict[str, Any] | None, stage: str) -> list[tuple[int, int, int]]:
    """The buckets of what was recorded in between."""
    known = {low: count for low, _, count in then[stage]["buckets"]} if then else {}
    buckets = now[stage]["buckets"] if now else []
    return [(low, high, count - known.get(low, 0)) for low, high, count in buckets if count > known.get(low, 0)]


def _count(row: dict[str, Any] | None, name: str) -> int:
    return int(row[name]) if row else 0


def _ended(row: dict[str, Any] | None, how: str) -> int:
    return int(row["inference_stats"][how]["count"]) if row else 0
