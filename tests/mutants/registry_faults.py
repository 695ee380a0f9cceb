# SPDX-License-Identifier: Apache-2.0
"""Faults of the broker's books: regions, bindings, sessions, who may do what, restarts."""

from __future__ import annotations

from fault import Fault

REGIONS = "runtime/regions.py"
BINDINGS = "runtime/bindings.py"
PLACES = "runtime/region_checks.py"
ADMISSION = "runtime/admission.py"
RECEPTION = "runtime/reception.py"
REGISTRATIONS = "runtime/registrations.py"
RESTARTS = "runtime/restarts.py"
SESSIONS = "runtime/sessions.py"

BROKER = "tests/unit/runtime/test_core.py::"
REQUESTS = "tests/unit/runtime/test_bindings.py::"
RIGHTS = "tests/unit/runtime/test_sessions.py::"
CRASHES = "tests/unit/runtime/test_restarts.py::"

FAULTS = (
    Fault(
        "a tensor may reach one byte beyond its region",
        PLACES,
        "elif offset + size > region.byte_size or",
        "elif offset + size > region.byte_size + 1 or",
        (f"{REQUESTS}test_an_input_that_does_not_fit_its_model_is_refused_with_names_and_numbers[end beyond the end]",),
    ),
    Fault(
        "an output may overlap what is read",
        PLACES,
        "if output.identity == other.identity and max(",
        "if output is other and max(",
        (f"{REQUESTS}test_an_output_place_that_will_not_do_is_refused_with_names_and_numbers",),
    ),
    Fault(
        "an output may overlap by the same memory's other name",
        PLACES,
        "self.identity = region.identity",
        "self.identity = region.number, 0",
        (f"{REQUESTS}test_an_output_place_that_will_not_do_is_refused_with_names_and_numbers[an input by another name]",),
    ),
    Fault(
        "two outputs may overlap",
        PLACES,
        "for other in read + written[:position]:",
        "for other in read:",
        (f"{REQUESTS}test_an_output_place_that_will_not_do_is_refused_with_names_and_numbers[another output]",),
    ),
    Fault(
        "an output's place may be too small",
        BINDINGS,
        "place.byte_size < needed:",
        "place.byte_size < needed - 1:",
        (f"{REQUESTS}test_an_output_place_that_will_not_do_is_refused_with_names_and_numbers[too small]",),
    ),
    Fault(
        "one row more than the maximum is admitted",
        BINDINGS,
        "not 1 <= rows <= model.spec.max_batch_size:",
        "not 1 <= rows <= model.spec.max_batch_size + 1:",
        (f"{REQUESTS}test_an_input_that_does_not_fit_its_model_is_refused_with_names_and_numbers[too many rows]",),
    ),
    Fault(
        "requests of unequal variable dims may share a batch",
        BINDINGS,
        "if model.fixed_shapes:",
        "if model.fixed_shapes or model.batches:",
        (f"{REQUESTS}test_a_good_request_is_a_placement_in_the_models_order_and_holds_its_region_once",),
    ),
    Fault(
        "another session's region is visible",
        REGIONS,
        "self._named: dict[str, Region] = {}",
        'self._named: dict[str, Region] = globals().setdefault("everybodys", {})',
        (f"{REQUESTS}test_another_sessions_region_is_not_found",),
    ),
    Fault(
        "a region is closed while a request uses it",
        REGIONS,
        "return self._close(region) if region.in_flight == 0 else []",
        "return self._close(region)",
        (f"{BROKER}test_unregistering_frees_the_name_at_once_and_the_memory_with_the_last_release",),
    ),
    Fault(
        "an unregistered region is not closed with its last request",
        REGIONS,
        "if region.closing and region.in_flight == 0:",
        "if region.closing and region.in_flight < 0:",
        (f"{BROKER}test_unregistering_frees_the_name_at_once_and_the_memory_with_the_last_release",),
    ),
    Fault(
        "a worker is not told that a region is gone",
        REGIONS,
        "instance.link.put(UnmapRegion(region.number, report=bool(region.gpu)))",
        "pass",
        (f"{BROKER}test_unregistering_frees_the_name_at_once_and_the_memory_with_the_last_release",),
    ),
    Fault(
        "a region's number is given again",
        REGIONS,
        "self._count += 1",
        "self._count = len(self._regions) + 1",
        (f"{RIGHTS}test_a_region_registered_again_is_another_region_to_workers",),
    ),
    Fault(
        "a session may register regions without bound",
        REGIONS,
        "if len(self._named) >= self.most:",
        "if len(self._named) > self.most:",
        (f"{RIGHTS}test_a_session_may_not_register_more_regions_than_the_limit",),
    ),
    Fault(
        "a checked placement outlives its region",
        REGISTRATIONS,
        "session.bindings.clear()",
        "session.bindings.copy()",
        (f"{RIGHTS}test_a_placement_in_an_unregistered_region_is_checked_again",),
    ),
    Fault(
        "a session remembers placements without bound",
        SESSIONS,
        "if len(self.bindings) >= MAX_BINDINGS:",
        "if len(self.bindings) < 0:",
        (f"{RIGHTS}test_a_session_remembers_a_bounded_number_of_placements",),
    ),
    Fault(
        "one request more than the limit is in flight",
        RECEPTION,
        "if len(session.in_flight) >= self._settings.max_in_flight:",
        "if len(session.in_flight) > self._settings.max_in_flight:",
        (f"{BROKER}test_a_session_may_not_have_more_in_flight_than_it_was_told",),
    ),
    Fault(
        "an id that is in flight may be used again",
        RECEPTION,
        "if message.id in session.in_flight:",
        "if message.id in session.bindings:",
        (f"{RIGHTS}test_an_id_that_is_in_flight_is_refused_without_an_outcome_for_it",),
    ),
    Fault(
        "a broker that is stopping takes requests",
        RECEPTION,
        "if self._core.stopping and not self._core.gateways.has(session):",
        "if not self._core.surveys.has_begun:",
        (f"{RIGHTS}test_a_broker_that_is_stopping_serves_what_it_has_and_takes_no_more",),
    ),
    Fault(
        "any user may attach a worker",
        RECEPTION,
        "or session.peer.uid != os.geteuid():",
        "or session.peer.uid < 0:",
        (f"{RIGHTS}test_a_worker_of_another_user_is_refused",),
    ),
    Fault(
        "any user may stop the broker",
        "runtime/control.py",
        "or session.peer.uid != os.geteuid():",
        "or session.peer.uid < 0:",
        (f"{RIGHTS}test_another_user_may_not_stop_the_broker",),
    ),
    Fault(
        "any user sees everybody's regions",
        "runtime/queries.py",
        "if own != os.geteuid():\n            mine",
        "if own < 0:\n            mine",
        (f"{RIGHTS}test_another_user_sees_its_own_regions_only",),
    ),
    Fault(
        "a client without a known uid may register memory",
        ADMISSION,
        "if session.peer is None:",
        "if session.peer is session:",
        (f"{RIGHTS}test_a_client_whose_uid_is_not_known_may_register_nothing",),
    ),
    Fault(
        "descriptors of a message that cannot be read stay open",
        RECEPTION,
        "for fd in link.take_fds(fds):",
        "for fd in link.take_fds(fds)[1:]:",
        (f"{RIGHTS}test_a_message_that_cannot_be_read_leaves_no_descriptor_behind",),
    ),
    Fault(
        "the descriptor of a region that is refused stays open",
        REGISTRATIONS,
        "for fd in fds:",
        "for fd in fds[1:]:",
        (f"{RIGHTS}test_a_region_that_is_refused_leaves_no_descriptor_behind",),
    ),
    Fault(
        "inline tensors stay when their request is over",
        ADMISSION,
        "region.closing = True",
        "region.closing = False",
        (f"{REQUESTS}test_inline_tensors_are_stored_once_aligned_and_end_with_their_request",),
    ),
    Fault(
        "a deadline is a thousand times as long",
        ADMISSION,
        "message.deadline_us * 1000",
        "message.deadline_us * 1_000_000",
        (f"{BROKER}test_a_deadline_ends_a_running_request_and_memory_is_held_until_the_batch_ends",),
    ),
    Fault(
        "a session that ends keeps its regions",
        RECEPTION,
        'session.regions.take(""):',
        'session.regions.take("?"):',
        (f"{BROKER}test_a_session_that_ends_takes_queued_work_and_memory_with_it",),
    ),
    Fault(
        "a session that ends leaves its requests to the scheduler",
        RECEPTION,
        "self._core.feed(SessionEnded(session.number))",
        "pass",
        (f"{RIGHTS}test_what_a_session_had_queued_is_not_executed_when_it_ends",),
    ),
    Fault(
        "the broker never gives up restarting",
        RESTARTS,
        "if recent >= CRASHES:",
        "if recent > CRASHES:",
        (f"{CRASHES}test_the_fifth_crash_within_a_minute_is_the_last",),
    ),
    Fault(
        "the pause before a restart does not grow",
        RESTARTS,
        "FIRST_DELAY_NS << (recent - 1)",
        "FIRST_DELAY_NS",
        (f"{CRASHES}test_the_pause_before_a_restart_doubles",),
    ),
    Fault(
        "crashes are never forgiven",
        RESTARTS,
        "now_ns - self._crashes[0] > WITHIN_NS:",
        "now_ns - self._crashes[0] < 0:",
        (f"{CRASHES}test_crashes_of_more_than_a_minute_ago_do_not_count",),
    ),
)
