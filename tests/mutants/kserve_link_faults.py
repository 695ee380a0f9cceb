# SPDX-License-Identifier: Apache-2.0
"""Faults of measuring other servers: what is counted, when an answer is one, what is left behind; and of inputs from files."""

from __future__ import annotations

from fault import Fault

TARGET = "clients/perf/targets/kserve_target.py"
FLIGHTS = "clients/perf/targets/http_flights.py"
GRPC = "clients/perf/targets/kserve_grpc.py"
FILES = "clients/perf/input_files.py"

LINKS = "tests/process/test_perf_targets.py::"
ANSWERS = "tests/unit/clients/perf/targets/test_http_answers.py::"
BYTES = "tests/process/test_http_flights.py::"
INPUTS = "tests/unit/clients/perf/test_input_files.py::"

FAULTS = (
    Fault(
        "what a server counts late is not waited for",
        TARGET,
        "if found.succeeded - self._counted.succeeded >= answered or",
        "if found.succeeded >= answered or",
        (f"{LINKS}test_a_server_that_counts_late_is_asked_again",),
    ),
    Fault(
        "a region stays registered",
        TARGET,
        "held.push(leave)",
        "held.push(lambda *_: False)",
        (f"{LINKS}test_the_region_is_registered_while_it_is_used_and_has_no_name_by_then",),
    ),
    Fault(
        "a region keeps its name while it is used",
        TARGET,
        "region.unlink()",
        "del byte_size",
        (f"{LINKS}test_the_region_is_registered_while_it_is_used_and_has_no_name_by_then",),
    ),
    Fault(
        "a server that is gone is to be told so",
        TARGET,
        "with suppress(PenstockError) if kind else nullcontext():",
        "with nullcontext():",
        (f"{LINKS}test_a_server_that_vanishes_is_named_and_nothing_is_left",),
    ),
    Fault(
        "a connection that the server has closed is used again",
        FLIGHTS,
        "if not connection.closed:",
        "if True:",
        (f"{LINKS}test_whatever_form_http_gives_an_answer",),
    ),
    Fault(
        "answers over gRPC that fail for want of a server are answers",
        GRPC,
        "if any(reply.error is not None and reply.error.code == Code.UNAVAILABLE for reply in replies):",
        "if not replies:",
        (f"{LINKS}test_a_server_that_vanishes_is_named_and_nothing_is_left",),
    ),
    Fault(
        "a region that is in use is left registered",
        TARGET,
        "if time.monotonic() > deadline:",
        "if deadline:",
        (f"{LINKS}test_a_region_that_is_in_use_is_unregistered_later_however_it_ends",),
    ),
    Fault(
        "an interim answer is the answer",
        "clients/perf/targets/http_answers.py",
        "self.complete = self.get_code() >= FINAL",
        "self.complete = True",
        (f"{ANSWERS}test_an_answer_is_complete_with_its_last_byte",),
    ),
    Fault(
        "a second answer is added to the first",
        "clients/perf/targets/http_answers.py",
        "if self.complete:",
        "if not self.headers_complete and self.complete:",
        (f"{ANSWERS}test_what_is_no_answer_is_refused",),
    ),
    Fault(
        "a connection over which not all was sent is used again",
        FLIGHTS,
        "if answer.should_close() or self.state == SENDING:",
        "if answer.should_close():",
        (f"{BYTES}test_a_request_that_is_answered_before_all_of_it_is_sent_is_answered",),
    ),
    Fault(
        "an output that lies in a region came with nothing",
        GRPC,
        "content if content or 0 in output.shape else None)",
        "content)",
        (f"{LINKS}test_every_request_is_answered_with_what_it_sent[numbers-grpc-system]",),
    ),
    Fault(
        "messages sent one after the other share their moments",
        "clients/perf/sending.py",
        "[numbers] if requests.one_message else",
        "[numbers] if requests else",
        (
            "tests/unit/clients/perf/test_closed_loop.py::test_requests_that_are_messages_of_their_own_have_moments_of_their_own",
        ),
    ),
    Fault(
        "an answer of nothing is what every input begins with",
        "clients/perf/verifying.py",
        "or (whole.size and not part.size)",
        "or (whole.size and not whole.size)",
        ("tests/unit/clients/perf/test_verifying.py::test_whatever_else_comes_is_a_wrong_answer",),
    ),
    Fault(
        "every request takes the same rows",
        FILES,
        "places = [(number * batch + row) % len(rows)",
        "places = [row % len(rows)",
        (f"{INPUTS}test_entries_are_used_by_turns_as_many_at_once_as_a_batch_has_rows",),
    ),
    Fault(
        "values that are too many are cut off",
        FILES,
        "if len(flat) != elements(dims):",
        "if len(flat) < elements(dims):",
        (f"{INPUTS}test_what_does_not_fit_is_said_with_its_place",),
    ),
)
