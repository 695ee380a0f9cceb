# SPDX-License-Identifier: Apache-2.0
"""preserve_ordering: two instances of unequal speed, replies in the order of arrival. `paper_broker` checks the order itself."""

from __future__ import annotations

import pytest
from paper_broker import MS, Broker

from penstock.runtime.scheduling.commands import Completed, Deliver, Withhold
from penstock.runtime.scheduling.events import ArrivedTogether, BatchEnded, Cancelled, ModelDown, ModelRemoved, SessionEnded
from penstock.runtime.scheduling.ordering import FEW_PLACES
from penstock.runtime.scheduling.policy import Policy

ORDERED = Policy(max_batch_size=1, preserve_ordering=True, credits=1)


@pytest.fixture
def broker() -> Broker:
    """Requests 1 and 2 run at instances 1 and 2, at the same time; 3 waits for room."""
    made = Broker()
    made.add_model(1, ORDERED, 1, 2)
    for number in (1, 2, 3):
        made.arrive(number)
    assert (made.at(1), made.at(2)) == ([[1]], [[2]])
    return made


def test_a_reply_waits_for_the_one_before_it_and_so_does_its_memory(broker: Broker) -> None:
    broker.answer(2)
    assert (broker.outcomes, broker.released) == ({}, set())
    assert broker.at(2) == [[3]], "the instance does not wait with it"
    broker.answer(2)
    assert broker.outcomes == {}
    broker.answer(1)
    assert (broker.answered, broker.released) == ([1, 2, 3], {1, 2, 3})


def test_replies_of_two_batches_interleave_as_their_requests_did() -> None:
    # Given two principals who take turns, so that the batches are {1, 3} and {2, 4}
    broker = Broker()
    broker.add_model(1, Policy(2, dynamic=True, preserve_ordering=True, credits=1))
    broker.tell(ArrivedTogether([broker.request(number, principal="ann" if number < 3 else "ben") for number in (1, 2, 3, 4)]))
    broker.add_instance(1, 1)
    broker.add_instance(2, 1)
    assert (broker.at(1), broker.at(2)) == ([[1, 3]], [[2, 4]])
    # When the second ends first
    broker.answer(2)
    assert broker.answered == []
    broker.answer(1)
    # Then the order is that of arrival
    assert broker.answered == [1, 2, 3, 4]


def test_what_is_delivered_together_is_told_batch_by_batch(broker: Broker) -> None:
    batch = broker.workers[2].popleft()
    (kept, *_) = broker.tell(BatchEnded(2, batch.number))
    assert isinstance(kept, Withhold) and [request.number for request in kept.requests] == [2]
    first = broker.workers[1].popleft()
    told = broker.tell(BatchEnded(1, first.number))
    delivered = [(command.batch, [request.number for request in command.requests]) for command in told[1:]]
    assert isinstance(told[0], Withhold) and all(isinstance(command, Deliver) for command in told[1:])
    assert delivered == [(first.number, [1]), (batch.number, [2])]


def test_without_it_replies_leave_as_batches_end() -> None:
    broker = Broker()
    broker.add_model(1, Policy(1, credits=1), 1, 2)
    broker.arrive(1)
    broker.arrive(2)
    batch = broker.workers[2].popleft()
    (completed,) = broker.tell(BatchEnded(2, batch.number))
    assert isinstance(completed, Completed)
    assert broker.answered == [2]


def test_a_cancelled_request_gives_up_its_place_though_a_worker_has_its_memory(broker: Broker) -> None:
    broker.answer(2)
    broker.tell(Cancelled(1))
    assert (broker.outcomes, broker.released) == ({1: "CANCELLED", 2: "ok"}, {2})
    broker.answer(1)
    assert broker.released == {1, 2}, "the late release comes by itself"


def test_a_cancelled_request_that_is_withheld_ends_at_once_with_its_memory(broker: Broker) -> None:
    broker.answer(2)
    broker.tell(Cancelled(2))
    assert (broker.outcomes, broker.released) == ({2: "CANCELLED"}, {2})
    broker.answer(1)
    assert broker.answered == [1]


def test_a_session_that_ends_takes_its_withheld_replies_along(broker: Broker) -> None:
    broker.arrive(4, session=2)
    broker.answer(2)
    broker.answer(2)
    assert broker.at(2) == [[4]]
    broker.answer(2)
    broker.tell(SessionEnded(1))
    assert broker.outcomes == {1: "CANCELLED", 2: "CANCELLED", 3: "CANCELLED", 4: "ok"}
    assert broker.released == {2, 3, 4}, "1 is still at its worker"


def test_a_deadline_counts_until_the_reply_leaves() -> None:
    """The result is there, and waits for a slower one: who gave a time is answered within it."""
    broker = Broker()
    broker.add_model(1, ORDERED, 1, 2)
    broker.arrive(1)
    broker.arrive(2, within_ns=5 * MS)
    broker.advance(1 * MS)
    broker.answer(2)
    broker.advance(3 * MS)
    assert broker.outcomes == {}
    broker.advance(1 * MS)
    assert (broker.outcomes, broker.released) == ({2: "DEADLINE_EXCEEDED"}, {2})
    assert broker.messages[2] == "the deadline passed behind the replies before it, 5.0 ms after arrival"
    broker.answer(1)
    assert broker.answered == [1]


def test_nobody_waits_for_a_request_whose_worker_died(broker: Broker) -> None:
    broker.answer(2)
    broker.crash(1)
    assert broker.outcomes == {1: "INTERNAL", 2: "ok"}


def test_a_request_that_comes_back_from_a_crash_keeps_its_place() -> None:
    # Given 1 running and 2 staged behind it at instance 1, and 3 at instance 2
    broker = Broker()
    broker.add_model(1, Policy(1, preserve_ordering=True, credits=2), 1)
    broker.arrive(1)
    broker.arrive(2)
    broker.add_instance(2, 1)
    broker.arrive(3)
    assert (broker.at(1), broker.at(2)) == ([[1], [2]], [[3]])
    # When instance 1 dies, and 3 ends
    broker.crash(1)
    assert broker.at(2) == [[3], [2]]
    broker.answer(2)
    # Then 3 waits for 2
    assert broker.outcomes == {1: "INTERNAL"}
    broker.answer(2)
    assert broker.answered == [2, 3]


def test_a_watchdog_ends_what_others_wait_for() -> None:
    broker = Broker()
    broker.add_model(1, Policy(1, preserve_ordering=True, credits=1, max_execution_ns=10 * MS), 1, 2)
    broker.arrive(1)
    broker.arrive(2)
    broker.answer(2)
    broker.advance(10 * MS)
    assert broker.killed == [1]
    broker.crash(1)
    assert broker.outcomes == {1: "INTERNAL", 2: "ok"}


def test_what_is_refused_on_arrival_takes_no_place() -> None:
    broker = Broker()
    broker.add_model(1, Policy(1, preserve_ordering=True, credits=1, max_queued_per_principal=1), 1)
    for number in (1, 2, 3):
        broker.arrive(number)
    broker.arrive(4, within_ns=0)
    assert broker.outcomes == {3: "OVERLOADED", 4: "DEADLINE_EXCEEDED"}
    broker.answer(1)
    broker.answer(1)
    assert broker.answered == [1, 2]


def test_a_model_that_goes_down_fails_what_is_queued_and_delivers_the_rest(broker: Broker) -> None:
    broker.answer(2)
    broker.crash(2)
    broker.arrive(4)
    broker.tell(ModelDown(1, "5 crashes in 60 s"))
    assert broker.outcomes[4] == "UNAVAILABLE"
    broker.answer(1)
    assert broker.answered == [1, 2]


def test_a_model_is_drained_only_when_all_replies_have_left(broker: Broker) -> None:
    broker.tell(ModelRemoved(1))
    broker.answer(2)
    broker.answer(2)
    assert broker.drained == []
    broker.answer(1)
    assert (broker.answered, broker.drained) == ([1, 2, 3], [1])


def test_places_that_nobody_needs_do_not_pile_up_behind_a_slow_request() -> None:
    broker = Broker()
    broker.add_model(1, ORDERED, 1)
    broker.arrive(1)
    for number in range(2, 20 * FEW_PLACES):
        broker.arrive(number)
        broker.tell(Cancelled(number))
    ordering = broker.scheduler._dispatcher.models[1].ordering
    assert ordering is not None and len(ordering._places) < FEW_PLACES
