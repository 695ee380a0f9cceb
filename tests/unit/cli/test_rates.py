# SPDX-License-Identifier: Apache-2.0
"""What `penstock top` makes of two looks at a broker."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clients.cli.rates import Look, ModelRates, quantile, rates
from penstock.runtime.histograms import Histogram


def look(
    time_s: float, *, succeeded: int = 0, failed: int = 0, rows: int = 0, executions: int = 0, totals_ns: list[int] | None = None,
    queued: int = 0,
) -> Look:  # fmt: skip
    """One model, "m/1", with these counters."""
    histogram = Histogram()
    histogram.record_all(totals_ns or [])
    status: dict[str, Any] = {
        "models": [{"name": "m", "version": "1", "state": "READY", "reason": ""}, {"name": "broken", "version": "", "state": "UNAVAILABLE"}],
        "instances": [{"model": "m", "version": 1, "state": "ready"}, {"model": "m", "version": 1, "state": "loading"}],
        "queued": {"m/1": queued},
    }  # fmt: skip
    statistics = {
        "name": "m",
        "version": "1",
        "inference_count": rows,
        "execution_count": executions,
        "inference_stats": {"success": {"count": succeeded}, "fail": {"count": failed}},
    }
    stages = {"name": "m", "version": "1", "histograms_ns": {"total": histogram.to_json(), "queue": histogram.to_json()}}
    return Look(time_s, status, [statistics], [stages])


def of_m(found: list[ModelRates]) -> ModelRates:
    return next(row for row in found if row.model == "m/1")


def test_rates_are_what_happened_in_between() -> None:
    # Given a model that had served 100 requests, slowly
    before = look(10.0, succeeded=100, failed=1, rows=200, executions=50, totals_ns=[10**9] * 100)
    # When in two seconds it serves 20 more, 60 rows in 6 executions, quickly, and one fails
    after = look(12.0, succeeded=120, failed=2, rows=260, executions=56, totals_ns=[10**9] * 100 + [10**6] * 20, queued=3)
    found = of_m(rates(before, after))
    # Then only these count
    assert (found.requests, found.rows, found.failures, found.mean_batch) == (10.0, 30.0, 0.5, 10.0)
    assert (found.instances, found.queued) == (1, 3)
    assert found.p50_ns == pytest.approx(10**6, rel=0.125)
    assert found.p99_ns == pytest.approx(10**6, rel=0.125)


def test_an_interval_without_requests_has_no_durations() -> None:
    same = look(1.0, succeeded=5, rows=5, executions=5, totals_ns=[10] * 5)
    found = of_m(rates(same, same._replace(time_s=2.0)))
    assert (found.requests, found.mean_batch, found.p50_ns, found.queue_p99_ns) == (0.0, None, None, None)


def test_a_model_that_was_loaded_again_counts_from_nothing() -> None:
    # Given counters that went back
    before = look(1.0, succeeded=100, rows=100, executions=100, totals_ns=[10**9] * 100)
    after = look(2.0, succeeded=3, rows=3, executions=3, totals_ns=[10**6] * 3)
    # Then the new ones are all there is
    found = of_m(rates(before, after))
    assert found.requests == 3.0
    assert found.p99_ns == pytest.approx(10**6, rel=0.125)


def test_a_model_that_is_answered_from_the_cache_was_loaded_again_too() -> None:
    found = of_m(rates(look(1.0, succeeded=100), look(2.0, succeeded=3)))
    assert found.requests == 3.0


def test_a_model_that_could_not_be_read_is_listed_without_figures() -> None:
    found = rates(look(1.0), look(2.0))
    assert found[1][:4] == ("broken", "UNAVAILABLE", 0, 0)


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 1), (0.51, 15), (0.99, 15), (1.0, 15)], ids=str)
def test_a_quantile_is_the_middle_of_its_bucket(q: float, expected: int) -> None:
    assert quantile([(1, 1, 5), (10, 20, 5)], q) == expected


def test_no_values_have_no_quantile() -> None:
    assert quantile([], 0.5) is None
