# SPDX-License-Identifier: Apache-2.0
"""The open loop over requests of paper, on a paper clock: what is sent when, from when latencies count, what waits for what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from paper_requests import PaperClock, PaperRequests

from penstock.clients.perf.arrivals import Arrivals
from penstock.clients.perf.load import BEGAN, Stint
from penstock.clients.perf.open_loop import OpenLoop
from penstock.ipc.errors import BrokerError, Code

RATE = 1e6
"""Requests per second: one every 1000 ns."""
SENDING_NS, RESULT_NS = 10, 6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PaperClock:
    paper = PaperClock()
    for module in ("closed_loop", "open_loop", "sending", "waiting"):
        monkeypatch.setattr(f"penstock.clients.perf.{module}.time", paper)
    return paper


def loop_over(
    clock: PaperClock, prepared: int, service_ns: Callable[[int], int], **options: Any
) -> tuple[OpenLoop, PaperRequests]:
    requests = PaperRequests(clock, prepared, service_ns=service_ns, **options)
    return OpenLoop(requests, 2, Arrivals(RATE, "constant", seed=0)), requests


def test_requests_are_sent_when_they_are_due(clock: PaperClock) -> None:
    # Given answers after 200, before the next request is due
    loop, requests = loop_over(clock, 4, lambda _n: 200)
    # When a window of five intervals is run
    load = loop.run(Stint(duration_ns=5000))
    loop.check_invariants()
    # Then one is sent at the beginning of each
    assert requests.times == [0, 1000, 2000, 3000, 4000]
    assert load.latencies_ns.tolist() == [SENDING_NS + 200 + RESULT_NS] * 5
    # And the window is as long as its schedule, though all was answered before
    assert (load.elapsed_ns, load.rows, load.most_in_flight) == (5000, 10, 1)
    assert (load.scheduled_per_s, list(load.late_ns), load.held_back) == (RATE, [0] * 5, 0)


def test_a_request_is_due_whether_or_not_those_before_it_are_answered(clock: PaperClock) -> None:
    # Given that the first takes as long as four intervals
    loop, requests = loop_over(clock, 8, lambda n: 4500 if n == 0 else 200)
    load = loop.run(Stint(duration_ns=5000))
    # Then all others are sent in time, and answered before it
    assert requests.times == [0, 1000, 2000, 3000, 4000]
    assert load.moments[:, BEGAN].tolist() == [1000, 2000, 3000, 4000, 0]
    assert load.most_in_flight == 2


def test_latency_counts_from_the_time_at_which_a_request_was_due(clock: PaperClock) -> None:
    # Given one prepared request, and a first answer that takes three and a half intervals
    loop, requests = loop_over(clock, 1, lambda n: 3490 if n == 0 else 90)
    load = loop.run(Stint(duration_ns=4000))
    # Then what was due meanwhile is sent one after the other, and its latency contains the wait
    assert requests.times == [0, 3506, 3612, 3718]
    assert load.moments[:, BEGAN].tolist() == [0, 1000, 2000, 3000]
    assert load.latencies_ns.tolist() == [3506, 2612, 1718, 824]
    # And it is in the time of sending, and told as what it is
    assert load.times.sending_ns == sum([10, 2516, 1622, 728])
    assert list(load.late_ns) == [0, 2506, 1612, 718]
    assert (load.held_back, load.most_in_flight) == (3, 1)


def test_a_sender_that_is_late_sends_all_that_is_due_at_once(clock: PaperClock) -> None:
    # Given that what follows the first answer takes the client two and a half intervals
    loop, requests = loop_over(clock, 8, lambda _n: 200, check_ns=2500)
    load = loop.run(Stint(duration_ns=4000))
    # Then the two that came due in between go together; nothing held them back but the client
    assert requests.sent[:2] == [[0], [1, 2]]
    assert requests.times[1] == SENDING_NS + 200 + RESULT_NS + 2500
    assert list(load.late_ns)[:3] == [0, 1716, 716]
    assert load.held_back == 0


def test_never_more_are_in_flight_than_are_prepared(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 3, lambda _n: 10_000)
    load = loop.run(Stint(duration_ns=20_000))
    loop.check_invariants()
    assert requests.most == load.most_in_flight == 3
    assert (len(load.moments), load.elapsed_ns > 60_000) == (20, True)
    assert load.latencies_ns.max() > 50_000


def test_so_many_requests_instead_of_a_time(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 4, lambda _n: 200)
    load = loop.run(Stint(requests=3))
    assert (requests.times, load.elapsed_ns, load.scheduled_per_s) == ([0, 1000, 2000], 3000, RATE)


def test_a_window_begins_when_it_is_told_to(clock: PaperClock) -> None:
    loop, requests = loop_over(clock, 4, lambda _n: 200)
    load = loop.run(Stint(requests=2, begin_ns=7000))
    assert (requests.times, load.began_ns, load.elapsed_ns) == ([7000, 8000], 7000, 2000)


def test_what_fails_is_counted_and_belongs_to_no_latency(clock: PaperClock) -> None:
    loop, _ = loop_over(clock, 4, lambda _n: 200, errors={1: BrokerError("busy", Code.OVERLOADED)})
    load = loop.run(Stint(requests=3))
    loop.check_invariants()
    assert load.moments[:, BEGAN].tolist() == [0, 2000]
    assert load.failed == {"OVERLOADED": 1}


def test_a_loop_may_run_again(clock: PaperClock) -> None:
    # Given a loop that was warmed up, and has run with requests held back
    loop, requests = loop_over(clock, 1, lambda n: 5000 if n == 2 else 200)
    assert len(loop.warm_up(2).moments) == 2
    assert loop.run(Stint(requests=3)).held_back == 2
    # When it runs once more
    began_ns = clock.now_ns
    load = loop.run(Stint(requests=2))
    # Then it begins anew
    assert requests.times[-2:] == [began_ns, began_ns + 1000]
    assert (list(load.late_ns), load.held_back, len(load.moments)) == ([0, 0], 0, 2)


def test_a_stall_that_a_closed_loop_hardly_sees(clock: PaperClock) -> None:
    # Given a server that answers after 100, but once, for all that are there, after a thousand intervals
    stall_end_ns = 1_500_000
    loop, _ = loop_over(clock, 2000, lambda _n: max(stall_end_ns - clock.now_ns, 100) if clock.now_ns >= 500_000 else 100)
    # When a request is due in each of ten thousand intervals
    load = loop.run(Stint(requests=10_000))
    # Then every request that came due meanwhile had to wait for the rest of it
    waited = load.latencies_ns[load.latencies_ns > 1000]
    assert 999 <= len(waited) <= 1001
    assert waited.mean() == pytest.approx(500_000, rel=0.01)
