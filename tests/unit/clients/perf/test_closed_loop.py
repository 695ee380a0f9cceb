# SPDX-License-Identifier: Apache-2.0
"""The closed loop against a client of paper: how many are in flight, what follows an answer, which moments are written down."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from penstock.clients.perf.load import BEGAN, ENDED, READ, SENT, ClosedLoop, Load
from penstock.clients.perf.measuring import Window, row_of
from penstock.clients.perf.plan import Point
from penstock.clients.perf.stages import ClientTimes, ServerCounts
from penstock.ipc.errors import ModelError


class PaperFuture:
    def __init__(self, client: PaperClient, slot: str) -> None:
        self._client = client
        self.slot = slot
        self.answered = False

    def wait_for_any(self, futures: Collection[PaperFuture]) -> int:
        return self._client.answer(futures)

    def result(self) -> str:
        self._client.clock_ns += 1
        if self.slot == self._client.failing:
            raise ModelError("this one fails")
        return self.slot.upper()


class PaperClient:
    """Answers the requests `order` says, by their place among those in flight; each call takes its time on a paper clock."""

    def __init__(self, order: Iterable[tuple[int, ...]], failing: str = "") -> None:
        self.order = iter(order)
        self.failing = failing
        self.clock_ns = 0
        self.sent: list[list[str]] = []
        self.most = 0
        self.flying = 0

    def monotonic_ns(self) -> int:
        return self.clock_ns

    def process_time_ns(self) -> int:
        return self.clock_ns // 2

    def submit(self, slot: Any) -> PaperFuture:
        return self.submit_many([slot])[0]

    def submit_many(self, slots: Any) -> list[PaperFuture]:
        self.clock_ns += 10
        self.sent.append(list(slots))
        self.flying += len(slots)
        self.most = max(self.most, self.flying)
        return [PaperFuture(self, slot) for slot in slots]

    def answer(self, futures: Collection[PaperFuture]) -> int:
        assert len(futures) == self.flying
        self.clock_ns += 100
        waiting = list(futures)
        for place in next(self.order, tuple(range(len(waiting)))):
            waiting[place].answered = True
            self.flying -= 1
        self.clock_ns += 5  # between reading and returning
        return self.clock_ns - 5


def loop_over(client: Any, monkeypatch: pytest.MonkeyPatch, concurrency: int, slots: str, check: Any = None) -> ClosedLoop:
    monkeypatch.setattr("penstock.clients.perf.load.time", client)
    return ClosedLoop(client, slots, 2, concurrency, check)  # type: ignore[arg-type]


def test_an_answer_is_followed_by_the_next_request_whichever_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given three in flight from six slots, of which the second, then the first and the last, then all are answered
    client = PaperClient([(1,), (0, 2)])
    loop = loop_over(client, monkeypatch, 3, "abcdef")
    # When eight requests are made
    load = loop.run(requests=8)
    loop.check_invariants()
    # Then there are never more than three, as many follow as were answered, and slots are used by turns
    assert client.sent == [["a", "b", "c"], ["d"], ["e", "f"], ["b", "a"]]
    assert client.most == 3
    assert (len(load.moments), load.rows) == (8, 16)


def test_moments_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    client = PaperClient([])
    load = loop_over(client, monkeypatch, 1, "ab").run(requests=2)
    # Then sending took 10, the answer was read 100 later, and the result was there 5 + 1 after that
    assert load.moments.tolist() == [[0, 10, 110, 116], [116, 126, 226, 232]]
    assert load.times == ClientTimes(requests=2, sending_ns=20, away_ns=200, receiving_ns=12)
    assert load.latencies_ns.tolist() == [116, 116]
    assert load.elapsed_ns == 232
    assert load.figures == (4 / 232e-9, 116.0)


def test_results_that_were_read_together_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    load = loop_over(PaperClient([]), monkeypatch, 2, "ab").run(requests=2)
    assert load.moments[:, [BEGAN, SENT, READ]].tolist() == [[0, 10, 110], [0, 10, 110]]
    assert load.moments[:, ENDED].tolist() == [116, 117]


def test_a_window_by_the_clock_lets_what_is_in_flight_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a window of 200 in which a request takes 116
    client = PaperClient([])
    load = loop_over(client, monkeypatch, 1, "a").run(duration_ns=200)
    # Then the second, begun at 116, is the last
    assert len(load.moments) == 2
    assert client.flying == 0


def test_fewer_requests_than_may_be_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    client = PaperClient([])
    assert len(loop_over(client, monkeypatch, 3, "abc").run(requests=2).moments) == 2
    assert client.most == 2


def test_a_failure_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="this one fails"):
        loop_over(PaperClient([], failing="b"), monkeypatch, 1, "ab").run(requests=5)


def test_every_result_is_checked_outside_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    client, seen = PaperClient([]), []

    def check(slot: Any, result: Any) -> None:
        seen.append((slot, result))
        client.clock_ns += 1000

    # Given that a check takes 1000, one request at a time
    load = loop_over(client, monkeypatch, 1, "ab", check).run(requests=3)
    assert seen == [("a", "A"), ("b", "B"), ("a", "A")]
    assert load.latencies_ns.tolist() == [116] * 3
    assert [later[BEGAN] - earlier[ENDED] for earlier, later in pairwise(load.moments)] == [1000, 1000]
    # And two whose answers are read together
    load = loop_over(client, monkeypatch, 2, "ab", check).run(requests=4)
    assert seen[3:] == [("a", "A"), ("b", "B")] * 2
    assert load.latencies_ns.tolist() == [116, 117] * 2


def test_a_row_is_made_of_the_last_three_windows() -> None:
    # Given four windows of two requests each, the first one far off
    def window(latency_ns: int) -> Window:
        moments = np.array(
            [[0, 10, latency_ns - 10, latency_ns], [latency_ns, latency_ns + 10, 2 * latency_ns - 10, 2 * latency_ns]]
        )
        return Window(Load(moments, 8), ServerCounts(2, 2 * (latency_ns - 60), 100, 10, 20, 30, 0))

    # When they are put together
    row = row_of(Point(4, 1), [window(9000), window(200), window(210), window(220)], stable=True)
    # Then rows and time of the last three count
    assert row.inferences_per_s == pytest.approx(24 / 1260e-9)
    assert (row.requests, row.windows, row.is_stable) == (6, 4, True)
    assert row.latencies == (210, 220, 220, 220, 210)
    assert row.stages.latency_ns == 210
    assert row.stages.network_ns == 40
