# SPDX-License-Identifier: Apache-2.0
"""Which points a threshold of latency leaves to be measured, against servers of which the most load is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients.perf.plan import Plan, Point
from penstock.clients.perf.search import PRECISION, probes_of
from penstock.ipc.errors import CallerError


def measured(points: Sequence[Point], most: float, **options: Any) -> list[Point]:
    """What is measured where so much load (concurrency or rate) is within the threshold."""
    probes = probes_of(Plan(points=tuple(points), memory="none", latency_threshold_ms=5, **options))
    found: list[Point] = []
    try:
        point = next(probes)
        while True:
            found.append(point)
            point = probes.send((point.request_rate or point.concurrency) <= most)
    except StopIteration:
        return found


def levels(*concurrencies: int, batch: int = 1) -> list[Point]:
    return [Point(batch, concurrency) for concurrency in concurrencies]


def test_without_a_search_each_is_measured_up_to_the_first_that_exceeds() -> None:
    assert measured(levels(1, 2, 4, 8, 16), 3) == levels(1, 2, 4)


def test_all_are_where_none_exceeds() -> None:
    assert measured(levels(1, 2, 4), 100) == levels(1, 2, 4)


def test_a_binary_search_halves_what_is_between_the_smallest_and_the_largest() -> None:
    assert measured(levels(1, 64), 20, search="binary") == levels(1, 64, 32, 16, 24, 20, 22, 21)


@pytest.mark.parametrize(("most", "found"), [(0, [1]), (64, [1, 64]), (1000, [1, 64])])
def test_it_ends_at_once_where_the_answer_is_at_an_end(most: int, found: list[int]) -> None:
    assert measured(levels(1, 64), most, search="binary") == levels(*found)


def test_it_ends_where_there_is_one_level_only() -> None:
    assert measured(levels(8), 100, search="binary") == levels(8)


def test_each_batch_size_is_searched_for_itself() -> None:
    found = measured([Point(4, 1), Point(1, 1), Point(4, 4), Point(1, 4)], 2, search="binary")
    assert found == [*levels(1, 4, 2, 3), *levels(1, 4, 2, 3, batch=4)]


@given(low=st.integers(1, 50), span=st.integers(0, 300), most=st.integers(0, 400))
def test_it_finds_the_most_concurrency_in_few_steps(low: int, span: int, most: int) -> None:
    high = low + span
    found = [point.concurrency for point in measured(levels(low, high), most, search="binary")]
    within = [level for level in found if level <= most]
    assert max(within, default=None) == (None if most < low else min(most, high))
    assert len(found) == len(set(found)) <= 2 + span.bit_length()


@given(low=st.floats(1, 100), span=st.floats(1, 10_000), part=st.floats(0, 1))
def test_it_finds_the_most_rate_within_its_precision(low: float, span: float, part: float) -> None:
    high, most = low + span, low + part * span
    rates = [point.request_rate or 0 for point in measured([Point(1, 9, low), Point(1, 9, high)], most, search="binary")]
    assert most - high * PRECISION <= max(rate for rate in rates if rate <= most) <= most
    assert len(rates) <= 10


def test_a_search_without_a_threshold_is_refused() -> None:
    with pytest.raises(CallerError, match="say which, with a latency threshold"):
        next(probes_of(Plan(points=tuple(levels(1, 2)), memory="none", search="binary")))
