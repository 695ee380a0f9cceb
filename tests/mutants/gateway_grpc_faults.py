# SPDX-License-Identifier: Apache-2.0
"""Faults of the gateway's core and of inference over gRPC: memory that stays leased, texts, order, cancellation."""

from __future__ import annotations

from fault import Fault

LINK = "runtime/gateway/link.py"
MEMORY = "runtime/gateway/memory.py"
WORDING = "runtime/gateway/wording.py"
REQUESTS = "runtime/gateway/over_grpc/inference.py"
PARAMETERS = "runtime/gateway/over_grpc/parameters.py"
STREAMS = "runtime/gateway/over_grpc/streams.py"

CORE = "tests/contract/test_gateway_core.py::"
ASKED = "tests/unit/gateway/test_grpc_requests.py::"
SERVED = "tests/process/test_gateway_grpc.py::"

FAULTS = (
    Fault(
        "memory of a request is free while a worker may touch it",
        LINK,
        "lease.hold()",
        "lease.hold",
        (f"{CORE}test_what_is_cancelled_while_it_executes_keeps_its_memory_until_no_worker_may_touch_it",),
    ),
    Fault(
        "the gateway's memory has no bound",
        MEMORY,
        "if held + byte_size > self._most_bytes and self.leased:",
        "if held > self._most_bytes and self.leased:",
        (f"{CORE}test_memory_is_bounded_and_one_request_is_always_taken",),
    ),
    Fault(
        "new memory is given back before it is used",
        MEMORY,
        "if not self._waiting:",
        "if True:",
        (f"{CORE}test_memory_beyond_what_is_kept_is_given_back_when_it_is_unused",),
    ),
    Fault(
        "errors of the core do not name the request",
        WORDING,
        "if _OF_THE_CORE.match(error.message) is not None:",
        "if _OF_THE_CORE.match(error.message) is not None and request.id:",
        ("tests/unit/gateway/test_wording.py::test_what_its_core_finds_has_the_requests_id_in_front",),
    ),
    Fault(
        "small integers come as wide as their field",
        REQUESTS,
        ".astype(numpy_dtype(given.datatype)).tobytes()",
        ".tobytes()",
        (f"{ASKED}test_typed_contents_become_what_raw_ones_are",),
    ),
    Fault(
        "a priority may be negative",
        PARAMETERS,
        "if value < 0:",
        "if value < -5:",
        (f"{ASKED}test_parameters_have_their_types",),
    ),
    Fault(
        "an output lies beyond its room",
        "runtime/output_room.py",
        "if size is not None and used + size <= room.byte_size:",
        "if size is not None and used <= room.byte_size:",
        ("tests/unit/runtime/test_output_room.py::test_what_does_not_fit_comes_beside_it",),
    ),
    Fault(
        "a stream goes on after the error that should end it",
        STREAMS,
        "if self._is_strict:",
        "if not self._is_strict:",
        (f"{SERVED}test_a_stream_that_wants_it_ends_with_its_first_error",),
    ),
    Fault(
        "what a stream has in flight outlives its client",
        STREAMS,
        "            task.cancel()",
        "            task.done()",
        (f"{SERVED}test_a_stream_whose_client_goes_away_leaves_nothing",),
    ),
    Fault(
        "an output without a name is room in a shared region",
        "runtime/output_room.py",
        "return not place.name and bool(place.region) and not place.shared",
        "return not place.name and bool(place.region)",
        ("tests/unit/runtime/test_output_room.py::test_it_is_the_sessions_own_memory",),
    ),
    Fault(
        "a message that is too large costs everybody the connection",
        "clients/outbox.py",
        "except TooLargeError as error:",
        "except ZeroDivisionError as error:",
        ("tests/contract/test_async_client.py::test_a_message_that_is_too_large_costs_whoever_sends_it_and_nobody_else",),
    ),
    Fault(
        "a stream holds any number of bytes for a client that takes nothing",
        STREAMS,
        "or self._byte_size >= MOST_BYTES:",
        "or self._byte_size < 0:",
        ("tests/contract/test_gateway_streams.py::test_no_more_is_read_than_may_be_held_for_a_client_that_takes_nothing",),
    ),
)
