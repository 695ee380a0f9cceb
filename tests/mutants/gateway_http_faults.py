# SPDX-License-Identifier: Apache-2.0
"""Faults of inference over HTTP: limits, what clients may say, and what becomes of requests whose clients are gone."""

from __future__ import annotations

from fault import Fault

OVER_HTTP = "runtime/gateway/over_http"
UNIT = "tests/unit/gateway"
CONNECTIONS = "tests/process/test_gateway_http_connections.py::"

FAULTS = (
    Fault(
        "memory that is freed is given back at once",
        "ipc/processes.py",
        "libc.mallopt(M_TRIM_THRESHOLD, byte_size)",
        "libc.mallopt(M_TRIM_THRESHOLD, 0)",
        ("tests/contract/test_processes.py::test_memory_that_is_freed_and_used_again_is_not_mapped_anew",),
    ),
    Fault(
        "a document is remembered with the headers that came along",
        f"{OVER_HTTP}/inference.py",
        "len(body) <= SHORT_BYTES and not forwarded and",
        "len(body) <= SHORT_BYTES and",
        (f"{UNIT}/test_http_remembered.py::test_forwarded_headers_are_not_remembered",),
    ),
    Fault(
        "long documents are remembered too",
        f"{OVER_HTTP}/inference.py",
        "if len(body) <= SHORT_BYTES and not forwarded and",
        "if not forwarded and",
        (f"{UNIT}/test_http_remembered.py::test_what_is_long_or_many_is_not_kept",),
    ),
    Fault(
        "a refusal that quotes bytes that are no text cannot be written",
        f"{OVER_HTTP}/exchange.py",
        'message.encode(errors="replace").decode()',
        "message",
        (f"{CONNECTIONS}test_a_header_that_is_no_text_is_quoted_as_well_as_it_can_be",),
    ),
    Fault(
        "a name that no message carries is sent to the broker",
        "runtime/gateway/ranges.py",
        "    if len(name) > LONGEST_NAME:",
        "    if len(name) < 0:",
        (f"{UNIT}/test_ranges.py::test_a_request_that_no_message_can_carry_is_refused",),
    ),
    Fault(
        "a compressed body may become larger than is allowed",
        f"{OVER_HTTP}/compression.py",
        "    if len(content) > limit:",
        "    if len(content) > limit + 1:",
        (f"{UNIT}/test_http_bodies.py::test_a_body_is_inflated_up_to_the_limit",),
    ),
    Fault(
        "numbers that a datatype has not are wrapped",
        f"{OVER_HTTP}/json_tensors.py",
        "if not limits.min <= number <= limits.max:",
        "if limits.min > limits.max:",
        (f"{UNIT}/test_json_tensors.py::test_a_number_out_of_range_is_refused_and_not_wrapped",),
    ),
    Fault(
        "deep JSON is read however deep it is",
        f"{OVER_HTTP}/json_text.py",
        ".max(initial=0) > MAX_NESTING:",
        ".max(initial=0) < 0:",
        (f"{UNIT}/test_infer_document.py::test_json_may_be_nested_a_hundred_deep",),
    ),
    Fault(
        "outputs that are named are binary because all are asked for so",
        f"{OVER_HTTP}/infer_request.py",
        "settings.binary_data_output and not form",
        "settings.binary_data_output",
        (f"{UNIT}/test_infer_request.py::test_all_outputs_are_binary_where_none_is_named",),
    ),
    Fault(
        "a restricted endpoint opens to whoever has the header, whatever it says",
        f"{OVER_HTTP}/restrictions.py",
        "call.headers.get(self._header) == self._value",
        "self._header in call.headers",
        (f"{UNIT}/test_http_routes.py::test_a_restricted_path_needs_its_header",),
    ),
    Fault(
        "an escaped slash splits a name",
        f"{OVER_HTTP}/routes.py",
        "pattern.fullmatch(call.path)",
        "pattern.fullmatch(unquote(call.path))",
        (f"{UNIT}/test_http_routes.py::test_names_in_a_path_come_without_escapes",),
    ),
    Fault(
        "a request goes on when its client has gone",
        f"{OVER_HTTP}/server.py",
        "handler_cancellation=True",
        "handler_cancellation=False",
        (f"{CONNECTIONS}test_a_client_that_goes_away_cancels_its_request",),
    ),
    Fault(
        "a body in chunks may be as large as it likes",
        f"{OVER_HTTP}/server.py",
        "            if size > limit:",
        "            if size < 0:",
        (f"{CONNECTIONS}test_chunks_that_become_too_large_are_refused_when_they_do",),
    ),
    Fault(
        "what no message can carry is sent, and costs the gateway its connection to the broker",
        "runtime/gateway/ranges.py",
        "    if len(name) > LONGEST_NAME:",
        "    if len(name) > LONGEST_NAME and not name:",
        (
            f"{UNIT}/test_ranges.py::test_a_request_that_no_message_can_carry_is_refused",
            f"{CONNECTIONS}test_a_request_that_the_broker_cannot_be_told_costs_nobody_else_anything",
        ),
    ),
)
