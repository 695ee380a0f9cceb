# SPDX-License-Identifier: Apache-2.0
"""The closed loop over requests of paper: how many are in flight, what follows an answer, which moments are written down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from paper_requests import PaperClock, PaperRequests

from penstock.clients.perf.closed_loop import ClosedLoop
from penstock.clients.perf.load import BEGAN, ENDED, READ, SENT, Stint
from penstock.clients.perf.stages import ClientTimes
from penstock.ipc.errors import BrokerError, Code, ModelError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PaperClock:
    paper = PaperClock()
    for module in ("closed_loop", "sending", "waiting"):
        monkeypatch.setattr(f"penstock.clients.perf.{module}.time", paper)
    return paper


def loop_over(clock: PaperClock, concurrency: int, prepared: int, **options: Any) -> tuple[ClosedLoop, PaperRequests]:
    requests = PaperRequests(clock, prepared, **options)
    return ClosedLoop(requests, 2, concurrency), requests


def test_an_answer_is_followed_by_the_next_request_whichever_it_was(clock: PaperClock) -> None:
    # Given three in flight of six that are prepared, of which the second, then the first and the last, then all are answered
    loop, requests = loop_over(clock, 3, 6, order=[(1,), (0, 2)])
    # When eight requests are made
    load = loop.run(Stint(requests=8))
    loop.check_invariants()
    # Then there are never more than three, as many follow as were answered, and prepared requests are used by turns
    assert requests.sent == [[0, 1, 2], [3], [4, 5], [1, 0]]
    assert requests.most == load.most_in_flight == 3
    assert (len(load.moments), load.rows) == (8, 16)


def test_moments_of_one_request(clock: PaperClock) -> None:
    loop, _ = loop_over(clock, 1, 2)
    load = loop.run(Stint(requests=2))
    # Then sending took 10, the answer was read 100 later, and the result was there 5 + 1 after that
    assert load.moments.tolist() == [[0, 10, 110, 116], [116, 126, 226, 232]]
    assert load.times == ClientTimes(requests=2, sending_ns=20, away_ns=200, receiving_ns=12)
    assert load.latencies_ns.tolist() == [116, 116]
    assert (load.elapsed_ns, load.cpu_ns) == (232, 116)
    assert load.figures == (4 / 232e-9, 116.0)


def test_results_that_were_read_together_wait_for_one_another(clock: PaperClock) -> None:
    loop, _ = loop_over(clock, 2, 2)
    load = loop.run(Stint(requests=2))
    assert load.moments[:, [BEGAN, SENT, READ]].tolist() == [[0, 10, 110], [0, 10, 110]]
    assert load.moments[:, ENDED].tolist() == [116, 117]


def test_requests_that_are_messages_of_their_own_have_moments_of_their_own(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 2, 2)
    requests.one_message = False
    load = loop.run(Stint(requests=2))
    assert requests.sent == [[0], [1]]
    assert load.moments[:, [BEGAN, SENT, READ]].tolist() == [[0, 10, 120], [10, 20, 120]]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_window_by_the_clock_lets_what_is_in_flight_finish(clock: PaperClock, concurrency: int) -> None:
    # Given a window of 200 in which a request takes 116 or 117
    loop, requests = loop_over(clock, concurrency, concurrency)
    load = loop.run(Stint(duration_ns=200))
    # Then the second of each, begun within it, is the last
    assert len(load.moments) == 2 * concurrency
    assert not requests.flying


def test_a_window_begins_when_it_is_told_to(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 1, 1)
    load = loop.run(Stint(requests=1, begin_ns=5000))
    assert (load.began_ns, requests.times) == (5000, [5000])


def test_fewer_requests_than_may_be_in_flight(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 3, 3)
    load = loop.run(Stint(requests=2))
    assert len(load.moments) == requests.most == load.most_in_flight == 2


@pytest.mark.parametrize("concurrency", [1, 3])
def test_failures_are_counted_and_belong_to_no_latency(clock: PaperClock, concurrency: int) -> None:
    # Given six requests, of which two are refused and one fails
    busy, broken = BrokerError("busy", Code.OVERLOADED), ModelError("this one fails")
    loop, requests = loop_over(clock, concurrency, 3, errors={1: busy, 2: broken, 4: busy})
    # When they are made
    load = loop.run(Stint(requests=6))
    loop.check_invariants()
    # Then the three others have moments, and those have not
    assert sum(len(numbers) for numbers in requests.sent) == 6
    assert (len(load.moments), load.rows) == (3, 6)
    assert load.failed == {"OVERLOADED": 2, "INTERNAL": 1}
    assert load.first_error is busy


def test_where_all_fail_there_is_nothing_to_be_measured(clock: PaperClock) -> None:
    loop, _ = loop_over(clock, 1, 1, errors={0: ModelError("this one fails")})
    with pytest.raises(ModelError, match="this one fails"):
        loop.run(Stint(requests=1)).require_some()


def test_what_checks_results_takes_no_time_of_a_request(clock: PaperClock) -> None:
    # Given that a check takes 1000, one request at a time
    loop, _ = loop_over(clock, 1, 2, check_ns=1000)
    load = loop.run(Stint(requests=3))
    assert load.latencies_ns.tolist() == [116] * 3
    assert [later[BEGAN] - earlier[ENDED] for earlier, later in pairwise(load.moments)] == [1000, 1000]
    # And two whose answers are read together
    loop, _ = loop_over(clock, 2, 2, check_ns=1000)
    assert loop.run(Stint(requests=4)).latencies_ns.tolist() == [116, 117] * 2


def test_each_prepared_request_is_used_again_last(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 1, 3)
    loop.run(Stint(requests=4))
    assert _flat(requests.sent) == [0, 1, 2, 0]


def _flat(sent: Sequence[Sequence[int]]) -> list[int]:
    return [number for numbers in sent for number in numbers]
