# SPDX-License-Identifier: Apache-2.0
"""Histograms: which bucket a value falls into, and how far a quantile may be off."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.histograms import Bucket, Histogram, StageHistograms

DURATIONS = st.integers(0, 2**65 - 1) | st.integers(0, 10_000)


SUMS_NS = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output", "total"), 0)


def histogram_of(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    histogram.check_invariants()
    return histogram


def test_small_values_have_a_bucket_each_and_larger_ones_share_four_to_an_octave() -> None:
    histogram = histogram_of(*range(20))

    assert list(histogram.buckets()) == [
        *(Bucket(value, value, 1) for value in range(8)),
        Bucket(8, 9, 2), Bucket(10, 11, 2), Bucket(12, 13, 2), Bucket(14, 15, 2), Bucket(16, 19, 4),
    ]  # fmt: skip


def test_what_a_clock_made_negative_counts_as_nothing() -> None:
    assert list(histogram_of(-1, -(2**70), 0).buckets()) == [Bucket(0, 0, 3)]


@given(DURATIONS)
def test_a_value_lies_within_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    (bucket,) = histogram_of(value).buckets()

    assert bucket.low <= value <= bucket.high
    assert bucket.high - bucket.low < max(1, bucket.low / 4)


@given(st.lists(DURATIONS, min_size=1), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_off_by_at_most_an_eighth(values: list[int], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]

    found = histogram_of(*values).quantile(q)

    assert found is not None and abs(found - exact) <= exact / 8


@given(st.lists(st.integers(-5, 2**65 - 1)))
def test_recording_together_is_recording_one_by_one(values: list[int]) -> None:
    together = Histogram()
    together.record_all(values)

    assert together.to_json() == histogram_of(*values).to_json()
    assert together.count == len(values)


def test_the_document_has_counts_quantiles_and_buckets() -> None:
    document = histogram_of(*[100] * 98, 5000, 5000).to_json()

    assert document == {
        "count": 100, "p50": 103, "p90": 103, "p99": 4607, "p99.9": 4607, "buckets": [[96, 111, 98], [4096, 5119, 2]],
    }  # fmt: skip


def test_an_empty_histogram_has_no_quantiles() -> None:
    document = Histogram().to_json()

    assert document == {"count": 0, "p50": None, "p90": None, "p99": None, "p99.9": None, "buckets": []}


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_a_share_beyond_all_is_a_mistake(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram().quantile(q)


def test_stages_count_requests_and_executions() -> None:
    # Given a batch of three requests
    stages = StageHistograms()
    stages.executed(input_ns=1, infer_ns=2, output_ns=3)
    stages.completed(totals_ns=[70, 80, 90], queues_ns=[4, 5, 6])
    stages.check_invariants()

    # Then its executing counts once, its requests thrice
    counts = {stage: found["count"] for stage, found in stages.to_json(SUMS_NS).items()}
    assert counts == {"queue": 3, "compute_input": 1, "compute_infer": 1, "compute_output": 1, "total": 3}
    assert stages.to_json(SUMS_NS)["queue"]["buckets"] == [[4, 4, 1], [5, 5, 1], [6, 6, 1]]
    assert stages.compute_output.quantile(0.5) == 3


def test_invariants_notice_a_stage_that_was_forgotten() -> None:
    stages = StageHistograms()
    stages.queue.record(1)

    with pytest.raises(AssertionError):
        stages.check_invariants()
