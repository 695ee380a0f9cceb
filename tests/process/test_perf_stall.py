# SPDX-License-Identifier: Apache-2.0
"""Whether a stall of the server is seen: an open loop shows what it did to those who came meanwhile, a closed loop does not.

The one test that takes long: ten seconds are what it is about.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from running import RunningBroker, add_model

from penstock.clients.perf.figures import Row
from penstock.clients.perf.measuring import Measurer
from penstock.clients.perf.plan import Plan, Point, Windows
from penstock.clients.perf.target import TargetSpec
from penstock.clients.perf.targets import open_target

STALL = {"mode": "stalling", "delay_ms": 1000, "stall_at": 600, "max_batch_size": 1}
REQUESTS = 2000


def measured(broker: RunningBroker, model: str, point: Point) -> Row:
    windows = Windows(request_count=REQUESTS, max_trials=1)
    plan = Plan(points=(point,), memory="memfd", windows=windows)
    spec = TargetSpec(link="local", address=broker.addresses["local"], model=model)
    with closing(open_target(spec)) as target:
        (row,) = Measurer(target, plan, print).rows()
    return row


def test_an_open_loop_shows_a_stall_that_a_closed_loop_hides(tmp_path: Path, repository: Path) -> None:
    # Given two models that answer at once, but for a second in the middle
    add_model(repository, "asked_in_time", **STALL)  # type: ignore[arg-type]
    add_model(repository, "asked_in_turn", **STALL)  # type: ignore[arg-type]
    with RunningBroker(tmp_path, repository) as broker:
        # When one is sent 200 requests per second for ten seconds, and the other one after another, as many
        open_loop = measured(broker, "asked_in_time", Point(1, 256, request_rate=200))
        closed_loop = measured(broker, "asked_in_turn", Point(1, 1))
    assert open_loop.requests == closed_loop.requests == REQUESTS
    # Then the 200 that came in that second waited for half a second in the mean, and one of a hundred for most of it
    assert open_loop.latencies.p99_ns >= 0.8e9
    assert open_loop.latencies.avg_ns >= 0.04e9
    assert open_loop.concurrency >= 150
    # And of those that were sent in turn it was one
    assert closed_loop.latencies.p99_ns < 0.1e9
