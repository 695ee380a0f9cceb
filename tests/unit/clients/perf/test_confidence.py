# SPDX-License-Identifier: Apache-2.0
"""How often the interval of the throughput contains it: in simulated runs of which the true mean is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from penstock.clients.perf.confidence import Span, throughput_interval
from penstock.clients.perf.percentiles import WindowFigures, is_stable

SECOND = 1_000_000_000
RUNS = 400
"""Of which 95 % are counted to about 1 % (the standard deviation)."""

Window = Callable[[np.random.Generator], Span]


def one_at_a_time(generator: np.random.Generator) -> Span:
    """A closed loop of one: exponential service of 2 ms, 500/s."""
    ended = np.cumsum(generator.exponential(SECOND / 500, 700)).astype(np.int64)
    last = int(np.searchsorted(ended, SECOND))
    return Span(int(ended[last]), ended[: last + 1])


def regular(generator: np.random.Generator) -> Span:
    """The same, with little spread: from 1.9 to 2.1 ms."""
    ended = np.cumsum(generator.uniform(0.95, 1.05, 700) * SECOND / 500).astype(np.int64)
    last = int(np.searchsorted(ended, SECOND))
    return Span(int(ended[last]), ended[: last + 1])


def slow_and_fast(generator: np.random.Generator) -> Span:
    """Services that depend on the one before: AR(1) with a coefficient of 0.8, about eight requests long, mean 2 ms."""
    factors = np.convolve(generator.normal(0, 0.1, 760), 0.8 ** np.arange(60), "valid")[:700]
    ended = np.cumsum((1 + factors).clip(0.05) * SECOND / 500).astype(np.int64)
    last = int(np.searchsorted(ended, SECOND))
    return Span(int(ended[last]), ended[: last + 1])


def arriving(generator: np.random.Generator) -> Span:
    """An open loop: 500/s by a Poisson process."""
    return Span(SECOND, np.sort(generator.integers(0, SECOND, generator.poisson(500))))


def coverage(window: Window, windows: int) -> float:
    generator = np.random.default_rng(1)
    intervals = [throughput_interval([window(generator) for _ in range(windows)], 4) for _ in range(RUNS)]
    return sum(low <= 4 * 500 <= high for low, high in intervals) / RUNS


@pytest.mark.parametrize("windows", [1, 2, 3])
@pytest.mark.parametrize("window", [one_at_a_time, arriving])
def test_it_contains_the_mean_in_95_of_100_runs(window: Window, windows: int) -> None:
    assert 0.92 <= coverage(window, windows) <= 0.98


def test_dependence_that_is_short_against_an_interval_does_little_harm() -> None:
    assert 0.91 <= coverage(slow_and_fast, 3) <= 0.98


def test_regular_requests_make_it_wider_than_it_had_to_be_and_never_too_narrow() -> None:
    # Since counts are whole
    assert coverage(regular, 3) >= 0.95


def test_choosing_three_windows_that_agree_costs_two_or_three_of_a_hundred() -> None:
    # When runs go on until three windows in a row are within 10 %, which their spread makes rare
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(RUNS):
        spans: list[Span] = []
        while not is_stable([WindowFigures(len(span.ended_ns) / span.elapsed_ns, 1) for span in spans], 10):
            spans.append(arriving(generator))
        low, high = throughput_interval(spans[-3:], 1)
        hits += low <= 500 <= high
    # Then extreme windows, which would have told of the spread, are seldom among them
    assert 0.9 <= hits / RUNS <= 0.97


def test_by_hand() -> None:
    # Given a second in whose fifths 3, 1, 2, 1 and 3 requests of two rows ended: rates of 30, 10, 20, 10 and 30 rows/s
    tenths = [0, 0.5, 1, 3, 4, 5, 7, 8, 9, 9.5]
    (low, high) = throughput_interval([Span(SECOND, (np.array(tenths) * SECOND / 10).astype(np.int64))], 2)
    # Then the mean is 20, the spread of a rate 10, that of their mean 10 / sqrt(5), and t of 4 degrees of freedom 2.776
    assert (low, high) == pytest.approx((20 - 2.776 * 10 / 5**0.5, 20 + 2.776 * 10 / 5**0.5), rel=1e-9)


def test_it_is_never_below_nothing() -> None:
    assert throughput_interval([Span(SECOND, np.array([5]))], 1)[0] == 0
