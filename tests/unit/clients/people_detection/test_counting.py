# SPDX-License-Identifier: Apache-2.0
"""What a round of calls added to the statistics: differences of Triton's documents, and means of them."""

from __future__ import annotations

import copy
from typing import Any

from penstock.clients.people_detection.counting import difference, means
from penstock.runtime.statistics import ModelStatistics


def document(statistics: ModelStatistics) -> dict[str, Any]:
    return statistics.to_json("peoplenet", "1")


def test_what_was_counted_before_is_not_in_the_difference() -> None:
    # Given a model that has executed one batch of 2, and one of 3
    statistics = ModelStatistics()
    for rows in (2, 3):
        statistics.executed(rows, 1, 20, 3, now_ms=5)
        statistics.completed(rows, [100] * rows, [10] * rows, 1, 20, 3)
    before = document(statistics)
    # When it executes another of 3, and one of 1
    for rows in (3, 1):
        statistics.executed(rows, 2, 40, 6, now_ms=9)
        statistics.completed(rows, [500] * rows, [50] * rows, 2, 40, 6)
    counted = difference(document(statistics), before)
    # Then these two are what is counted, as if there had been no others
    alone = ModelStatistics()
    for rows in (3, 1):
        alone.executed(rows, 2, 40, 6, now_ms=9)
        alone.completed(rows, [500] * rows, [50] * rows, 2, 40, 6)
    assert counted == document(alone)


def test_a_fresh_model_has_all_of_it_counted() -> None:
    statistics = ModelStatistics()
    nothing = copy.deepcopy(document(statistics))
    statistics.executed(1, 1, 20, 3, now_ms=5)
    statistics.completed(1, [100], [10], 1, 20, 3)
    statistics.failed(7)
    assert difference(document(statistics), nothing) == document(statistics)


def test_means_are_of_requests_and_compute_is_all_three_stages() -> None:
    # Given a batch of two, which waited 1 and 3 ms and took 2 + 30 + 4 ms to compute
    statistics = ModelStatistics()
    statistics.executed(2, 2_000_000, 30_000_000, 4_000_000, now_ms=5)
    statistics.completed(2, [40_000_000, 42_000_000], [1_000_000, 3_000_000], 2_000_000, 30_000_000, 4_000_000)
    # Then each request is credited with all of the batch's computing
    found = means(document(statistics))
    assert (found.request_ms, found.queue_ms, found.compute_ms) == (41.0, 2.0, 36.0)
