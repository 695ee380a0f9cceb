# SPDX-License-Identifier: Apache-2.0
"""The counters of one model version, in Triton's JSON and with Triton's counting.

Sources: the statistics extension for the document, core's infer_stats.cc for the counting.

A request counts when it ends. A successful one is credited the full durations of its batch, not a share of them; a failed one
counts in `fail` only, and one that was refused when it arrived not at all. An execution counts once, whatever became of its
requests. A model that is loaded again starts with new counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ModelStatistics:
    """Durations in ns. A request's rows are its batch size, 1 for a model without batching."""

    __slots__ = (
        "batches",
        "compute_infer_ns",
        "compute_input_ns",
        "compute_output_ns",
        "execution_count",
        "fail_count",
        "fail_ns",
        "hit_count",
        "hit_ns",
        "inference_count",
        "last_inference_ms",
        "miss_count",
        "miss_ns",
        "queue_ns",
        "success_count",
        "success_ns",
    )

    def __init__(self) -> None:
        self.last_inference_ms = 0  # of the last execution, since the epoch
        self.inference_count = 0  # rows of successful requests
        self.execution_count = 0
        self.success_count = 0
        self.success_ns = 0
        self.fail_count = 0
        self.fail_ns = 0
        self.hit_count = 0  # by the response cache; they count as successes too
        self.hit_ns = 0
        self.miss_count = 0
        self.miss_ns = 0
        self.queue_ns = 0
        self.compute_input_ns = 0
        self.compute_infer_ns = 0
        self.compute_output_ns = 0
        #: rows of an execution -> [executions, input ns, infer ns, output ns]
        self.batches: dict[int, list[int]] = {}

    def __repr__(self) -> str:
        return (
            f"<ModelStatistics {self.success_count} succeeded, {self.fail_count} failed, "
            f"{self.inference_count} rows in {self.execution_count} executions>"
        )

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int, now_ms: int) -> None:
        """One execution of a batch, with the rows of all its requests."""
        self.execution_count += 1
        self.last_inference_ms = now_ms
        found = self.batches.get(rows)
        if found is None:
            found = self.batches[rows] = [0, 0, 0, 0]
        found[0] += 1
        found[1] += input_ns
        found[2] += infer_ns
        found[3] += output_ns

    def completed(
        self, rows: int, totals_ns: Sequence[int], queues_ns: Sequence[int], input_ns: int, infer_ns: int, output_ns: int
    ) -> None:
        """The successful requests of a batch: their rows together, each one's total and queue duration, none negative.

        The last three are the batch's; each of its requests is credited all of them.
        """
        count = len(totals_ns)
        self.inference_count += rows
        self.success_count += count
        self.success_ns += sum(totals_ns)
        self.queue_ns += sum(queues_ns)
        self.compute_input_ns += input_ns * count
        self.compute_infer_ns += infer_ns * count
        self.compute_output_ns += output_ns * count

    def hit(self, total_ns: int, queue_ns: int, lookup_ns: int) -> None:
        """One request that the response cache answered: a success without an inference."""
        self.success_count += 1
        self.success_ns += total_ns
        self.queue_ns += queue_ns
        self.hit_count += 1
        self.hit_ns += lookup_ns

    def missed(self, cache_ns: int) -> None:
        """What the response cache cost a request that it did not answer. It is counted by `completed` as well."""
        self.miss_count += 1
        self.miss_ns += cache_ns

    def failed(self, total_ns: int) -> None:
        """One request that was accepted and ended in an error, a timeout or a cancellation."""
        self.fail_count += 1
        self.fail_ns += total_ns

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """An element of Triton's `model_stats`, with every field.

        Triton counts queue and compute by successful requests, compute without those that the response cache answered.
        """
        count = self.success_count
        computed = count - self.hit_count
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": _duration(count, self.success_ns),
                "fail": _duration(self.fail_count, self.fail_ns),
                "queue": _duration(count, self.queue_ns),
                "compute_input": _duration(computed, self.compute_input_ns),
                "compute_infer": _duration(computed, self.compute_infer_ns),
                "compute_output": _duration(computed, self.compute_output_ns),
                "cache_hit": _duration(self.hit_count, self.hit_ns),
                "cache_miss": _duration(self.miss_count, self.miss_ns),
            },
            "response_stats": {},  # of decoupled models
            "batch_stats": [_batch(rows, self.batches[rows]) for rows in sorted(self.batches)],
            "memory_usage": [],
        }

    def check_invariants(self) -> None:
        """Executions are counted by their size, and a successful request has at least one row."""
        assert sum(found[0] for found in self.batches.values()) == self.execution_count, self
        assert all(rows >= 1 for rows in self.batches), self
        assert self.inference_count >= self.success_count - self.hit_count >= self.miss_count, self


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _batch(rows: int, found: Sequence[int]) -> dict[str, Any]:
    count, input_ns, infer_ns, output_ns = found
    return {
        "batch_size": rows,
        "compute_input": _duration(count, input_ns),
        "compute_infer": _duration(count, infer_ns),
        "compute_output": _duration(count, output_ns),
    }
