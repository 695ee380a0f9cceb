# SPDX-License-Identifier: Apache-2.0
"""Priority levels and the sizes of their queues: who is served first, who is refused. One story per key of the configuration.

What is expected is worked out in comments, by hand, from Triton's rules (scheduler_utils.cc; GetDynamicBatch and Enqueue in
dynamic_batch_scheduler.cc). With one credit an instance has no staged batch, as the rules have it.
"""

from __future__ import annotations

import pytest
from paper_broker import MS, US, Broker

from penstock.ipc.errors import CallerError
from penstock.runtime.scheduling.commands import Finish
from penstock.runtime.scheduling.events import Arrived, ArrivedTogether, Cancelled, ModelDown
from penstock.runtime.scheduling.policy import Policy, QueuePolicy

THREE = Policy(max_batch_size=2, dynamic=True, credits=1, priority_levels=3, default_priority_level=2)
PATIENT = Policy(
    max_batch_size=4, dynamic=True, credits=1, priority_levels=2, default_priority_level=1, max_queue_delay_ns=1 * MS
)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def drain(broker: Broker, instance: int = 1) -> list[list[int]]:
    """All that is sent from now on, when the instance answers whatever it gets."""
    begun = len(broker.batches)
    while broker.workers[instance]:
        broker.answer(instance)
    return broker.sent()[begun:]


# --- priority_levels, default_priority_level ---


def test_level_1_is_served_before_level_2_and_that_before_level_3(broker: Broker) -> None:
    broker.add_model(1, THREE, 1)
    broker.arrive(0)
    for number, priority in ((1, 3), (2, 2), (3, 1), (4, 3), (5, 1), (6, 2)):
        broker.arrive(number, priority=priority)

    # Queues when 0 is answered: level 1: 3 5; level 2: 2 6; level 3: 1 4. Two rows at a time, from the top.
    assert drain(broker) == [[3, 5], [2, 6], [1, 4]]


def test_a_batch_is_filled_from_several_levels(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(0, rows=4)
    for number, priority in ((1, 2), (2, 1), (3, 2), (4, 1), (5, 2)):
        broker.arrive(number, priority=priority)

    # Level 1: 2 4; level 2: 1 3 5. The walk takes four rows: 2 4 1 3; 5 waits until it is 1 ms old.
    broker.answer(1)
    assert broker.at(1) == [[2, 4, 1, 3]]


def test_priority_0_and_one_above_priority_levels_mean_the_default_level(broker: Broker) -> None:
    broker.add_model(1, THREE, 1)
    broker.arrive(0)
    for number, priority in ((1, 3), (2, 0), (3, 4), (4, 2**63 - 1), (5, 2), (6, 1)):
        broker.arrive(number, priority=priority)

    # The default is level 2: it has 2 3 4 5, in order of arrival; level 1 has 6, level 3 has 1.
    assert broker.scheduler.queued_by_level(1) == {1: 1, 2: 4, 3: 1}
    assert drain(broker) == [[6, 2], [3, 4], [5, 1]]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(max_batch_size=1, dynamic=True, credits=1),
        Policy(max_batch_size=1, dynamic=False, credits=1, priority_levels=2, default_priority_level=1),
        Policy(max_batch_size=1, dynamic=True, credits=1, priority_levels=1, default_priority_level=1),
    ],
)
def test_without_levels_priorities_say_nothing(broker: Broker, policy: Policy) -> None:
    """Neither without priority_levels, nor without the dynamic batcher, nor with one level."""
    broker.add_model(1, policy, 1)
    broker.arrive(0)
    for number, priority in ((1, 3), (2, 2), (3, 1)):
        broker.arrive(number, priority=priority)

    assert broker.scheduler.queued_by_level(1) == {}
    assert drain(broker) == [[1], [2], [3]]


def test_the_dynamic_batcher_of_a_model_without_batch_dimension_has_levels(broker: Broker) -> None:
    broker.add_model(1, Policy(max_batch_size=0, dynamic=True, credits=1, priority_levels=2, default_priority_level=2), 1)
    broker.arrive(0)
    for number, priority in ((1, 2), (2, 1), (3, 0), (4, 1)):
        broker.arrive(number, priority=priority)

    # Level 1: 2 4; level 2: 1 3.
    assert drain(broker) == [[2], [4], [1], [3]]


# --- a batch that is held back ---


def test_a_request_of_a_higher_level_goes_before_those_of_the_batch_that_is_held_back(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    for number, priority in ((1, 2), (2, 1), (3, 2), (4, 1)):
        broker.arrive(number, priority=priority)
        broker.advance(100 * US)

    # 1 is held. 2 goes before it, which makes the cursor invalid: the batch begins anew, 2 1. 3 joins behind: 2 1 3. 4 goes
    # before 1: 2 4 1 3, and that is four rows.
    assert (broker.sent(), broker.closed()) == ([[2, 4, 1, 3]], ["full"])


def test_what_no_longer_fits_behind_a_request_of_a_higher_level_stays(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1, rows=3, priority=2)
    broker.advance(100 * US)
    broker.arrive(2, rows=2, priority=1)

    # Anew: 2 (two rows), then 1 (three) would exceed four: 2 is sent. 1 is due when it is 1 ms old, if there is room then.
    assert broker.at(1) == [[2]]
    broker.advance(500 * US)
    broker.answer(1)
    broker.advance(399 * US)
    assert broker.at(1) == []
    broker.advance(1 * US)
    assert broker.at(1) == [[1]]


def test_a_held_batch_is_due_by_its_oldest_request_of_whatever_level(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1, priority=2)
    broker.advance(600 * US)
    broker.arrive(2, priority=1)

    # OldestEnqueueTime is 1's, which stands behind 2: 1000 us after it, not after 2.
    broker.advance(399 * US)
    assert broker.sent() == []
    broker.advance(1 * US)
    assert (broker.sent(), broker.closed()) == ([[2, 1]], ["delay"])


def test_a_higher_level_that_arrived_together_with_a_lower_one_goes_first(broker: Broker) -> None:
    broker.add_model(1, THREE, 1)
    broker.tell(ArrivedTogether([broker.request(1, priority=3), broker.request(2, priority=3), broker.request(3, priority=1)]))

    assert broker.at(1) == [[3, 1]]
    assert drain(broker) == [[2]]


# --- fairness, cancels, crashes ---


def test_principals_take_turns_within_a_level(broker: Broker) -> None:
    broker.add_model(1, THREE, 1)
    broker.arrive(0)
    for number in (1, 2, 3):
        broker.arrive(number, priority=2, principal="flood")
    broker.arrive(4, priority=2, principal="ben")
    broker.arrive(5, priority=1, principal="flood")

    # Level 1 has 5. In level 2 the lines are flood: 1 2 3 and ben: 4, in turn: 1 4 2 3.
    assert drain(broker) == [[5, 1], [4, 2], [3]]


def test_the_bound_of_a_principal_is_over_all_levels(broker: Broker) -> None:
    broker.add_model(
        1, Policy(max_batch_size=2, dynamic=True, priority_levels=9, default_priority_level=1, max_queued_per_principal=2)
    )
    for number in (1, 2, 3):
        broker.arrive(number, priority=number)
    broker.arrive(4, priority=3, principal="ben")

    assert broker.outcomes == {3: "OVERLOADED"}
    assert broker.messages[3] == "2 requests of 'ann' are queued, which is the limit"
    # When one of them has gone, there is room for one.
    broker.tell(Cancelled(1))
    broker.arrive(5, priority=3)
    assert 5 not in broker.outcomes


def test_what_comes_back_from_a_dead_worker_stands_in_front_of_its_own_level(broker: Broker) -> None:
    policy = Policy(max_batch_size=2, dynamic=True, credits=2, priority_levels=3, default_priority_level=2)
    broker.add_model(1, policy, 1)
    broker.arrive(0)
    broker.tell(ArrivedTogether([broker.request(1, priority=2), broker.request(2, priority=3)]))
    broker.tell(ArrivedTogether([broker.request(3, priority=3), broker.request(4, priority=2), broker.request(5, priority=1)]))
    assert broker.at(1) == [[0], [1, 2]]
    broker.crash(1)
    broker.add_instance(2, 1)

    # Level 1: 5; level 2: 1, which came back, 4; level 3: 2, which came back, 3. The new instance has two credits.
    assert broker.sent()[2:] == [[5, 1], [4, 2]]
    broker.answer(2)
    broker.answer(2)
    assert broker.at(2) == [[3]]


def test_a_cancelled_request_leaves_its_level(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    for number, priority in ((1, 2), (2, 1), (3, 2)):
        broker.arrive(number, priority=priority)
    broker.tell(Cancelled(1))
    assert broker.scheduler.queued_by_level(1) == {1: 1, 2: 1}
    broker.advance(1 * MS)
    assert broker.sent() == [[2, 3]]


def test_all_levels_fail_with_their_model(broker: Broker) -> None:
    broker.add_model(1, THREE)
    for number in (1, 2, 3):
        broker.arrive(number, priority=number)
    broker.tell(ModelDown(1, "5 crashes in 60 s"))
    assert set(broker.outcomes.values()) == {"UNAVAILABLE"}
    assert broker.scheduler.queued_by_level(1) == {}


# --- max_queue_size, priority_queue_policy ---


def test_a_level_queues_no_more_than_max_queue_size(broker: Broker) -> None:
    policy = Policy(max_batch_size=2, dynamic=True, credits=1, default_queue_policy=QueuePolicy(max_queue_size=2))
    broker.add_model(1, policy, 1)
    for number in (0, 1, 2):
        broker.arrive(number)
    commands = broker.tell(Arrived(broker.request(3)))

    # 0 is at the instance, 1 and 2 are queued: Size() is 2, so that Enqueue refuses 3. It was never in the queue: no failure.
    (finish,) = commands
    assert isinstance(finish, Finish) and not finish.accepted and finish.released
    assert broker.outcomes == {3: "UNAVAILABLE"}
    assert broker.messages[3] == "Exceeds maximum queue size: the model may have 2 requests queued, has 2"
    # 1 and 2 leave the queue together: there is room for two again.
    broker.answer(1)
    for number in (4, 5, 6):
        broker.arrive(number)
    assert {number: broker.outcomes[number] for number in (3, 6)} == {3: "UNAVAILABLE", 6: "UNAVAILABLE"}
    assert drain(broker) == [[4, 5]]


def test_a_burst_is_refused_only_what_the_instances_leave_in_the_queue(broker: Broker) -> None:
    policy = Policy(max_batch_size=2, dynamic=True, credits=1, default_queue_policy=QueuePolicy(max_queue_size=2))
    broker.add_model(1, policy, 1)
    broker.tell(ArrivedTogether([broker.request(number) for number in range(1, 7)]))

    # 1 and 2 fill the queue and leave it for the idle instance, 3 and 4 fill it again, and stay.
    assert broker.at(1) == [[1, 2]]
    assert broker.refused == {5, 6}
    assert drain(broker) == [[3, 4]]


def test_requests_in_the_batch_that_is_held_back_are_queued(broker: Broker) -> None:
    policy = Policy(
        max_batch_size=4, dynamic=True, max_queue_delay_ns=1 * MS, default_queue_policy=QueuePolicy(max_queue_size=2)
    )
    broker.add_model(1, policy, 1)
    for number in (1, 2, 3):
        broker.arrive(number)

    # The cursor has passed 1 and 2, but they are dequeued when the batch is executed: 3 is one too many, idle or not.
    assert broker.outcomes == {3: "UNAVAILABLE"}
    broker.advance(1 * MS)
    assert broker.sent() == [[1, 2]]


def test_each_level_has_the_policy_of_its_own_or_the_default(broker: Broker) -> None:
    policy = Policy(
        max_batch_size=2, dynamic=True, priority_levels=3, default_priority_level=3,
        default_queue_policy=QueuePolicy(max_queue_size=2), priority_queue_policies={2: QueuePolicy(max_queue_size=1)},
    )  # fmt: skip
    broker.add_model(1, policy)
    for number, priority in ((11, 1), (12, 1), (13, 1), (21, 2), (22, 2), (31, 0), (32, 3), (33, 3)):
        broker.arrive(number, priority=priority)

    # Levels 1 and 3 take two each, level 2 one.
    assert set(broker.outcomes) == {13, 22, 33}
    assert broker.messages[22] == "Exceeds maximum queue size: priority level 2 may have 1 requests queued, has 1"
    assert broker.scheduler.queued_by_level(1) == {1: 2, 2: 1, 3: 2}


def test_what_comes_back_unstarted_may_exceed_max_queue_size(broker: Broker) -> None:
    policy = Policy(max_batch_size=2, dynamic=True, default_queue_policy=QueuePolicy(max_queue_size=2))
    broker.add_model(1, policy, 1)
    for number in range(5):
        broker.arrive(number)
    assert broker.at(1) == [[0], [1, 2]]
    broker.crash(1)

    # Queued are 1 and 2, which were accepted once, and 3 and 4. A new one is refused until there is less than 2.
    broker.arrive(5)
    assert broker.outcomes == {0: "INTERNAL", 5: "UNAVAILABLE"}
    broker.add_instance(2, 1)
    assert broker.at(2) == [[1, 2], [3, 4]]
    broker.arrive(6)
    assert 6 not in broker.outcomes


# --- policies that cannot be ---


@pytest.mark.parametrize(
    "settings",
    [
        {"priority_levels": 2, "default_priority_level": 0},
        {"priority_levels": 2, "default_priority_level": 3},
        {"priority_levels": 0, "default_priority_level": 1},
        {"priority_levels": 2, "default_priority_level": 1, "priority_queue_policies": {3: QueuePolicy()}},
        {"priority_queue_policies": {1: QueuePolicy()}},
    ],
)
def test_levels_that_do_not_exist_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(CallerError, match="priority levels must be between"):
        Policy(max_batch_size=2, dynamic=True, **settings)  # type: ignore[arg-type]


def test_negative_bounds_are_refused() -> None:
    with pytest.raises(CallerError, match="must not be negative"):
        QueuePolicy(max_queue_size=-1)
    with pytest.raises(CallerError, match="must not be negative"):
        QueuePolicy(default_timeout_ns=-1)
