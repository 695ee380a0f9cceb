# SPDX-License-Identifier: Apache-2.0
"""Rows: which windows they are made of, what they say besides figures, and what becomes of them when a run is interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from penstock.clients.models import ModelInfo
from penstock.clients.perf.figures import Row
from penstock.clients.perf.load import Load, gathered
from penstock.clients.perf.measuring import Measurer, Window, row_of
from penstock.clients.perf.plan import Plan, Point, Windows
from penstock.clients.perf.stages import ServerCounts
from penstock.clients.perf.target import Answer, ServerInfo, TargetSpec
from penstock.ipc.errors import BrokerError, Code, ModelError


def load_of(latency_ns: int, requests: int = 2, **more: Any) -> Load:
    """Requests one after another, of four rows each."""
    began = np.arange(requests) * latency_ns
    moments = np.stack([began, began + 10, began + latency_ns - 10, began + latency_ns], axis=1)
    figures = {"cpu_ns": 0, "most_in_flight": 1, "failed": {}, "first_error": None}
    return Load(moments=moments, rows=4 * requests, began_ns=0, ended_ns=requests * latency_ns, **(figures | more))


def window(latency_ns: int, **more: Any) -> Window:
    return Window(load_of(latency_ns, **more), ServerCounts(2, 2 * (latency_ns - 60), 100, 10, 20, 30, 0))


def test_a_row_is_made_of_the_last_three_windows() -> None:
    # Given four windows of two requests each, the first one far off
    # When they are put together
    row = row_of(Point(4, 1), [window(9000), window(200), window(210), window(220)], stable=True)
    # Then rows and time of the last three count
    assert row.inferences_per_s == pytest.approx(24 / 1260e-9)
    assert row.inferences_per_s_low < row.inferences_per_s < row.inferences_per_s_high
    assert (row.requests, row.failed, row.windows, row.is_stable) == (6, 0, 4, True)
    assert row.latencies == (210, 220, 220, 220, 210)
    assert row.stages.latency_ns == 210
    assert row.stages.network_ns == 40
    assert row.notes == ()


def test_the_busiest_process_is_the_one_that_is_told_of() -> None:
    # Given a window that two processes shared, of which one took 95 % of a core
    both = gathered([load_of(1000, cpu_ns=400), load_of(1000, cpu_ns=1900)])
    # When it makes a row
    row = row_of(Point(4, 2), [Window(both, ServerCounts(4, 0, 0, 0, 0, 0, 0))], stable=False)
    # Then requests of both are in it, and a note says what may have been the limit
    assert (row.requests, row.concurrency) == (4, 2)
    assert row.client_cpu_percent == pytest.approx(95)
    (note,) = row.notes
    assert "busiest process took 95 % of a core" in note and "--processes" in note
    # And below nine tenths of one there is none
    calm = gathered([load_of(1000, cpu_ns=1790)])
    assert row_of(Point(4, 1), [Window(calm, ServerCounts(2, 0, 0, 0, 0, 0, 0))], stable=False).notes == ()


def test_failures_are_told_by_their_codes() -> None:
    windows = [window(200, failed={"OVERLOADED": 3}), window(200, failed={"OVERLOADED": 1, "INTERNAL": 2})]
    row = row_of(Point(4, 1), windows, stable=False)
    assert row.failed == 6
    assert row.notes == ("2 requests failed: INTERNAL", "4 requests failed: OVERLOADED")


@pytest.mark.parametrize(("held_back", "why"), [(0, "too busy"), (2, "2 of them since as many were in flight as may be (7)")])
def test_an_open_loop_that_sent_late_says_by_how_much_and_why(held_back: int, why: str) -> None:
    # Given latencies of 1000 of which 100 were spent before sending
    late = {"late_ns": [50, 150], "held_back": held_back, "most_in_flight": 7, "scheduled_per_s": 1e6}
    row = row_of(Point(4, 64, 1e6), [window(1000, **late)], stable=False)
    assert row.concurrency == 7, "the most there were"
    (note,) = row.notes
    assert note.startswith("requests were sent 0.000 ms late in the mean") and why in note
    # And a twentieth of the latency is not worth a note
    late["late_ns"] = [0, 100]
    assert row_of(Point(4, 64, 1e6), [window(1000, **late)], stable=False).notes == ()


def test_a_rate_that_was_not_reached_is_told() -> None:
    row = row_of(Point(4, 64, 2e6), [window(1000, scheduled_per_s=2e6)], stable=False)
    (note,) = row.notes
    assert "1000000.0 requests/s were answered of 2000000.0 that were due" in note
    # And requests that failed were answered too
    failed = window(1000, scheduled_per_s=2e6, failed={"OVERLOADED": 2})
    assert row_of(Point(4, 64, 2e6), [failed], stable=False).notes == ("2 requests failed: OVERLOADED",)


def test_windows_that_are_short_against_the_latency_are_told_of() -> None:
    # Given two in flight, of which one had its last answer when the other's began, in a window of five latencies
    moments = np.array([[at, at, at, at + 100] for at in (0, 100, 200, 300, 400, 0, 100, 200, 300)])
    short = load_of(100, most_in_flight=2)._replace(moments=moments, rows=9, ended_ns=500)
    row = row_of(Point(1, 2), [Window(short, ServerCounts(9, 0, 0, 0, 0, 0, 0))], stable=False)
    # Then a tenth of the load was missing
    (note,) = row.notes
    assert "10% of the load was missing at their ends" in note
    # And of a hundred latencies it is not worth a note
    long = short._replace(began_ns=-9500)
    assert row_of(Point(1, 2), [Window(long, ServerCounts(9, 0, 0, 0, 0, 0, 0))], stable=False).notes == ()


# --- measuring ---------------------------------------------------------------------------------------------------------------


class PaperTarget:
    """Answers at once, and counts what it has answered. `script` is called with the number of each request that is sent."""

    def __init__(self, script: Any = None) -> None:
        self.spec = TargetSpec(link="local", address="unix:///nobody", model="m")
        self.model = ModelInfo("m", -1, 1, (1,), "identity", 8, (), ())
        self.server = ServerInfo("paper", "1")
        self.max_in_flight = 10
        self.prepared = 0  # points that have been, and were not given back
        self._script = script or (lambda _total: None)
        self._count = 0
        self._succeeded = 0
        self._sent: list[int] = []
        self._total = 0

    @contextmanager
    def prepare(self, _plan: Plan, point: Point) -> Iterator[PaperTarget]:
        self.prepared += 1
        self._count = point.concurrency
        try:
            yield self
        finally:
            self.prepared -= 1

    one_message = True

    def __len__(self) -> int:
        return self._count

    def send(self, numbers: Any) -> None:
        self._sent += numbers

    def take(self, _timeout_ns: int | None = None) -> Iterator[Answer]:
        while self._sent:
            error = self._script(self._total)
            self._total += 1
            self._succeeded += error is None
            yield Answer(self._sent.pop(), time.monotonic_ns(), time.monotonic_ns(), error)

    def counts(self, _answered: int) -> ServerCounts:
        return ServerCounts(self._succeeded, 0, 0, 0, 0, 0, 0)

    def configuration(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        pass


def measurer(target: PaperTarget, said: list[str], *points: Point, **more: Any) -> Measurer:
    windows = Windows(request_count=4, warmup=2, stability_percentage=more.pop("stability_percentage", 1e9))
    return Measurer(target, Plan(points=points, memory="none", windows=windows, **more), said.append)


def test_every_point_is_measured_until_three_windows_agree() -> None:
    said: list[str] = []
    target = PaperTarget()
    rows = list(measurer(target, said, Point(1, 1), Point(1, 2)).rows())
    assert [(row.batch, row.concurrency, row.windows, row.requests) for row in rows] == [(1, 1, 3, 12), (1, 2, 3, 12)]
    assert all(row.is_stable for row in rows)
    assert [line.split(":")[0] for line in said[:3]] == [f"batch 1, concurrency 1, window {number}" for number in (1, 2, 3)]
    assert target.prepared == 0


def test_interrupted_in_a_later_window_it_gives_those_that_are_complete() -> None:
    # Given a measurement that is interrupted while the third window of its second point is under way
    def interrupt(total: int) -> None:
        if total == (2 + 12) + (2 + 8) + 1:
            raise KeyboardInterrupt

    said: list[str] = []
    target = PaperTarget(interrupt)
    rows = measurer(target, said, Point(1, 1), Point(2, 1), Point(4, 1)).rows()
    # When its rows are taken
    first, second = next(rows), next(rows)
    # Then there is a row of the two, which says so, and nothing is held any more
    assert (first.is_stable, first.windows) == (True, 3)
    assert (second.batch, second.is_stable, second.windows, second.requests) == (2, False, 2, 8)
    assert second.notes[0].startswith("interrupted")
    assert f"batch 2, concurrency 1: {second.notes[0]}" in said
    assert target.prepared == 0
    # And who asks for more is interrupted
    with pytest.raises(KeyboardInterrupt):
        next(rows)


def test_interrupted_in_the_first_window_there_is_no_row() -> None:
    def interrupt(total: int) -> None:
        if total == 3:
            raise KeyboardInterrupt

    target = PaperTarget(interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(measurer(target, [], Point(1, 1)).rows())
    assert target.prepared == 0


def test_a_model_that_always_fails_is_said_by_the_warm_up() -> None:
    with pytest.raises(ModelError, match="broken"):
        next(measurer(PaperTarget(lambda _total: ModelError("broken")), [], Point(1, 1)).rows())


def test_requests_that_fail_do_not_end_a_measurement() -> None:
    target = PaperTarget(lambda total: BrokerError("busy", Code.OVERLOADED) if total % 4 == 3 else None)
    (row,) = measurer(target, [], Point(1, 1)).rows()
    assert (row.requests, row.failed) == (9, 3)
    assert "3 requests failed: OVERLOADED" in row.notes


def test_more_load_than_exceeds_the_threshold_is_not_measured() -> None:
    # Given that no latency is within the threshold
    points = [Point(1, 2), Point(1, 1), Point(1, 4), Point(2, 4)]
    rows = list(measurer(PaperTarget(), [], *points, latency_threshold_ms=0.0).rows())
    # Then less load is measured, and the other batch size, but no more of the same
    assert [(row.batch, row.concurrency) for row in rows] == [(1, 2), (1, 1), (2, 4)]
    assert all(row.notes[0] == "the p95 latency exceeds the threshold of 0 ms" for row in rows)


def test_a_load_whose_requests_fail_is_not_within_a_threshold() -> None:
    # Given that one request of ten, or of forty, is refused
    def measured(refused_of: int) -> list[Row]:
        target = PaperTarget(lambda total: BrokerError("busy", Code.OVERLOADED) if total % refused_of == 3 else None)
        windows = Windows(request_count=40, warmup=0, stability_percentage=1e9)
        plan = Plan(points=(Point(1, 1), Point(1, 2)), memory="none", windows=windows, latency_threshold_ms=1e9)
        return list(Measurer(target, plan, print).rows())

    # When latencies are held against a threshold that they are all within
    (row,) = measured(10)
    # Then one of ten is too many, and no more load is measured; one of forty is not
    assert row.notes[0].startswith("more requests failed than the 5%")
    assert [row.notes[0] for row in measured(40)] == ["3 requests failed: OVERLOADED"] * 2
