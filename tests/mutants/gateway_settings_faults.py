# SPDX-License-Identifier: Apache-2.0
"""Faults of Triton's logging and trace extensions: settings that gateways share, log lines, traces."""

from __future__ import annotations

from fault import Fault

ADJUSTMENTS = "runtime/adjustments.py"
SAMPLING = "runtime/sampling.py"
LINES = "ipc/log_lines.py"
TRACING = "runtime/gateway/tracing.py"
TRACES = "runtime/gateway/traces.py"
FILES = "runtime/gateway/trace_files.py"

ADJUSTED = "tests/unit/runtime/test_adjustments.py::"
SAMPLED = "tests/unit/runtime/test_sampling.py::"
WRITTEN = "tests/unit/test_log_lines.py::"
TRACED = "tests/unit/gateway/test_request_traces.py::"
SERVED = "tests/process/test_gateway_settings.py::"

FAULTS = (
    Fault(
        "gateways are not told of what was changed",
        ADJUSTMENTS,
        "            if session.is_gateway:",
        "            if not session.is_gateway:",
        (f"{ADJUSTED}test_a_gateway_is_told_when_it_serves_and_of_every_change",),
    ),
    Fault(
        "any user may change the log of the broker",
        ADJUSTMENTS,
        'require_owner(session, "see and change the settings of this broker\'s gateways")',
        "require_greeting(session)",
        (f"{ADJUSTED}test_only_the_broker_s_own_user_sees_or_changes_them",),
    ),
    Fault(
        "traces may be asked for where there is no file for them",
        SAMPLING,
        "structs.replace(self._start, **{**self._made[ALL], **made}).check()",
        "structs.replace(self._start, **{**self._made[ALL], **made})",
        (f"{SAMPLED}test_what_cannot_be_changes_nothing",),
    ),
    Fault(
        "a model's traces use up everybody's count",
        SAMPLING,
        "        counted = self._owner(model, \"trace_count\")",
        "        counted = ALL",
        (f"{SAMPLED}test_a_model_s_own_count_is_nobody_else_s",),
    ),
    Fault(
        "a file of log_frequency has one trace more",
        SAMPLING,
        "        if traces >= frequency:",
        "        if traces > frequency:",
        (f"{SAMPLED}test_log_frequency_traces_make_a_file_whichever_gateway_claims",),
    ),
    Fault(
        "warnings go when info lines are switched off",
        LINES,
        "self.log_info if level < logging.WARNING else self.log_warning",
        "self.log_info if level < logging.ERROR else self.log_warning",
        (f"{WRITTEN}test_each_class_is_switched_by_itself",),
    ),
    Fault(
        "the first of so many requests is sampled, and not the last",
        TRACING,
        "        return None if passed < settings.trace_rate else Trace(settings, request)",
        "        return None if passed > 1 else Trace(settings, request)",
        (f"{TRACED}test_of_so_many_requests_the_last_is_sampled",),
    ),
    Fault(
        "timestamps are in the order in which they became known",
        TRACES,
        "sorted(self._stamps, key=lambda stamp: stamp[1])",
        "self._stamps",
        (f"{TRACED}test_durations_are_placed_from_when_the_request_was_sent_and_in_order",),
    ),
    Fault(
        "a gateway overwrites what another has written",
        FILES,
        "    size = os.fstat(fd).st_size\n",
        "    size = 0\n",
        (f"{SERVED}test_two_gateways_sample_by_the_rate_and_together_no_more_than_the_count",),
    ),
    Fault(
        "who adds to a trace file takes its end for whole, whatever it is",
        FILES,
        "max(size - len(_END), 0)) == _END:",
        "max(size - len(_END), 0)):",
        ("tests/contract/test_trace_files.py::test_who_is_killed_while_adding_costs_the_others_nothing",),
    ),
)  # fmt: skip
