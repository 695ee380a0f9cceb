# SPDX-License-Identifier: Apache-2.0
"""Queue timeouts: who is rejected, who is delayed, and when exactly. One story per key of the configuration.

What is expected is worked out in comments, by hand, from Triton's rules (PolicyQueue in scheduler_utils.cc). Times in us count
from when the model was added; instance 1 is busy with request 0 wherever a story says so. A request has expired when it has
waited for its timeout, to the nanosecond.
"""

from __future__ import annotations

import pytest
from paper_broker import MS, US, Broker

from penstock.runtime.scheduling.commands import Finish
from penstock.runtime.scheduling.events import Arrived, ArrivedTogether, BatchEnded, Cancelled, ModelDown
from penstock.runtime.scheduling.policy import Policy, QueuePolicy, TimeoutAction

DELAY = TimeoutAction.DELAY
REJECTING = QueuePolicy(default_timeout_ns=500 * US)
DELAYING = QueuePolicy(timeout_action=DELAY, default_timeout_ns=500 * US)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def model(policy: QueuePolicy, **settings: object) -> Policy:
    """Batches of two, one credit, one level of that policy, unless `settings` says otherwise."""
    return Policy(**{"max_batch_size": 2, "dynamic": True, "credits": 1, "default_queue_policy": policy, **settings})  # type: ignore[arg-type]


def busy(broker: Broker, policy: Policy) -> None:
    """The model's only instance is busy with request 0."""
    broker.add_model(1, policy, 1)
    broker.arrive(0)
    assert broker.at(1) == [[0]]


def drain(broker: Broker) -> list[list[int]]:
    """All that is sent from now on, when the instance answers whatever it gets."""
    begun = len(broker.batches)
    while broker.workers[1]:
        broker.answer(1)
    return broker.sent()[begun:]


# --- timeout_action REJECT, default_timeout_microseconds ---


def test_a_request_that_has_waited_for_its_timeout_is_rejected(broker: Broker) -> None:
    busy(broker, model(REJECTING))
    broker.arrive(1)
    broker.advance(200 * US)
    broker.arrive(2)

    # 1 expires at 500, 2 at 700: neither a nanosecond before, and not only when the instance answers.
    assert broker.scheduler.next_deadline() == broker.requests[1].arrived_ns + 500 * US
    broker.advance(300 * US - 1)
    assert broker.outcomes == {}
    broker.advance(1)
    assert broker.outcomes == {1: "UNAVAILABLE"}
    assert broker.messages[1] == "Request timeout expired: it was 0.5 ms in the queue"
    assert broker.released == {1}
    broker.advance(199 * US)
    assert drain(broker) == [[2]]


def test_an_expired_request_was_accepted_and_has_failed(broker: Broker) -> None:
    busy(broker, model(REJECTING))
    broker.arrive(1)
    broker.now_ns += 500 * US
    finish, *_ = broker.tell(BatchEnded(1, broker.workers[1].popleft().number))

    # The answer comes in the same instant as the timeout: time goes first, 1 is not sent.
    assert isinstance(finish, Finish)
    assert (finish.request.number, finish.accepted, finish.released, finish.fault) == (1, True, True, "broker")
    assert broker.sent() == [[0]]


def test_a_request_is_rejected_out_of_the_batch_that_is_held_back(broker: Broker) -> None:
    broker.add_model(1, model(REJECTING, max_queue_delay_ns=1 * MS), 1)
    broker.arrive(1)
    broker.advance(400 * US)
    broker.arrive(2, rows=1, shape_key=None)

    # Two rows: sent at 400. Alone, a request is held for 1000, but the batcher sleeps until its timeout, 500: rejected, though
    # the instance is idle. That is Triton's rule: a timeout below the delay makes requests fail that have no company.
    assert broker.sent() == [[1, 2]]
    broker.answer(1)
    broker.arrive(3)
    broker.advance(499 * US)
    assert 3 not in broker.outcomes
    broker.advance(1 * US)
    assert broker.outcomes[3] == "UNAVAILABLE"


def test_the_rest_of_a_held_batch_goes_when_its_own_oldest_is_due(broker: Broker) -> None:
    policy = QueuePolicy(default_timeout_ns=2 * MS, allow_timeout_override=True)
    broker.add_model(1, model(policy, max_batch_size=4, max_queue_delay_ns=1 * MS), 1)
    broker.arrive(1, timeout_ns=600 * US)
    broker.advance(300 * US)
    broker.arrive(2)

    # 1 is rejected at 600. The batch begins anew with 2, the oldest now: sent at 300 + 1000.
    broker.advance(300 * US)
    assert broker.outcomes == {1: "UNAVAILABLE"}
    broker.advance(699 * US)
    assert broker.sent() == []
    broker.advance(1 * US)
    assert broker.sent() == [[2]]


def test_many_that_expire_at_once_are_rejected_in_one_step(broker: Broker) -> None:
    broker.add_model(1, model(REJECTING, max_batch_size=64, max_queue_delay_ns=1 * MS), 1)
    broker.tell(ArrivedTogether([broker.request(number) for number in range(1, 51)]))
    broker.advance(500 * US)
    assert broker.outcomes == dict.fromkeys(range(1, 51), "UNAVAILABLE")
    assert broker.scheduler.next_deadline() is None


def test_the_timeout_is_over_when_the_request_is_sent(broker: Broker) -> None:
    broker.add_model(1, model(REJECTING), 1)
    broker.arrive(1)
    broker.advance(10 * MS)
    assert broker.scheduler.next_deadline() is None
    broker.answer(1)
    assert broker.outcomes == {1: "ok"}


def test_the_timeout_goes_with_a_request_that_is_cancelled_or_fails(broker: Broker) -> None:
    busy(broker, model(REJECTING))
    broker.arrive(1)
    broker.arrive(2)
    broker.tell(Cancelled(1))
    broker.tell(ModelDown(1, "5 crashes in 60 s"))
    assert broker.outcomes == {1: "CANCELLED", 2: "UNAVAILABLE"}
    assert broker.scheduler.next_deadline() is None


@pytest.mark.parametrize(("within_us", "outcome"), [(400, "DEADLINE_EXCEEDED"), (500, "UNAVAILABLE"), (600, "UNAVAILABLE")])
def test_a_deadline_is_another_clock_and_the_earlier_one_counts(broker: Broker, within_us: int, outcome: str) -> None:
    busy(broker, model(REJECTING))
    broker.arrive(1, within_ns=within_us * US)
    broker.advance(1 * MS)
    assert broker.outcomes == {1: outcome}


def test_a_model_without_a_batch_dimension_has_timeouts(broker: Broker) -> None:
    busy(broker, model(REJECTING, max_batch_size=0))
    broker.arrive(1)
    broker.advance(500 * US)
    assert broker.outcomes == {1: "UNAVAILABLE"}


def test_without_the_dynamic_batcher_there_is_no_queue_policy(broker: Broker) -> None:
    policy = QueuePolicy(default_timeout_ns=500 * US, allow_timeout_override=True, max_queue_size=1)
    busy(broker, model(policy, dynamic=False))
    broker.arrive(1, timeout_ns=1 * US, priority=1)
    broker.arrive(2, timeout_ns=1 * US, priority=1)
    broker.advance(10 * MS)
    assert drain(broker) == [[1], [2]]


# --- allow_timeout_override ---


@pytest.mark.parametrize(
    ("allowed", "default_us", "asked_us", "expires_us"),
    [
        (True, 1000, 0, 1000),  # nothing asked
        (True, 1000, 300, 300),  # shorter
        (True, 1000, 1000, 1000),
        (True, 1000, 2000, 1000),  # longer: the default is what the server allows
        (True, 0, 300, None),  # 300 is not smaller than 0: without a default, none (Triton's comparison is that of numbers)
        (False, 1000, 300, 1000),  # not allowed
        (False, 0, 300, None),
    ],
)
def test_a_request_may_shorten_its_timeout_where_that_is_allowed(
    broker: Broker, allowed: bool, default_us: int, asked_us: int, expires_us: int | None
) -> None:
    busy(broker, model(QueuePolicy(default_timeout_ns=default_us * US, allow_timeout_override=allowed)))
    broker.arrive(1, timeout_ns=asked_us * US)
    if expires_us is None:
        broker.advance(10 * MS)
        assert broker.outcomes == {}
    else:
        broker.advance(expires_us * US - 1)
        assert broker.outcomes == {}
        broker.advance(1)
        assert broker.outcomes == {1: "UNAVAILABLE"}


def test_timers_wake_for_the_closest_timeout_whoever_came_first(broker: Broker) -> None:
    busy(broker, model(QueuePolicy(default_timeout_ns=1 * MS, allow_timeout_override=True)))
    broker.arrive(1)
    broker.arrive(2, timeout_ns=300 * US)
    broker.arrive(3, timeout_ns=100 * US)
    began_ns = broker.now_ns
    for number, expires_us in ((3, 100), (2, 300), (1, 1000)):
        assert broker.scheduler.next_deadline() == began_ns + expires_us * US
        broker.advance(began_ns + expires_us * US - broker.now_ns)
        assert broker.outcomes[number] == "UNAVAILABLE"
    assert broker.scheduler.next_deadline() is None


# --- timeout_action DELAY ---


def test_a_delayed_request_goes_behind_all_that_have_not_expired(broker: Broker) -> None:
    busy(broker, model(DELAYING))
    broker.arrive(1)
    broker.advance(100 * US)
    broker.arrive(2)
    broker.advance(500 * US)
    broker.arrive(3)
    broker.advance(100 * US)

    # 1 expires at 500, 2 at 600, 3 at 1100. At 700: in time 3; delayed 1 2. Nobody is rejected.
    assert drain(broker) == [[3, 1], [2]]
    assert set(broker.outcomes.values()) == {"ok"}


def test_delayed_requests_go_before_the_next_level(broker: Broker) -> None:
    policy = model(
        QueuePolicy(), max_batch_size=1, priority_levels=2, default_priority_level=2, priority_queue_policies={1: DELAYING}
    )
    busy(broker, policy)
    broker.arrive(1, priority=1)
    broker.arrive(2, priority=2)
    broker.advance(500 * US)
    broker.arrive(3, priority=1)

    # Level 1: in time 3, delayed 1. Level 2: 2, whose policy has no timeout.
    assert drain(broker) == [[3], [1], [2]]


def test_delayed_requests_are_never_rejected_and_wake_nobody(broker: Broker) -> None:
    busy(broker, model(DELAYING))
    broker.arrive(1)
    broker.advance(500 * US)
    assert broker.scheduler.next_deadline() is None
    broker.advance(60_000 * MS)
    assert drain(broker) == [[1]]


def test_max_queue_size_counts_delayed_requests(broker: Broker) -> None:
    busy(broker, model(QueuePolicy(max_queue_size=2, timeout_action=DELAY, default_timeout_ns=500 * US)))
    broker.arrive(1)
    broker.arrive(2)
    broker.advance(500 * US)
    broker.arrive(3)

    # Size() is that of both queues: 0 in time and 2 delayed.
    assert broker.outcomes == {3: "UNAVAILABLE"}
    assert drain(broker) == [[1, 2]]


def test_a_request_in_time_goes_before_the_delayed_ones_of_a_batch_that_is_held_back(broker: Broker) -> None:
    broker.add_model(1, model(DELAYING, max_batch_size=3, max_queue_delay_ns=1 * MS), 1)
    broker.arrive(1)
    broker.advance(100 * US)
    broker.arrive(2)
    broker.advance(500 * US)

    # At 500 and 600 the held 1 and 2 were delayed; the cursor is at the delayed queue. 3 is enqueued before it: anew, 3 1 2.
    assert broker.sent() == []
    broker.arrive(3)
    assert (broker.sent(), broker.closed()) == ([[3, 1, 2]], ["full"])


def test_delayed_requests_still_close_a_batch_by_their_age(broker: Broker) -> None:
    broker.add_model(1, model(DELAYING, max_batch_size=4, max_queue_delay_ns=1 * MS), 1)
    broker.arrive(1)
    broker.advance(700 * US)
    broker.arrive(2)

    # 1 is delayed at 500, but the oldest of the pending batch still: due at 1000. The order is 2 1.
    broker.advance(299 * US)
    assert broker.sent() == []
    broker.advance(1 * US)
    assert (broker.sent(), broker.closed()) == ([[2, 1]], ["delay"])


def test_principals_take_turns_among_the_delayed(broker: Broker) -> None:
    busy(broker, model(DELAYING, max_batch_size=1))
    for number in (1, 2, 3):
        broker.arrive(number, principal="flood")
    broker.arrive(4, principal="ben")
    broker.advance(500 * US)
    assert drain(broker) == [[1], [4], [2], [3]]


def test_a_delayed_request_can_be_cancelled(broker: Broker) -> None:
    busy(broker, model(DELAYING))
    for number in (1, 2, 3):
        broker.arrive(number)
    broker.advance(500 * US)
    broker.tell(Cancelled(2))
    assert drain(broker) == [[1, 3]]
    assert broker.outcomes[2] == "CANCELLED"


# --- with workers that die ---


@pytest.mark.parametrize("action", TimeoutAction)
def test_what_comes_back_in_time_still_has_its_timeout(broker: Broker, action: TimeoutAction) -> None:
    policy = QueuePolicy(timeout_action=action, default_timeout_ns=500 * US)
    broker.add_model(1, model(policy, credits=2), 1)
    for number in range(3):
        broker.arrive(number)
    assert broker.at(1) == [[0], [1, 2]]
    broker.advance(400 * US)
    broker.arrive(3)
    broker.crash(1)

    # 1 and 2 arrived at 0: 100 more, and no new 500.
    broker.advance(100 * US)
    rejected = {} if action is DELAY else {1: "UNAVAILABLE", 2: "UNAVAILABLE"}
    assert broker.outcomes == {0: "INTERNAL", **rejected}
    broker.add_instance(2, 1)
    assert broker.at(2) == ([[3, 1]] if action is DELAY else [[3]])
    broker.answer(2)
    assert broker.at(2) == ([[2]] if action is DELAY else [])


@pytest.mark.parametrize("action", TimeoutAction)
def test_what_comes_back_too_late_has_expired(broker: Broker, action: TimeoutAction) -> None:
    policy = QueuePolicy(timeout_action=action, default_timeout_ns=500 * US)
    broker.add_model(1, model(policy, credits=2), 1, 2)
    broker.arrive(0)
    broker.arrive(9)
    for number in (1, 2):
        broker.arrive(number)
    assert broker.at(1) == [[0], [1, 2]]
    broker.advance(600 * US)
    broker.arrive(3)
    broker.crash(1)

    # In the step that brings 1 and 2 back they have expired: rejected, or behind 3, and not sent to instance 2 before that.
    if action is DELAY:
        assert broker.at(2) == [[9], [3, 1]]
        broker.answer(2)
        broker.answer(2)
        assert broker.at(2) == [[2]]
    else:
        assert broker.outcomes == {0: "INTERNAL", 1: "UNAVAILABLE", 2: "UNAVAILABLE"}
        assert broker.at(2) == [[9]]


def test_what_expires_as_an_instance_goes_is_not_sent_there(broker: Broker) -> None:
    # Given two models, each with two requests in a batch that is held back until 300, the first of which expires at 500
    for number in (1, 2):
        broker.add_model(number, model(REJECTING, max_batch_size=4, max_queue_delay_ns=300 * US), number)
        broker.arrive(10 * number, number)
    broker.now_ns += 100 * US
    broker.arrive(11, 1)
    broker.arrive(21, 2)
    # When nothing happens until 550, and then the first event is the end of an instance
    broker.now_ns += 450 * US
    broker.crash(1)
    # Then what has expired is rejected, of both models, and the rest goes to whom there is
    assert broker.outcomes == {10: "UNAVAILABLE", 20: "UNAVAILABLE"}
    assert (broker.sent(), broker.at(2)) == ([[21]], [[21]])
    broker.add_instance(3, 1)
    assert broker.at(3) == [[11]]


def test_a_timeout_beyond_the_end_of_time_is_none(broker: Broker) -> None:
    busy(broker, model(QueuePolicy(default_timeout_ns=(2**64 - 1) * 1000)))
    broker.tell(Arrived(broker.request(1)))
    broker.advance(10**6 * MS)
    assert drain(broker) == [[1]]
