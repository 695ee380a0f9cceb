# SPDX-License-Identifier: Apache-2.0
"""Lanes: instances of one worker. Each takes batches like any other; they go together, and on a GPU with all that was sent."""

from __future__ import annotations

from paper_broker import MS, Broker

from penstock.runtime.scheduling.commands import SendBatch
from penstock.runtime.scheduling.events import InstanceReady
from penstock.runtime.scheduling.limits import Needs, Pool, ResourceLimit
from penstock.runtime.scheduling.policy import Policy

SINGLE = Policy(0)
PAIRS = Policy(2, dynamic=True)


def worker_of(lanes: int, policy: Policy = SINGLE, gpu: int = 0) -> Broker:
    """A model with one worker, whose lanes are the instances 10, 11, ..."""
    broker = Broker()
    broker.add_model(1, policy)
    broker.add_instance(10, 1, gpu=gpu, lanes=lanes)
    return broker


def test_idle_lanes_get_a_batch_each_before_any_gets_a_second() -> None:
    broker = worker_of(3)

    for number in range(1, 7):
        broker.arrive(number)

    assert [broker.at(lane) for lane in (10, 11, 12)] == [[[1], [4]], [[2], [5]], [[3], [6]]]
    # Two batches to a lane, and no more
    broker.arrive(7)
    assert broker.scheduler.queued(1) == 1


def test_batches_of_different_lanes_end_in_any_order() -> None:
    broker = worker_of(2)
    for number in range(1, 5):
        broker.arrive(number)

    broker.answer(11)
    broker.answer(11)
    broker.answer(10)

    assert broker.outcomes == {2: "ok", 4: "ok", 1: "ok"}
    # A lane that is idle gets what comes next, whatever the other has
    broker.arrive(5)
    assert (broker.at(10), broker.at(11)) == ([[3]], [[5]])


def test_a_second_batch_goes_late_to_the_lane_that_is_nearest_its_end() -> None:
    # Given two lanes that have learnt that a batch of one takes 10 ms
    broker = worker_of(2, PAIRS)
    for lane in (10, 11):
        broker.arrive(lane)
        broker.now_ns += 10 * MS
        broker.answer(lane)

    # When both are busy, one since 4 ms, and one more request comes
    broker.arrive(1)
    broker.advance(4 * MS)
    broker.arrive(2)
    broker.arrive(3)
    assert broker.scheduler.queued(1) == 1

    # Then it is sent when the first of them nears its end, and there
    first = next(lane for lane in (10, 11) if broker.at(lane) == [[1]])
    broker.advance(4 * MS)
    assert broker.at(first) == [[1], [3]]


def test_when_a_worker_on_a_gpu_dies_all_that_it_was_sent_fails_once() -> None:
    broker = worker_of(2)
    for number in range(1, 6):
        broker.arrive(number)

    broker.crash(10)

    # Then nothing that may have been begun is executed again, and what was never sent waits
    assert broker.outcomes == {1: "INTERNAL", 2: "INTERNAL", 3: "INTERNAL", 4: "INTERNAL"}
    assert broker.scheduler.queued(1) == 1
    broker.add_instance(20, 1, gpu=0, lanes=2)
    assert broker.at(20) == [[5]]


def test_a_batch_that_kills_its_worker_kills_one() -> None:
    """Wherever it stands: second in its lane, it is not sent to the next worker."""
    broker = worker_of(1)
    broker.arrive(1)
    broker.arrive(66)

    for worker in (10, 20, 30):
        broker.crash(worker)
        broker.add_instance(worker + 10, 1, gpu=0)

    assert broker.outcomes == {1: "INTERNAL", 66: "INTERNAL"}


def test_on_the_cpu_what_was_staged_goes_back() -> None:
    broker = Broker()
    broker.add_model(1, SINGLE, 10)
    broker.arrive(1)
    broker.arrive(2)

    broker.crash(10)

    assert (broker.outcomes, broker.scheduler.queued(1)) == ({1: "INTERNAL"}, 1)


def test_a_dead_workers_requests_do_not_go_to_its_other_lanes() -> None:
    # Given a worker whose first lane has room when it dies
    broker = worker_of(2)
    broker.arrive(1)

    broker.crash(10)
    broker.arrive(2)

    assert broker.scheduler.queued(1) == 1


def test_a_lane_that_runs_too_long_costs_its_worker_the_life() -> None:
    broker = worker_of(2, Policy(0, max_execution_ns=10 * MS))
    broker.arrive(1)
    broker.advance(6 * MS)
    broker.arrive(2)

    # When the first batch has run for its limit, the other for 4 ms
    broker.advance(4 * MS)

    # Then there is one kill, and nothing is sent to either lane any more
    assert broker.killed == [10, 11]
    broker.arrive(3)
    assert broker.scheduler.queued(1) == 1
    broker.advance(20 * MS)
    broker.crash(10, "batch 1 ran past the limit")
    assert broker.outcomes == {1: "INTERNAL", 2: "INTERNAL"}


def test_the_limit_counts_for_each_batch_from_when_it_was_first_in_its_lane() -> None:
    broker = worker_of(2, Policy(0, max_execution_ns=10 * MS))
    for number in range(1, 5):
        broker.arrive(number)

    for _ in range(2):
        broker.advance(8 * MS)
        broker.answer(10)
        broker.answer(11)

    assert broker.killed == []
    assert len(broker.outcomes) == 4


def test_lanes_leave_together_and_each_finishes_what_it_has() -> None:
    broker = worker_of(2)
    broker.arrive(1)

    broker.send_away(10)
    assert broker.vacated == [11]
    broker.arrive(2)
    broker.answer(10)

    assert broker.vacated == [11, 10]
    assert broker.scheduler.queued(1) == 1


def test_each_lane_holds_what_it_needs() -> None:
    broker = Broker(ResourceLimit("memory", 5))
    broker.add_model(1, Policy(0, credits=1, rate_limited=True))
    broker.add_instance(10, 1, Needs(((Pool("memory", 0), 2),)), gpu=0, lanes=3)

    for number in range(1, 4):
        broker.arrive(number)

    # Then two of the three execute at once, and the third when one has ended
    assert sorted(map(len, broker.workers.values())) == [0, 1, 1]
    broker.answer(next(lane for lane, batches in broker.workers.items() if batches))
    assert sum(map(len, broker.workers.values())) == 2
    # And a worker that is killed gives back what all its lanes hold, and waits for nothing
    broker.crash(10)
    assert broker.scheduler.resources() == []


def test_a_limited_worker_that_is_killed_waits_for_nothing() -> None:
    # Given a worker with a lane that waits for what the other holds
    broker = Broker(ResourceLimit("memory", 2))
    broker.add_model(1, Policy(0, credits=1, rate_limited=True, max_execution_ns=10 * MS))
    broker.add_instance(10, 1, Needs(((Pool("memory", 0), 2),)), gpu=0, lanes=2)
    broker.arrive(1)
    broker.arrive(2)

    broker.advance(10 * MS)

    assert broker.killed == [10, 11]
    broker.crash(10)
    assert (broker.outcomes, broker.scheduler.queued(1)) == ({1: "INTERNAL"}, 1)


def test_a_worker_that_becomes_ready_gets_what_waits_in_all_its_lanes() -> None:
    broker = Broker()
    broker.add_model(1, PAIRS)
    for number in range(1, 5):
        broker.arrive(number)

    commands = broker.tell(broker.enlist(10, 1, None, 0, 2))

    assert [command.batch.instance for command in commands if isinstance(command, SendBatch)] == [10, 11]
    assert InstanceReady(10, 1, Needs(), 0, 2) == broker.enlist(10, 1, None, 0, 2)
