# SPDX-License-Identifier: Apache-2.0
"""Timers: what is due and when, also after timers were moved and cancelled, and how much is kept of those."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.runtime.scheduling.timers import SLACK, Timers


@pytest.fixture
def timers() -> Iterator[Timers]:
    made = Timers()
    yield made
    made.check_invariants()


def test_what_is_due_comes_earliest_first_and_once(timers: Timers) -> None:
    for key, when_ns in ((1, 30), (2, 10), (3, 20), (4, 40)):
        timers.set(key, when_ns)
    assert timers.first_ns() == 10
    assert timers.pop_due(30) == [2, 3, 1]
    assert timers.pop_due(30) == []
    assert (timers.first(), len(timers)) == ((40, 4), 1)


def test_a_timer_that_is_moved_is_due_at_its_new_time_only(timers: Timers) -> None:
    timers.set(1, 10)
    timers.set(1, 20)
    assert timers.first_ns() == 20
    assert timers.pop_due(19) == []
    timers.set(1, 5)
    assert timers.pop_due(5) == [1]
    assert timers.pop_due(20) == []


def test_a_timer_that_is_cancelled_is_never_due(timers: Timers) -> None:
    timers.set(1, 10)
    timers.cancel(1)
    timers.cancel(2)
    assert (timers.first_ns(), timers.pop_due(100), timers.when(1)) == (None, [], None)
    timers.set(1, 30)
    assert timers.pop_due(29) == []
    assert timers.pop_due(30) == [1]


def test_timers_that_are_moved_all_the_time_do_not_pile_up(timers: Timers) -> None:
    for number in range(10 * SLACK):
        timers.set(number % 2, number)
        assert len(timers._heap) <= 2 * 2 + SLACK
    assert timers.pop_due(10 * SLACK) == [0, 1]
