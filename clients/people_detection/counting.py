# SPDX-License-Identifier: Apache-2.0
"""What some calls added to a model's statistics: the difference of two of Triton's documents, and means made of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

COMPUTE = ("compute_input", "compute_infer", "compute_output")


class Means(NamedTuple):
    """Milliseconds per request, as Triton credits them: each request of a batch with all that the batch took to compute."""

    request_ms: float
    queue_ms: float
    compute_ms: float  # input, infer and output


def difference(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What `after` counts and `before` does not: two elements of `model_stats` of one model, not loaded again between them."""
    earlier = {row["batch_size"]: row for row in before["batch_stats"]}
    batches = [_batch(row, earlier.get(row["batch_size"], {})) for row in after["batch_stats"]]
    return {
        **after,
        "inference_count": after["inference_count"] - before["inference_count"],
        "execution_count": after["execution_count"] - before["execution_count"],
        "inference_stats": _durations(after["inference_stats"], before["inference_stats"]),
        "batch_stats": [row for row in batches if row["compute_infer"]["count"]],
    }


def _batch(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    stages = {stage: counted for stage, counted in after.items() if stage != "batch_size"}
    return {"batch_size": after["batch_size"], **_durations(stages, before)}


def _durations(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    nothing = {"count": 0, "ns": 0}
    return {
        stage: {unit: value - before.get(stage, nothing)[unit] for unit, value in counted.items()}
        for stage, counted in after.items()
    }


def means(counted: Mapping[str, Any]) -> Means:
    """Of an element of `model_stats` with at least one successful request."""
    stages = counted["inference_stats"]

    def mean_ms(*names: str) -> float:
        return float(sum(stages[name]["ns"] / stages[name]["count"] for name in names) / 1e6)

    return Means(mean_ms("success"), mean_ms("queue"), mean_ms(*COMPUTE))
