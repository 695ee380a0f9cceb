# SPDX-License-Identifier: Apache-2.0
"""Faults of the scheduler: which batch is closed when, who is served, what is answered and released."""

from __future__ import annotations

from fault import Fault

RULE = "tests/unit/scheduling/test_batcher.py::"
STORY = "tests/unit/scheduling/test_scheduler.py::"
BATCHER = "runtime/scheduling/batcher.py"
QUEUES = "runtime/scheduling/queues.py"
INSTANCES = "runtime/scheduling/instances.py"
OUTCOMES = "runtime/scheduling/outcomes.py"

FAULTS = (
    Fault(
        "a batch exceeds the maximum by one row",
        BATCHER,
        "            if rows > sizes.max_batch_size:",
        "            if rows > sizes.max_batch_size + 1:",
        (f"{RULE}test_the_rule_by_example",),
    ),
    Fault(
        "an overdue batch is cut at a preferred size",
        BATCHER,
        "if walk.marked and not late:",
        "if walk.marked:",
        (f"{RULE}test_the_rule_by_example",),
    ),
    Fault(
        "the delay is counted from the newest",
        BATCHER,
        "if request.arrived_ns < walk.oldest_ns:",
        "if request.arrived_ns != walk.oldest_ns:",
        (f"{STORY}test_the_delay_is_counted_from_the_oldest_request",),
    ),
    Fault(
        "requests of unequal shapes share a batch",
        BATCHER,
        "if request.shape_key != walk.shape_key:",
        "if walk.shape_key is None and request.shape_key is not None:",
        (f"{RULE}test_a_change_of_shape_closes_the_batch_before_it",),
    ),
    Fault(
        "a batch is held past a deadline in it",
        BATCHER,
        "if now_ns >= start_by_ns:",
        "if now_ns > start_by_ns:",
        (f"{RULE}test_a_deadline_ends_the_hold_before_the_delay_does",),
    ),
    Fault(
        "a model that is being unloaded waits for more",
        "runtime/scheduling/forming.py",
        "self.drains)",
        "False)",
        (f"{STORY}test_a_removed_model_serves_what_it_has_and_refuses_the_rest",),
    ),
    Fault(
        "a deadline in the queue is ignored",
        "runtime/scheduling/ledger.py",
        "self.deadlines.set(number, request.deadline_ns)",
        "pass",
        (f"{STORY}test_a_deadline_in_the_queue_ends_the_request_and_frees_its_memory",),
    ),
    Fault(
        "a cancelled request that was queued is executed",
        OUTCOMES,
        "model.withdraw(request)",
        "pass",
        (f"{STORY}test_a_cancelled_queued_request_is_never_executed",),
    ),
    Fault(
        "memory is released while a worker has it",
        OUTCOMES,
        "message, fault, False))",
        "message, fault, True))",
        (f"{STORY}test_a_cancel_at_a_worker_is_an_outcome_now_and_a_release_later",),
    ),
    Fault(
        "a request that was cancelled at a worker gets a second outcome",
        "runtime/scheduling/scheduler.py",
        "live = [request for request in live if request.state is SENT]",
        "live = list(live)",
        (f"{STORY}test_a_cancel_at_a_worker_is_an_outcome_now_and_a_release_later",),
    ),
    Fault(
        "a session that ends leaves queued work behind",
        "runtime/scheduling/scheduler.py",
        "in self._ledger.of_session(event.session):",
        "in self._ledger.of_session(event.session)[:1]:",
        (f"{STORY}test_a_session_that_ends_takes_its_queued_work_along",),
    ),
    Fault(
        "a staged batch is lost in a crash",
        "runtime/scheduling/lifecycles.py",
        "for batch in staged for request",
        "for batch in () for request",
        (f"{STORY}test_a_crash_fails_the_running_batch_and_puts_the_staged_one_back_in_front",),
    ),
    Fault(
        "the batch that was running in a crash is executed again",
        "runtime/scheduling/lifecycles.py",
        "            for _ in range(instance.begun()):",
        "            for _ in range(0):",
        (f"{STORY}test_a_crash_fails_the_running_batch_and_puts_the_staged_one_back_in_front",),
    ),
    Fault(
        "what comes back from two crashes is out of order",
        QUEUES,
        "key=lambda request: request.drawn)",
        "key=lambda request: -request.drawn)",
        (f"{STORY}test_batches_that_come_back_from_two_crashes_keep_the_first_order",),
    ),
    Fault(
        "principals do not take turns",
        QUEUES,
        "turns.rotate(-1)",
        "pass",
        (f"{STORY}test_principals_take_turns_and_each_keeps_its_order",),
    ),
    Fault(
        "a principal may queue one more than its bound",
        QUEUES,
        "if line.queued >= self._limit:\n            return False\n        line.queued += 1",
        "if line.queued > self._limit:\n            return False\n        line.queued += 1",
        (f"{STORY}test_a_principal_may_queue_no_more_than_its_bound",),
    ),
    Fault(
        "a principal may queue one more than its bound while there is no room",
        QUEUES,
        "if line.queued >= self._limit:\n            return False\n        line.waiting",
        "if line.queued > self._limit:\n            return False\n        line.waiting",
        (f"{STORY}test_the_bound_of_a_principal_holds_while_no_instance_has_room",),
    ),
    Fault(
        "what was sent still counts for its principal",
        QUEUES,
        "lines[request.principal].queued -= 1\n\n    def remove",
        "pass\n\n    def remove",
        (f"{STORY}test_a_principal_may_queue_no_more_than_its_bound",),
    ),
    Fault(
        "a credit does not come back",
        INSTANCES,
        "self.open += (new_load < self._credits) - (load < self._credits)",
        "self.open -= load < self._credits",
        (f"{STORY}test_a_model_without_batching_executes_one_request_at_a_time",),
    ),
    Fault(
        "one credit too many",
        INSTANCES,
        "self._open = self._by_load[:batches_each]",
        "self._open = self._by_load",
        (f"{STORY}test_one_credit_stages_nothing",),
    ),
    Fault(
        "the watchdog counts from when a batch was sent",
        INSTANCES,
        "instance.since_ns = now_ns",
        "instance.since_ns = instance.batches[0].sent_ns",
        (f"{STORY}test_the_watchdog_kills_once_and_counts_from_when_the_batch_became_first",),
    ),
    Fault(
        "a killed instance is sent more",
        INSTANCES,
        "if not instance.leaving:\n            self._leave(instance)",
        "if not instance.leaving:\n            self.open += 0",
        (f"{STORY}test_the_watchdog_kills_once_and_counts_from_when_the_batch_became_first",),
    ),
    Fault(
        "a timer that was moved goes off as it was",
        "runtime/scheduling/timers.py",
        "if when.get(entry[1]) == entry[0]:",
        "if entry[1] in when:",
        ("tests/unit/scheduling/test_timers.py::test_a_timer_that_is_moved_is_due_at_its_new_time_only",),
    ),
)
