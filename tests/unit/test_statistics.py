# SPDX-License-Identifier: Apache-2.0
"""Triton's counting, by hand: a known sequence of requests and the document that must come of it, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.runtime.statistics import ModelStatistics


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def checked(statistics: ModelStatistics) -> dict[str, Any]:
    statistics.check_invariants()
    return statistics.to_json("digits", "3")


def test_a_model_that_was_never_used_has_every_field_at_zero() -> None:
    assert checked(ModelStatistics()) == {
        "name": "digits",
        "version": "3",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {
            name: duration(0, 0)
            for name in (
                "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
            )
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }  # fmt: skip


def test_a_known_sequence_of_requests() -> None:
    statistics = ModelStatistics()

    # Given a batch of three requests of 1, 2 and 4 rows that all succeed
    statistics.executed(7, input_ns=10, infer_ns=100, output_ns=20, now_ms=1_700_000_000_001)
    statistics.completed(7, [1000, 1100, 1200], [500, 600, 700], input_ns=10, infer_ns=100, output_ns=20)
    # And one request of one row by itself
    statistics.executed(1, input_ns=3, infer_ns=30, output_ns=5, now_ms=1_700_000_000_002)
    statistics.completed(1, [400], [40], input_ns=3, infer_ns=30, output_ns=5)
    # And a batch of 7 rows of which one request of 3 rows fails, while the one of 4 succeeds
    statistics.executed(7, input_ns=12, infer_ns=90, output_ns=22, now_ms=1_700_000_000_003)
    statistics.completed(4, [900], [90], input_ns=12, infer_ns=90, output_ns=22)
    statistics.failed(910)
    # And one that was cancelled in the queue
    statistics.failed(77)

    # Then each success is credited its batch's full durations, and failures count in `fail` alone
    assert checked(statistics) == {
        "name": "digits",
        "version": "3",
        "last_inference": 1_700_000_000_003,
        "inference_count": 7 + 1 + 4,
        "execution_count": 3,
        "inference_stats": {
            "success": duration(5, 1000 + 1100 + 1200 + 400 + 900),
            "fail": duration(2, 910 + 77),
            "queue": duration(5, 500 + 600 + 700 + 40 + 90),
            "compute_input": duration(5, 3 * 10 + 3 + 12),
            "compute_infer": duration(5, 3 * 100 + 30 + 90),
            "compute_output": duration(5, 3 * 20 + 5 + 22),
            "cache_hit": duration(0, 0),
            "cache_miss": duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": 1,
                "compute_input": duration(1, 3),
                "compute_infer": duration(1, 30),
                "compute_output": duration(1, 5),
            },
            {
                "batch_size": 7,
                "compute_input": duration(2, 10 + 12),
                "compute_infer": duration(2, 100 + 90),
                "compute_output": duration(2, 20 + 22),
            },
        ],
        "memory_usage": [],
    }


def test_an_execution_whose_requests_all_failed_is_still_an_execution() -> None:
    statistics = ModelStatistics()

    statistics.executed(2, 1, 2, 3, now_ms=9)
    statistics.completed(0, [], [], 1, 2, 3)
    statistics.failed(50)
    statistics.failed(60)

    document = checked(statistics)
    assert (document["inference_count"], document["execution_count"], document["last_inference"]) == (0, 1, 9)
    assert document["inference_stats"]["fail"] == duration(2, 110)
    assert document["inference_stats"]["success"] == document["inference_stats"]["compute_infer"] == duration(0, 0)
    assert document["batch_stats"][0]["compute_infer"] == duration(1, 2)


def test_the_document_is_plain_json() -> None:
    statistics = ModelStatistics()
    statistics.executed(1, 2**62, 2**62, 2**62, now_ms=1)
    statistics.completed(1, [2**63], [2**62], 2**62, 2**62, 2**62)

    assert json.loads(json.dumps(checked(statistics))) == checked(statistics)


def test_invariants_notice_rows_that_were_forgotten() -> None:
    statistics = ModelStatistics()
    statistics.completed(1, [5, 5], [1, 1], 1, 1, 1)

    with pytest.raises(AssertionError):
        statistics.check_invariants()
