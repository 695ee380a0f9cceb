# SPDX-License-Identifier: Apache-2.0
"""Stories of the scheduler: what becomes of requests, batches, instances and models."""

from __future__ import annotations

import pytest
from paper_broker import MS, US, Broker

from penstock.runtime.scheduling.events import (
    ArrivedTogether,
    BatchEnded,
    Cancelled,
    InstanceGone,
    InstanceReady,
    ModelAdded,
    ModelDown,
    ModelRemoved,
    SessionEnded,
    Tick,
)
from penstock.runtime.scheduling.policy import Policy
from penstock.runtime.scheduling.requests import IllegalTransitionError, RequestState

GREEDY = Policy(max_batch_size=4, dynamic=True)
PATIENT = Policy(max_batch_size=4, dynamic=True, max_queue_delay_ns=1 * MS)
SINGLE = Policy(max_batch_size=0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def learn(broker: Broker, rows: int, duration_ns: int, instance: int = 1) -> None:
    """One batch of `rows` (one request) executes, so that its duration is known."""
    broker.arrive(900 + len(broker.requests), rows=rows)
    broker.advance(duration_ns)
    broker.answer(instance)
    broker.batches.clear()


# --- batching and credits ---


def test_an_idle_instance_gets_a_request_at_once(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.arrive(1)
    assert (broker.at(1), broker.closed()) == ([[1]], ["immediate"])
    broker.answer(1)
    assert broker.outcomes == {1: "ok"}
    assert broker.released == {1}


def test_requests_that_arrive_together_are_one_batch(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.tell(ArrivedTogether([broker.request(n) for n in range(1, 4)]))
    assert (broker.at(1), broker.closed()) == ([[1, 2, 3]], ["immediate"])


def test_a_busy_instance_is_sent_a_full_batch_early_and_a_partial_one_when_the_first_ends(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.arrive(0)
    for number in range(1, 4):
        broker.arrive(number)
    assert broker.at(1) == [[0]]
    broker.arrive(4)
    assert broker.at(1) == [[0], [1, 2, 3, 4]]
    assert broker.closed()[-1] == "full"
    broker.arrive(5)
    broker.answer(1)
    assert broker.at(1) == [[1, 2, 3, 4]], "nothing is known of batches of 4 rows: 5 waits for its end"
    broker.answer(1)
    assert broker.at(1) == [[5]]


def test_a_partial_batch_is_sent_to_a_busy_instance_in_the_last_fifth_of_the_expected_duration(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    learn(broker, 1, 1 * MS)
    broker.arrive(1)
    broker.arrive(2)
    broker.advance(799 * US)
    assert broker.at(1) == [[1]]
    broker.arrive(3)
    broker.advance(1 * US)
    assert (broker.at(1), broker.closed()[-1]) == ([[1], [2, 3]], "immediate")


def test_a_short_batch_nears_its_end_50_us_before_it(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    learn(broker, 1, 100 * US)
    broker.arrive(1)
    broker.arrive(2)
    broker.advance(49 * US)
    assert broker.at(1) == [[1]]
    broker.advance(1 * US)
    assert broker.at(1) == [[1], [2]]


def test_one_slow_batch_moves_the_expectation_by_an_eighth(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    learn(broker, 1, 800 * US)
    learn(broker, 1, 1_600 * US)
    broker.arrive(1)
    broker.arrive(2)
    broker.advance(719 * US)
    assert broker.at(1) == [[1]]
    broker.advance(1 * US)
    assert broker.at(1) == [[1], [2]], "expected 900 us, a fifth of it early"


def test_the_expectation_of_a_staged_batch_counts_from_when_it_became_first(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    learn(broker, 1, 1 * MS)
    learn(broker, 4, 2 * MS)
    broker.arrive(1)
    broker.arrive(2, rows=4)
    broker.arrive(3)
    broker.advance(1 * MS)
    broker.answer(1)
    broker.advance(1_599 * US)
    assert broker.at(1) == [[2]]
    broker.advance(1 * US)
    assert broker.at(1) == [[2], [3]]


def test_the_delay_is_counted_from_the_oldest_request(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1)
    broker.advance(600 * US)
    broker.arrive(2)
    broker.advance(399 * US)
    assert broker.sent() == []
    broker.advance(1 * US)
    assert (broker.sent(), broker.closed()) == ([[1, 2]], ["delay"])


def test_a_cancel_moves_the_delay_to_the_next_oldest(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1)
    broker.advance(600 * US)
    broker.arrive(2)
    broker.tell(Cancelled(1))
    broker.advance(999 * US)
    assert broker.sent() == []
    broker.advance(1 * US)
    assert broker.sent() == [[2]]


def test_an_overdue_batch_still_waits_for_room(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    for number in range(9):
        broker.arrive(number)
    broker.advance(5 * MS)
    assert broker.sent() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    broker.answer(1)
    broker.answer(1)
    assert (broker.sent()[-1], broker.closed()[-1]) == ([8], "delay")


def test_a_preferred_prefix_goes_and_the_rest_is_the_next_batch(broker: Broker) -> None:
    broker.add_model(1, Policy(8, True, (3,), 1 * MS), 1)
    broker.tell(ArrivedTogether([broker.request(n) for n in range(5)]))
    assert (broker.sent(), broker.closed()) == ([[0, 1, 2]], ["preferred"])
    broker.arrive(5)
    assert broker.sent() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_overdue_goes_together_beyond_the_largest_preferred_size(broker: Broker) -> None:
    broker.add_model(1, Policy(8, True, (2,), 1 * MS))
    for number in range(5):
        broker.arrive(number)
    broker.advance(1 * MS)
    broker.add_instance(1, 1)
    assert (broker.sent(), broker.closed()) == ([[0, 1, 2, 3, 4]], ["delay"])


def test_other_shapes_close_a_batch(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1, shape_key=(8,))
    broker.arrive(2, shape_key=(8,))
    broker.arrive(3, shape_key=(16,))
    assert (broker.sent(), broker.closed()) == ([[1, 2]], ["shape"])
    broker.advance(1 * MS)
    assert broker.sent() == [[1, 2]], "the rest can grow, so it is not staged"
    broker.answer(1)
    assert broker.sent() == [[1, 2], [3]]


def test_a_model_without_batching_executes_one_request_at_a_time(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    for number in range(4):
        broker.arrive(number)
    assert (broker.at(1), set(broker.closed())) == ([[0], [1]], {"single"})
    broker.answer(1)
    assert broker.at(1) == [[1], [2]]


def test_a_static_batch_model_does_not_merge_requests(broker: Broker) -> None:
    broker.add_model(1, Policy(max_batch_size=4), 1)
    broker.arrive(1, rows=3)
    broker.arrive(2, rows=1)
    assert broker.at(1) == [[1], [2]]


def test_one_credit_stages_nothing(broker: Broker) -> None:
    broker.add_model(1, Policy(0, credits=1), 1)
    broker.arrive(1)
    broker.arrive(2)
    assert broker.at(1) == [[1]]


def test_idle_instances_come_first_and_equals_take_turns(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1, 2, 3)
    for number in range(5):
        broker.arrive(number)
    assert (broker.at(1), broker.at(2), broker.at(3)) == ([[0], [3]], [[1], [4]], [[2]])
    broker.answer(2)
    broker.answer(2)
    broker.answer(1)
    broker.arrive(5)
    assert broker.at(2) == [[5]]
    broker.arrive(6)
    assert broker.at(3) == [[2], [6]], "instance 3 has been at one batch for longest"


def test_a_request_above_the_maximum_is_the_brokers_mistake(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    with pytest.raises(AssertionError):
        broker.arrive(1, rows=5)


# --- deadlines, cancels, sessions ---


def test_a_deadline_in_the_queue_ends_the_request_and_frees_its_memory(broker: Broker) -> None:
    broker.add_model(1, GREEDY)
    broker.arrive(1, within_ns=1 * MS)
    assert broker.scheduler.next_deadline() == broker.now_ns + 1 * MS
    broker.advance(1 * MS)
    assert broker.outcomes == {1: "DEADLINE_EXCEEDED"}
    assert broker.released == {1}
    assert broker.messages[1] == "the deadline passed in the queue, 1.0 ms after arrival"
    broker.add_instance(1, 1)
    assert broker.sent() == []
    assert broker.scheduler.next_deadline() is None


def test_a_deadline_at_the_model_ends_the_request_but_not_its_use_of_memory(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.tell(ArrivedTogether([broker.request(1, within_ns=1 * MS), broker.request(2)]))
    broker.advance(2 * MS)
    assert broker.outcomes == {1: "DEADLINE_EXCEEDED"}
    assert broker.released == set()
    broker.answer(1)
    assert broker.outcomes == {1: "DEADLINE_EXCEEDED", 2: "ok"}
    assert broker.released == {1, 2}


def test_a_deadline_that_has_passed_on_arrival_is_not_queued(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.arrive(1, within_ns=0)
    assert (broker.outcomes, broker.sent()) == ({1: "DEADLINE_EXCEEDED"}, [])


def test_a_batch_is_not_held_past_the_latest_start_that_meets_its_earliest_deadline(broker: Broker) -> None:
    broker.add_model(1, Policy(4, True, (), 100 * MS), 1)
    broker.arrive(1, rows=4)
    broker.advance(10 * MS)
    broker.answer(1)
    broker.arrive(2)
    broker.arrive(3, within_ns=50 * MS)
    broker.advance(38 * MS - 1)
    assert broker.sent() == [[1]]
    broker.advance(1)
    assert (broker.sent()[-1], broker.closed()[-1]) == ([2, 3], "deadline")


def test_with_nothing_learnt_a_deadline_is_not_gambled_with(broker: Broker) -> None:
    broker.add_model(1, Policy(4, True, (), 100 * MS), 1)
    broker.arrive(1, within_ns=50 * MS)
    assert (broker.sent(), broker.closed()) == ([[1]], ["deadline"])


def test_a_cancelled_queued_request_is_never_executed(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    for number in range(3):
        broker.arrive(number)
    broker.tell(Cancelled(1))
    assert broker.outcomes == {1: "CANCELLED"}
    assert broker.released == {1}
    assert broker.scheduler.queued(1) == 1
    broker.answer(1)
    assert broker.sent() == [[0], [2]]


def test_a_cancel_at_a_worker_is_an_outcome_now_and_a_release_later(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.arrive(1)
    broker.tell(Cancelled(1))
    assert (broker.outcomes, broker.released) == ({1: "CANCELLED"}, set())
    broker.tell(Cancelled(1))
    broker.answer(1)
    assert (broker.outcomes, broker.released) == ({1: "CANCELLED"}, {1})


def test_a_session_that_ends_takes_its_queued_work_along(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.tell(ArrivedTogether([broker.request(1, session=7), broker.request(2, session=8)]))
    broker.arrive(3, session=7)
    broker.arrive(4, session=8)
    broker.tell(SessionEnded(7))
    assert broker.outcomes == {1: "CANCELLED", 3: "CANCELLED"}
    assert broker.released == {3}
    broker.answer(1)
    assert broker.outcomes[2] == "ok"
    assert broker.sent() == [[1, 2], [4]]


# --- fairness ---


def test_a_flood_delays_another_principals_request_by_one_batch_at_most(broker: Broker) -> None:
    broker.add_model(1, Policy(4, True, credits=1), 1)
    for number in range(100):
        broker.arrive(number, principal="flood")
    broker.arrive(100, principal="ann")
    broker.answer(1)
    assert broker.sent()[-1] == [1, 100, 2, 3]


def test_principals_take_turns_and_each_keeps_its_order(broker: Broker) -> None:
    broker.add_model(1, Policy(0, credits=1))
    for number, principal in enumerate("aaabbc"):
        broker.arrive(number, principal=principal)
    broker.add_instance(1, 1)
    for _ in range(6):
        broker.answer(1)
    assert [batch[0] for batch in broker.sent()] == [0, 3, 5, 1, 4, 2]


def test_a_principal_may_queue_no_more_than_its_bound(broker: Broker) -> None:
    broker.add_model(1, Policy(4, True, (), 1 * MS, max_queued_per_principal=2), 1)
    for number in range(3):
        broker.arrive(number)
    broker.arrive(3, principal="ben")
    assert broker.outcomes == {2: "OVERLOADED"}
    assert broker.released == {2}
    assert broker.messages[2] == "2 requests of 'ann' are queued, which is the limit"
    broker.advance(1 * MS)
    broker.arrive(4)
    assert broker.sent() == [[0, 1, 3]]
    assert broker.outcomes == {2: "OVERLOADED"}


def test_the_bound_of_a_principal_holds_while_no_instance_has_room(broker: Broker) -> None:
    broker.add_model(1, Policy(0, credits=1, max_queued_per_principal=2), 1)
    for number in range(4):
        broker.arrive(number)
    broker.arrive(4, principal="ben")
    assert (broker.at(1), broker.outcomes) == ([[0]], {3: "OVERLOADED"})
    broker.answer(1)
    broker.arrive(5)
    assert broker.outcomes == {3: "OVERLOADED", 0: "ok"}, "request 1 was sent and no longer counts"


def test_withdrawn_requests_do_not_pile_up(broker: Broker) -> None:
    broker.add_model(1, GREEDY)
    broker.arrive(0)
    for number in range(1, 1000):
        broker.arrive(number, principal=f"visitor {number}")
        broker.tell(Cancelled(number))
    lines = broker.scheduler._dispatcher.models[1]._lines
    assert broker.scheduler.queued(1) == 1
    assert len(lines._lines) <= 200
    assert sum(len(line.waiting) for line in lines._lines.values()) <= 200


# --- instances that go away ---


def test_a_crash_fails_the_running_batch_and_puts_the_staged_one_back_in_front(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.arrive(0)
    for number in range(1, 7):
        broker.arrive(number)
    assert broker.at(1) == [[0], [1, 2, 3, 4]]
    broker.crash(1)
    assert broker.outcomes == {0: "INTERNAL"}
    assert broker.messages[0] == "worker died (signal 9)"
    assert broker.released == {0}
    broker.add_instance(1, 1)
    assert broker.at(1) == [[1, 2, 3, 4]]
    broker.answer(1)
    assert broker.sent()[-1] == [5, 6]


def test_batches_that_come_back_from_two_crashes_keep_the_first_order(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1, 2)
    for number in range(4):
        broker.arrive(number)
    broker.crash(1)
    broker.crash(2)
    broker.arrive(4)
    broker.add_instance(3, 1)
    assert broker.at(3) == [[2], [3]]


def test_requests_with_an_outcome_are_released_when_their_worker_is_gone(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    broker.arrive(1)
    broker.arrive(2)
    broker.tell(Cancelled(1))
    broker.tell(Cancelled(2))
    broker.crash(1)
    assert broker.outcomes == {1: "CANCELLED", 2: "CANCELLED"}
    assert broker.released == {1, 2}
    broker.add_instance(1, 1)
    assert broker.at(1) == []


def test_late_and_unknown_events_are_ignored(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    broker.arrive(1)
    late = broker.batches[0].number
    broker.crash(1)
    broker.add_instance(1, 1)
    for event in [
        BatchEnded(1, late),
        BatchEnded(9, late),
        Cancelled(1),
        Cancelled(77),
        SessionEnded(5),
        InstanceGone(9, "gone"),
        InstanceReady(9, 9),
        ModelRemoved(9),
        ModelDown(9, "down"),
        Tick(),
    ]:
        assert broker.tell(event) == []


def test_impossible_events_raise_with_the_story(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    broker.arrive(1)
    broker.arrive(2)
    with pytest.raises(IllegalTransitionError, match=r"instance 1 of model 1: running, batches \[1, 2\].* ended batch 2"):
        broker.tell(BatchEnded(1, 2))
    with pytest.raises(IllegalTransitionError, match=r"model 1: serving.* added a second time"):
        broker.tell(ModelAdded(1, SINGLE))
    with pytest.raises(IllegalTransitionError, match=r"instance 1 of model 1.* ready a second time"):
        broker.tell(InstanceReady(1, 1))
    with pytest.raises(IllegalTransitionError, match="has the number of <request 1 of session 1"):
        broker.arrive(1)


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (RequestState.QUEUED, RequestState.FINISHED_EARLY),
        (RequestState.QUEUED, RequestState.QUEUED),
        (RequestState.FINISHED_EARLY, RequestState.QUEUED),
        (RequestState.FINISHED_EARLY, RequestState.SENT),
        (RequestState.ENDED, RequestState.ENDED),
        (RequestState.ENDED, RequestState.QUEUED),
    ],
)
def test_an_illegal_move_tells_the_requests_story(broker: Broker, state: RequestState, to: RequestState) -> None:
    request = broker.request(5)
    request.state = state
    with pytest.raises(
        IllegalTransitionError, match=rf"request 5 of session 1 \('ann'\).*{state.name}.* cannot become {to.name}"
    ):
        request.become(to)


def test_the_watchdog_kills_once_and_counts_from_when_the_batch_became_first(broker: Broker) -> None:
    broker.add_model(1, Policy(0, max_execution_ns=10 * MS), 1)
    broker.arrive(1)
    broker.arrive(2)
    broker.advance(9 * MS)
    broker.answer(1)
    broker.advance(9 * MS)
    assert broker.killed == []
    broker.advance(1 * MS)
    assert broker.killed == [1]
    assert broker.scheduler.next_deadline() is None
    broker.arrive(3)
    assert broker.at(1) == [[2]], "a killed instance gets nothing more"
    broker.crash(1, "killed: batch 2 ran past the limit")
    assert broker.outcomes == {1: "ok", 2: "INTERNAL"}
    broker.add_instance(2, 1)
    assert broker.at(2) == [[3]]


def test_an_answer_that_crosses_the_kill_still_counts(broker: Broker) -> None:
    broker.add_model(1, Policy(0, max_execution_ns=10 * MS), 1)
    broker.arrive(1)
    broker.advance(10 * MS)
    broker.answer(1)
    broker.arrive(2)
    broker.crash(1)
    assert broker.outcomes == {1: "ok"}
    assert broker.scheduler.queued(1) == 1


def test_an_idle_instance_has_no_watchdog(broker: Broker) -> None:
    broker.add_model(1, Policy(0, max_execution_ns=10 * MS), 1)
    broker.arrive(1)
    broker.answer(1)
    broker.advance(100 * MS)
    assert broker.killed == []
    assert broker.scheduler.next_deadline() is None


# --- instances that are sent away ---


def test_an_instance_that_is_sent_away_finishes_what_it_has_and_gets_no_more(broker: Broker) -> None:
    broker.add_model(1, Policy(0), 1, 2)
    for number in (1, 2, 3, 4):
        broker.arrive(number)
    assert (broker.at(1), broker.at(2)) == ([[1], [3]], [[2], [4]])
    broker.send_away(1)
    broker.arrive(5)
    broker.answer(1)
    assert (broker.at(1), broker.vacated) == ([[3]], [])
    broker.answer(2)
    assert broker.at(2) == [[4], [5]]
    broker.answer(1)
    assert broker.vacated == [1]
    assert broker.tell(InstanceGone(1, "stopped")) == []


def test_an_idle_instance_may_go_at_once(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1, 2)
    broker.send_away(1)
    assert broker.vacated == [1]
    broker.arrive(1)
    assert broker.at(2) == [[1]]


def test_an_instance_that_dies_on_its_way_out_fails_its_batch_and_returns_the_rest(broker: Broker) -> None:
    broker.add_model(1, Policy(0), 1)
    broker.arrive(1)
    broker.arrive(2)
    broker.send_away(1)
    broker.crash(1)
    assert broker.outcomes == {1: "INTERNAL"} and broker.scheduler.queued(1) == 1
    broker.add_instance(2, 1)
    assert broker.at(2) == [[2]]


def test_the_watchdog_watches_who_is_on_the_way_out(broker: Broker) -> None:
    broker.add_model(1, Policy(0, max_execution_ns=10 * MS), 1)
    broker.arrive(1)
    broker.arrive(2)
    broker.send_away(1)
    broker.advance(9 * MS)
    broker.answer(1)
    broker.advance(10 * MS)
    assert broker.killed == [1]
    broker.crash(1)
    assert broker.outcomes == {1: "ok", 2: "INTERNAL"}


def test_a_model_may_be_removed_while_an_instance_is_on_its_way_out(broker: Broker) -> None:
    broker.add_model(1, Policy(0), 1, 2)
    broker.arrive(1)
    broker.arrive(2)
    broker.send_away(1)
    broker.tell(ModelRemoved(1))
    broker.answer(2)
    assert broker.drained == []
    broker.answer(1)
    assert (broker.vacated, broker.drained) == ([], [1])


def test_a_removed_model_is_served_by_who_was_on_its_way_out_if_nobody_else_is_left(broker: Broker) -> None:
    broker.add_model(1, Policy(0), 1, 2)
    for number in (1, 2, 3, 4, 5):
        broker.arrive(number)
    broker.send_away(1)
    broker.crash(2)
    broker.tell(ModelRemoved(1))
    while broker.workers[1]:
        broker.answer(1)
    assert broker.outcomes == {1: "ok", 2: "INTERNAL", 3: "ok", 4: "ok", 5: "ok"}
    assert broker.drained == [1]


# --- models that go away ---


def test_requests_queue_while_a_model_has_no_instance_yet(broker: Broker) -> None:
    broker.add_model(1, GREEDY)
    broker.arrive(1)
    broker.arrive(2)
    broker.add_instance(1, 1)
    assert broker.sent() == [[1, 2]]


def test_an_unknown_model_is_unavailable(broker: Broker) -> None:
    broker.arrive(1, 42)
    assert (broker.outcomes, broker.released) == ({1: "UNAVAILABLE"}, {1})


def test_a_removed_model_serves_what_it_has_and_refuses_the_rest(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1)
    broker.tell(ModelRemoved(1))
    assert (broker.sent(), broker.closed()) == ([[1]], ["drain"])
    broker.arrive(2)
    assert broker.outcomes == {2: "UNAVAILABLE"}
    assert broker.messages[2] == "the model is being unloaded"
    assert broker.drained == []
    broker.answer(1)
    assert (broker.outcomes[1], broker.drained) == ("ok", [1])
    assert broker.tell(InstanceGone(1, "stopped")) == []


def test_a_removed_model_without_work_is_drained_at_once(broker: Broker) -> None:
    broker.add_model(1, GREEDY, 1)
    broker.tell(ModelRemoved(1))
    assert broker.drained == [1]
    broker.add_model(1, GREEDY)
    assert broker.scheduler.queued(1) == 0


def test_a_removed_model_without_an_instance_fails_what_it_has(broker: Broker) -> None:
    broker.add_model(1, GREEDY)
    broker.arrive(1)
    broker.tell(ModelRemoved(1))
    assert (broker.outcomes, broker.drained) == ({1: "UNAVAILABLE"}, [1])


def test_a_removed_model_that_loses_its_last_instance_fails_what_is_left(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    for number in range(3):
        broker.arrive(number)
    broker.tell(ModelRemoved(1))
    broker.crash(1)
    assert broker.outcomes == {0: "INTERNAL", 1: "UNAVAILABLE", 2: "UNAVAILABLE"}
    assert broker.drained == [1]


def test_a_model_that_is_down_refuses_until_an_instance_is_ready(broker: Broker) -> None:
    broker.add_model(1, GREEDY)
    broker.arrive(1)
    broker.tell(ModelDown(1, "5 crashes in 60 s"))
    broker.arrive(2)
    assert broker.outcomes == {1: "UNAVAILABLE", 2: "UNAVAILABLE"}
    assert broker.messages[2] == "5 crashes in 60 s"
    broker.add_instance(1, 1)
    broker.arrive(3)
    assert broker.sent() == [[3]]


def test_staged_work_of_a_model_that_is_down_fails_instead_of_returning(broker: Broker) -> None:
    broker.add_model(1, SINGLE, 1)
    for number in range(3):
        broker.arrive(number)
    broker.tell(ModelDown(1, "down"))
    broker.crash(1)
    assert broker.outcomes == {2: "UNAVAILABLE", 0: "INTERNAL", 1: "UNAVAILABLE"}


def test_the_state_is_said_in_words(broker: Broker) -> None:
    broker.add_model(1, PATIENT, 1)
    broker.arrive(1)
    assert repr(broker.scheduler) == (
        "<scheduler: <1 requests of 1 sessions: {'QUEUED': 1}>, <[<model 1: serving, 1 queued (1 in the batch being formed), "
        "<1 of 1 instances open: [<instance 1 of model 1: idle, batches []>]>>]>>"
    )
