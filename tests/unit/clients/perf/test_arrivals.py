# SPDX-License-Identifier: Apache-2.0
"""Schedules: as many as the rate says, the same for the same seed, and as one where several processes share them."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.clients.perf.arrivals import Arrivals, Distribution, Share

SECOND = 1_000_000_000
DISTRIBUTIONS: list[Distribution] = ["poisson", "constant"]


def test_constant_is_one_in_each_interval() -> None:
    assert Arrivals(4, "constant", 0).within(SECOND, 0).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]
    assert Arrivals(4, "constant", 0).first(2, 0).tolist() == [0, 250_000_000]


def test_a_rate_that_does_not_divide_the_window() -> None:
    assert Arrivals(3, "constant", 0).within(SECOND // 2, 0).tolist() == [0, 333_333_333]


def test_constant_shares_take_turns() -> None:
    shares = [Arrivals(1000, "constant", 0, Share(number, 3)).within(SECOND, 0) for number in range(3)]
    assert np.sort(np.concatenate(shares)).tolist() == Arrivals(1000, "constant", 0).within(SECOND, 0).tolist()
    assert shares[1][:2].tolist() == [1_000_000, 4_000_000]


@pytest.mark.parametrize("first", [False, True])
def test_poisson_gaps_are_exponential(first: bool) -> None:
    # Given about a hundred thousand arrivals at 1000/s
    arrivals = Arrivals(1000, "poisson", 7)
    times = arrivals.first(100_000, 0) if first else arrivals.within(100 * SECOND, 0)
    # Then there are so many, in order
    assert len(times) == pytest.approx(100_000, abs=4 * 100_000**0.5)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    # And gaps have the mean and the spread of the exponential distribution, and hardly depend on the one before
    assert gaps.mean() == pytest.approx(1e6, rel=0.02)
    assert gaps.std() == pytest.approx(1e6, rel=0.02)
    assert (gaps > 1e6).mean() == pytest.approx(np.exp(-1), rel=0.02)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02


def test_poisson_shares_are_different_and_have_the_rate_together() -> None:
    shares = [Arrivals(1000, "poisson", 7, Share(number, 4)).within(25 * SECOND, 0) for number in range(4)]
    assert sum(map(len, shares)) == pytest.approx(25_000, abs=4 * 25_000**0.5)
    assert not any(np.array_equal(shares[0], other) for other in shares[1:])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_so_many_requests_are_split_among_shares(distribution: Distribution) -> None:
    counts = [len(Arrivals(10, distribution, 0, Share(number, 3)).first(8, 0)) for number in range(3)]
    assert counts == [3, 3, 2]


def test_a_window_of_so_many_requests_is_as_long_as_their_times() -> None:
    # Given windows of twenty requests at 100/s, of which some come faster and some slower
    arrivals = Arrivals(100, "poisson", 3)
    rates = []
    for window in range(500):
        times = arrivals.first(20, window)
        assert arrivals.length_ns(times, 20) == times[-1]
        rates.append(arrivals.length_ns(times, 20) / 20)
    # Then a request takes a hundredth of a second in the mean
    assert np.mean(rates) == pytest.approx(SECOND / 100, rel=0.03)
    # And of constant times exactly, the interval of the last one included
    constant = Arrivals(100, "constant", 0)
    assert constant.length_ns(constant.first(20, 0), 20) == SECOND // 5


def test_the_same_seed_gives_the_same_times_and_each_window_its_own() -> None:
    one = Arrivals(100, "poisson", 1).within(SECOND, 0)
    assert np.array_equal(one, Arrivals(100, "poisson", 1).within(SECOND, 0))
    assert not np.array_equal(one, Arrivals(100, "poisson", 1).within(SECOND, 1))
    assert not np.array_equal(one, Arrivals(100, "poisson", 2).within(SECOND, 0))


def test_a_share_of_what_cannot_be_halved() -> None:
    assert [Share(number, 3).part(7) for number in range(3)] == [3, 2, 2]
