# SPDX-License-Identifier: Apache-2.0
"""Faults of who has to wait: replies for those before them, instances for resources."""

from __future__ import annotations

from fault import Fault

ORDERING = "runtime/scheduling/ordering.py"
RESOURCES = "runtime/scheduling/resources.py"
LIMITS = "runtime/scheduling/limits.py"
WITHHELD = "runtime/withheld.py"

ORDER = "tests/unit/scheduling/test_ordering.py::"
TURN = "tests/unit/scheduling/test_resources.py::"
KEPT = "tests/unit/runtime/test_withheld.py::"

FAULTS = (
    Fault(
        "a reply does not wait for a request that is still queued",
        ORDERING,
        "is not QUEUED and state is not SENT:",
        "is not SENT:",
        (f"{ORDER}test_a_request_that_comes_back_from_a_crash_keeps_its_place",),
    ),
    Fault(
        "a request that ended early is waited for",
        "runtime/scheduling/dispatcher.py",
        "            model.ordering.deliver(self._ledger, out)",
        "            model.ordering.deliver(self._ledger, out) if model.instances.open else None",
        (f"{ORDER}test_a_cancelled_request_gives_up_its_place_though_a_worker_has_its_memory",),
    ),
    Fault(
        "a reply that is withheld cannot be cancelled",
        "runtime/scheduling/outcomes.py",
        "elif request.state is WITHHELD:",
        "elif request.state is WITHHELD and message.startswith('the session'):",
        (f"{ORDER}test_a_cancelled_request_that_is_withheld_ends_at_once_with_its_memory",),
    ),
    Fault(
        "places pile up behind a slow request",
        ORDERING,
        "if len(places) >= self._sweep_at:",
        "if not places:",
        (f"{ORDER}test_places_that_nobody_needs_do_not_pile_up_behind_a_slow_request",),
    ),
    Fault(
        "what is kept for a reply is kept for ever",
        WITHHELD,
        "                os.close(fd)",
        "                assert fd",
        (f"{KEPT}test_a_reply_leaves_when_its_turn_has_come_with_its_own_memory",),
    ),
    Fault(
        "a cancelled reply leaves its report behind",
        "runtime/delivery.py",
        "        self._withheld.drop(request)\n        message =",
        "        assert request\n        message =",
        (f"{KEPT}test_what_is_kept_for_a_withheld_reply_goes_with_it",),
    ),
    Fault(
        "there is one more of each resource",
        RESOURCES,
        "stock.used + amount > stock.limit",
        "stock.used + amount > stock.limit + 1",
        (f"{TURN}test_two_models_that_need_the_same_never_run_at_once",),
    ),
    Fault(
        "who waits is overtaken",
        RESOURCES,
        "or (stock.waiting and stock.waiting[0] < rank)",
        "or (stock.waiting and stock.waiting[0] == rank)",
        (f"{TURN}test_who_needs_much_is_not_overtaken_by_those_who_need_little",),
    ),
    Fault(
        "priorities make no difference",
        RESOURCES,
        "return self.executions * self.needs.priority",
        "return self.executions",
        (f"{TURN}test_turns_are_taken_by_executions_times_priority",),
    ),
    Fault(
        "nobody is told that a resource is free again",
        RESOURCES,
        "        claim.holds = False\n        self.freed = True",
        "        claim.holds = False\n        self.freed = self.freed",
        (f"{TURN}test_two_models_that_need_the_same_never_run_at_once",),
    ),
    Fault(
        "a model that wants nothing any more stays in the line",
        RESOURCES,
        "if not all(claim.waits for claim in recalled):",
        "if not any(claim.waits for claim in recalled) and not recalled:",
        (f"{TURN}test_who_no_longer_wants_anything_does_not_hold_up_others",),
    ),
    Fault(
        "an instance that comes later begins at nothing",
        RESOURCES,
        "claim.executions = min(levels, default=0) // needs.priority",
        "claim.executions = 0",
        (f"{TURN}test_an_instance_that_comes_later_does_not_shut_the_others_out",),
    ),
    Fault(
        "a batch that waits for a resource is formed once and for all",
        "runtime/scheduling/forming.py",
        "            self._start_over()  # to be",
        "            assert self.queued  # to be",
        (f"{TURN}test_a_batch_that_waits_is_formed_anew",),
    ),
    Fault(
        "a limit for another device counts here",
        LIMITS,
        "if pool.device == GLOBAL or limit.device in (EACH, pool.device))",
        "if pool.device == GLOBAL or limit.device != GLOBAL)",
        (f"{TURN}test_the_example_of_tritons_page",),
    ),
)
