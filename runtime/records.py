# SPDX-License-Identifier: Apache-2.0
"""All that is counted of one model version: Triton's statistics, and what Triton does not say.

Always on; per request it costs an element in two lists.
"""

from __future__ import annotations

from typing import Any

from ..ipc.errors import Code, ModelError
from ..ipc.messages import BatchDone
from .histograms import StageHistograms
from .statistics import ModelStatistics

_REASONS = {Code.CANCELLED.value: "CANCELED", Code.UNAVAILABLE.value: "REJECTED", Code.OVERLOADED.value: "REJECTED"}
"""Code -> Triton's reason in nv_inference_request_failure. Of the others, those that are the model's fault are BACKEND."""


class Record:
    """The counters of one load of a model version."""

    __slots__ = ("_closed", "_copies", "_failures", "_returning_ns", "histograms", "load_ns", "statistics")

    def __init__(self) -> None:
        self.statistics = ModelStatistics()
        self.histograms = StageHistograms()
        self.load_ns = (
            0  # from when its workers were asked for until it was READY; 0: it was not yet, or they were not asked for
        )
        #: why batches closed -> how often
        self._closed: dict[str, int] = {}
        #: kind of copy -> [count, bytes]
        self._copies: dict[str, list[int]] = {}
        #: Triton's reason of a failure -> how often; those refused when they arrived are in here and nowhere else
        self._failures: dict[str, int] = {}
        #: of successful requests together: how long their worker's report was on its way here
        self._returning_ns = 0

    def __repr__(self) -> str:
        return f"<Record {self.statistics!r} {self.histograms!r}>"

    def check_invariants(self) -> None:
        """Statistics and histograms saw the same."""
        self.statistics.check_invariants()
        self.histograms.check_invariants()
        assert sum(self._closed.values()) == self.statistics.execution_count, self
        assert self.histograms.total.count == self.statistics.success_count, self

    def executed(self, rows: int, closed: str, report: BatchDone, now_ms: int) -> None:
        """One execution, whatever became of its requests: their rows together, why the batch closed, the worker's report."""
        self.statistics.executed(rows, report.input_ns, report.infer_ns, report.output_ns, now_ms)
        self.histograms.executed(report.input_ns, report.infer_ns, report.output_ns)
        self._closed[closed] = self._closed.get(closed, 0) + 1
        for copied in report.copies:
            counted = self._copies.setdefault(copied.kind, [0, 0])
            counted[0] += copied.count
            counted[1] += copied.byte_size

    def completed(self, rows: int, totals_ns: list[int], queues_ns: list[int], report: BatchDone, now_ns: int) -> None:
        """The requests of an execution that succeeded: rows together; of each its total time, and until execution began."""
        self._returning_ns += (now_ns - report.ended_ns) * len(totals_ns)
        self.statistics.completed(rows, totals_ns, queues_ns, report.input_ns, report.infer_ns, report.output_ns)
        self.histograms.completed(totals_ns, queues_ns)

    def hit(self, total_ns: int, queue_ns: int, lookup_ns: int) -> None:
        """One request that the response cache answered: in all, until it was looked up, and that itself."""
        self.statistics.hit(total_ns, queue_ns, lookup_ns)
        self.histograms.completed([total_ns], [queue_ns])

    def missed(self, cache_ns: int) -> None:
        """One request that the response cache did not answer, and that succeeded: looking it up and putting it in."""
        self.statistics.missed(cache_ns)

    def failed(self, total_ns: int, code: str, fault: str) -> None:
        """One request that was accepted and ended in an error, a cancel or past its deadline."""
        self.statistics.failed(total_ns)
        self._count_failure(code, fault)

    def refused(self, code: str, fault: str) -> None:
        """One request that was not accepted when it arrived: Triton's statistics leave it out, its metrics do not."""
        self._count_failure(code, fault)

    def _count_failure(self, code: str, fault: str) -> None:
        reason = _REASONS.get(code) or ("BACKEND" if fault == ModelError.fault else "OTHER")
        self._failures[reason] = self._failures.get(reason, 0) + 1

    def stages(self) -> dict[str, Any]:
        """Distributions in ns, sizes of batches and why they closed, copies, reports' way back, how long loading took."""
        statistics = self.statistics
        return {
            "load_ns": self.load_ns,
            "histograms_ns": self.histograms.to_json(self._sums_ns()),
            "batch_sizes": {str(rows): found[0] for rows, found in sorted(self.statistics.batches.items())},
            "closed": dict(self._closed),
            "copies": {kind: {"count": count, "byte_size": size} for kind, (count, size) in self._copies.items()},
            "returning": {"count": statistics.success_count - statistics.hit_count, "ns": self._returning_ns},
            "failures": dict(self._failures),
        }

    def _sums_ns(self) -> dict[str, int]:
        """Stage -> the sum of what its histogram counted, which statistics have exactly."""
        _, input_ns, infer_ns, output_ns = (
            sum(column) for column in zip([0] * 4, *self.statistics.batches.values(), strict=True)
        )
        return {
            "total": self.statistics.success_ns,
            "queue": self.statistics.queue_ns,
            "compute_input": input_ns,
            "compute_infer": infer_ns,
            "compute_output": output_ns,
        }
