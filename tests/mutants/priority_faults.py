# SPDX-License-Identifier: Apache-2.0
"""Faults of priority levels and queue policies: who goes first, who is refused, who expires and when."""

from __future__ import annotations

from fault import Fault

LEVELS = "runtime/scheduling/levels.py"
MODELS = "runtime/scheduling/forming.py"
POLICY = "runtime/scheduling/policy.py"
PRIORITIES = "tests/unit/scheduling/test_priorities.py::"
TIMEOUTS = "tests/unit/scheduling/test_queue_timeouts.py::"
ORDER = "tests/unit/scheduling/test_levels.py::"

FAULTS = (
    Fault(
        "the lowest priority goes first",
        LEVELS,
        "            heappush(self._order, level.number)",
        "            self._order.insert(0, level.number)",
        (f"{PRIORITIES}test_level_1_is_served_before_level_2_and_that_before_level_3",),
    ),
    Fault(
        "priority 0 is a level of its own",
        POLICY,
        "return priority if 0 < priority <= self.priority_levels",
        "return priority if 0 <= priority <= self.priority_levels",
        (f"{PRIORITIES}test_priority_0_and_one_above_priority_levels_mean_the_default_level",),
    ),
    Fault(
        "the lowest level means the default",
        POLICY,
        "return priority if 0 < priority <= self.priority_levels",
        "return priority if 0 < priority < self.priority_levels",
        (f"{PRIORITIES}test_level_1_is_served_before_level_2_and_that_before_level_3",),
    ),
    Fault(
        "a batch that is held back is not overtaken",
        MODELS,
        "self._levels.has_before(self._walk.requests[-1])",
        "self._levels.has_before(self._walk.requests[0])",
        (f"{PRIORITIES}test_a_request_of_a_higher_level_goes_before_those_of_the_batch_that_is_held_back",),
    ),
    Fault(
        "a level queues one more than max_queue_size",
        LEVELS,
        "return 0 < level.policy.max_queue_size <= level.queued",
        "return 0 < level.policy.max_queue_size < level.queued",
        (f"{PRIORITIES}test_a_level_queues_no_more_than_max_queue_size",),
    ),
    Fault(
        "a burst is refused what an idle instance would take",
        "runtime/scheduling/scheduler.py",
        "            accepted = model.accept(request, now_ns)",
        "            pass",
        (f"{PRIORITIES}test_a_burst_is_refused_only_what_the_instances_leave_in_the_queue",),
    ),
    Fault(
        "the bound of a level is that of what stands in its lines",
        LEVELS,
        "return 0 < level.policy.max_queue_size <= level.queued",
        "return 0 < level.policy.max_queue_size <= level.waiting",
        (f"{PRIORITIES}test_requests_in_the_batch_that_is_held_back_are_queued",),
    ),
    Fault(
        "a request may lengthen its timeout",
        POLICY,
        "return asked_ns if self.allow_timeout_override and 0 < asked_ns < default_ns else default_ns",
        "return asked_ns if self.allow_timeout_override and asked_ns else default_ns",
        (f"{TIMEOUTS}test_a_request_may_shorten_its_timeout_where_that_is_allowed",),
    ),
    Fault(
        "a request may shorten a timeout that is not to be overridden",
        POLICY,
        "self.allow_timeout_override and 0 < asked_ns",
        "0 < asked_ns",
        (f"{TIMEOUTS}test_a_request_may_shorten_its_timeout_where_that_is_allowed",),
    ),
    Fault(
        "nobody is woken for a queue timeout",
        "runtime/scheduling/scheduler.py",
        "(dispatcher.looks, self._ledger.deadlines, *timeouts)",
        "(dispatcher.looks, self._ledger.deadlines)",
        (f"{TIMEOUTS}test_a_request_that_has_waited_for_its_timeout_is_rejected",),
    ),
    Fault(
        "what has expired is sent when an instance is free just then",
        "runtime/scheduling/scheduler.py",
        "if now_ns >= self._timeouts.next_ns and",
        "if now_ns > self._timeouts.next_ns and",
        (f"{TIMEOUTS}test_an_expired_request_was_accepted_and_has_failed",),
    ),
    Fault(
        "the timer for the first timeout is not set back by a shorter one",
        "runtime/scheduling/timeouts.py",
        "if when_ns < self.next_ns:",
        "if self.next_ns == NEVER_NS:",
        (f"{TIMEOUTS}test_timers_wake_for_the_closest_timeout_whoever_came_first",),
    ),
    Fault(
        "a delayed request is rejected",
        LEVELS,
        "if level.policy.timeout_action is TimeoutAction.REJECT:",
        "if level.policy.timeout_action is TimeoutAction.DELAY:",
        (f"{TIMEOUTS}test_a_delayed_request_goes_behind_all_that_have_not_expired",),
    ),
    Fault(
        "a delayed request keeps its place",
        LEVELS,
        "return (level.in_time if level.in_time.waiting else level.delayed).take()",
        "return (level.delayed if level.delayed.waiting else level.in_time).take()",
        (f"{TIMEOUTS}test_a_delayed_request_goes_behind_all_that_have_not_expired",),
    ),
    Fault(
        "a request that was delayed is drawn twice",
        "runtime/scheduling/queues.py",
        "                if request.rank == rank:",
        "                if request.state is QUEUED:",
        (f"{ORDER}test_a_withdrawn_request_does_not_come_back_where_it_stood",),
    ),
    Fault(
        "a request that is sent still expires",
        LEVELS,
        "            self._timeouts.cancel(request.number)",
        "            pass",
        (f"{TIMEOUTS}test_the_timeout_is_over_when_the_request_is_sent",),
    ),
    Fault(
        "what comes back from a dead worker is sent though it has expired",
        "runtime/scheduling/lifecycles.py",
        "others = self._expiry.expire(now_ns, out)",
        "others: list[Model] = []",
        (f"{TIMEOUTS}test_what_comes_back_too_late_has_expired",),
    ),
    Fault(
        "levels are kept for ever",
        LEVELS,
        "if level.queued}\n        self._sweep_at",
        "}\n        self._sweep_at",
        (f"{ORDER}test_a_level_is_made_by_its_first_request_and_forgotten_after_its_last",),
    ),
    Fault(
        "a level that is used again counts from the beginning",
        LEVELS,
        "in_time = Lines(NO_LIMIT, rank_of(number), self._drawn)",
        "in_time = Lines(NO_LIMIT, rank_of(number))",
        (f"{ORDER}test_a_level_that_was_forgotten_does_not_mix_up_what_comes_back",),
    ),
    Fault(
        "the priority of a message is lost",
        "runtime/admission.py",
        "priority=message.priority,",
        "priority=0,",
        ("tests/unit/runtime/test_delivery.py::test_the_status_says_how_many_are_queued_at_each_level",),
    ),
    Fault(
        "the queue timeout of a message is lost",
        "runtime/admission.py",
        "timeout_ns=message.timeout_us * 1000,",
        "timeout_ns=0,",
        ("tests/unit/runtime/test_delivery.py::test_a_queue_timeout_is_counted_as_a_failure_and_a_full_queue_is_not_counted",),
    ),
)
