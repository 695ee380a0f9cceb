# SPDX-License-Identifier: Apache-2.0
"""Faults of `penstock tritonserver`: flags that mean something else, and ends that say something else, than Triton's."""

from __future__ import annotations

from fault import Fault

PLAN = "clients/cli/tritonserver/plan.py"
PARSING = "clients/cli/tritonserver/parsing.py"
TRACES = "clients/cli/tritonserver/traces.py"
SERVER = "clients/cli/tritonserver/server.py"
DRAINING = "runtime/draining.py"

FLAGS = "tests/unit/cli/test_triton_flags.py::"
COMMAND = "tests/process/test_triton_command.py::"

FAULTS = (
    Fault(
        "a flag that is refused is passed over",
        PLAN,
        "        if spoken.flag.becomes is Becomes.REFUSED:",
        "        if spoken.flag.becomes is Becomes.NOTHING:",
        (f"{FLAGS}test_one_that_is_refused_says_why_unless_it_asks_for_what_is_so_anyway",),
    ),
    Fault(
        "of a number that is too large for Triton the rest counts",
        PARSING,
        "    if abs(int(found[0])) > LARGEST:",
        "    if abs(int(found[0])) < -LARGEST:",
        (f"{FLAGS}test_what_is_wrong_is_said_in_tritons_words",),
    ),
    Fault(
        "metrics are at all addresses although HTTP is not",
        PLAN,
        'given.text(f"{protocol}-address") or given.text("http-address")',
        'given.text(f"{protocol}-address") or "0.0.0.0"',
        (f"{FLAGS}test_metrics_are_where_http_is",),
    ),
    Fault(
        "the cache is on although nobody asked for it",
        PLAN,
        "    byte_size = 0",
        "    byte_size = 1 << 26",
        (f"{FLAGS}test_without_flags_it_is_as_open_as_triton",),
    ),
    Fault(
        "the old flag of a trace setting wins over the new one",
        TRACES,
        "        if flag in given and key in said:",
        "        if flag in given and key not in said:",
        (f"{FLAGS}test_the_new_trace_setting_wins_over_the_old_flag",),
    ),
    Fault(
        "a model that does not load is never the end",
        SERVER,
        "            if self._exit_on_error:",
        "            if self._exit_on_error is None:",
        (f"{COMMAND}test_a_model_that_does_not_load_ends_it",),
    ),
    Fault(
        "what is waited for at the end is never said again",
        DRAINING,
        "            if now_ns >= report_ns:",
        "            if report_ns < 0:",
        (f"{COMMAND}test_a_signal_ends_it_with_tritons_words_and_exit_code",),
    ),
)
