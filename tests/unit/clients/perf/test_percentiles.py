# SPDX-License-Identifier: Apache-2.0
"""Percentiles, means and the rule by which windows are called stable, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.clients.perf.percentiles import Latencies, WindowFigures, is_stable, latencies_of, mean


def test_percentiles_are_recorded_latencies_and_not_between_two() -> None:
    # Given twenty latencies, 10 to 200 in steps of ten, in any order
    recorded = np.random.default_rng(0).permutation(np.arange(10, 201, 10))
    # Then half of them do not exceed the tenth, 90 % the eighteenth, 95 % the nineteenth, and 99 % takes all twenty
    assert latencies_of(recorded) == Latencies(p50_ns=100, p90_ns=180, p95_ns=190, p99_ns=200, avg_ns=105)


def test_one_latency_is_all_of_its_percentiles() -> None:
    assert latencies_of(np.array([7])) == Latencies(7, 7, 7, 7, 7)


def test_of_a_hundred_the_99th_percentile_leaves_the_largest_out() -> None:
    assert latencies_of(np.array([*range(1, 100), 5000])).p99_ns == 99


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(10, 4, 3), (9, 4, 2), (-10, 4, -2), (-9, 4, -2), (2**70 + 1, 2, 2**69 + 1)]
)
def test_means_are_whole_with_halves_up_and_exact(total: int, count: int, expected: int) -> None:
    assert mean(total, count) == expected


def figures(*pairs: tuple[float, float]) -> list[WindowFigures]:
    return [WindowFigures(*pair) for pair in pairs]


def test_three_windows_within_the_percentage_are_stable() -> None:
    assert is_stable(figures((100, 10), (110, 10.5), (105, 11)), 10)


def test_two_windows_never_are() -> None:
    assert not is_stable(figures((100, 10), (100, 10)), 10)


@pytest.mark.parametrize("last", [(111, 10), (100, 11.1), (89, 10)])
def test_either_figure_that_differs_by_more_is_enough(last: tuple[float, float]) -> None:
    assert not is_stable(figures((100, 10), (100, 10), last), 10)


def test_the_first_and_the_last_of_the_three_are_compared_too() -> None:
    # Given windows each of which is within 10 % of its neighbour
    assert not is_stable(figures((100, 10), (108, 10), (116, 10)), 10)


def test_windows_before_the_last_three_do_not_count() -> None:
    assert is_stable(figures((5, 900), (100, 10), (100, 10), (100, 10)), 10)


def test_zero_percent_asks_for_equality() -> None:
    assert is_stable(figures((100, 10), (100, 10), (100, 10)), 0)
    assert not is_stable(figures((100, 10), (100, 10), (100.001, 10)), 0)
