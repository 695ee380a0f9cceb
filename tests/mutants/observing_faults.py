# SPDX-License-Identifier: Apache-2.0
"""Faults of what is shown: metrics, traces, timelines, the figures of `penstock top`."""

from __future__ import annotations

from fault import Fault

FAMILIES = "runtime/metrics/families.py"
RECORDS = "runtime/records.py"
TRACING = "runtime/tracing.py"
LANES = "clients/timeline/lanes.py"
TRACE = "clients/timeline/records.py"
RATES = "clients/cli/rates.py"

METRICS = "tests/unit/runtime/metrics/test_metrics.py::"
TRACES = "tests/unit/runtime/test_tracing.py::"
DRAWN = "tests/unit/clients/timeline/test_timeline.py::"
TOP = "tests/unit/cli/test_rates.py::"

FAULTS = (
    Fault(
        "metrics give durations in nanoseconds",
        FAMILIES,
        "int(found) // NS_PER_US if",
        "int(found) if",
        (f"{METRICS}test_triton_s_names_with_its_units_and_labels",),
    ),
    Fault(
        "a histogram's buckets are not cumulative",
        FAMILIES,
        "            below += bucket[2]\n",
        "            below = bucket[2]\n",
        (f"{METRICS}test_histograms_are_cumulative_and_complete",),
    ),
    Fault(
        "a model's own failures are put down to others",
        RECORDS,
        'or ("BACKEND" if fault == ModelError.fault else "OTHER")',
        'or "OTHER"',
        (f"{METRICS}test_failures_have_triton_s_reasons_which_are_all_there_from_the_start",),
    ),
    Fault(
        "a recorder forgets how many requests it dropped",
        TRACING,
        "            self._dropped += count\n",
        "            self._dropped = count\n",
        (f"{TRACES}test_a_recorder_keeps_the_newest_and_counts_what_it_dropped",),
    ),
    Fault(
        "a recording outlives its session",
        TRACING,
        "[recorder for recorder in self.recorders if recorder.session is not session]",
        "list(self.recorders)",
        (f"{TRACES}test_the_end_of_a_session_ends_its_recording",),
    ),
    Fault(
        "requests wait in a timeline until their batch has ended",
        LANES,
        "(batch.started_ns, -len(batch.requests))",
        "(batch.ended_ns, -len(batch.requests))",
        (f"{DRAWN}test_three_run_in_parallel_and_the_fourth_waits_for_the_first_that_is_free",),
    ),
    Fault(
        "a stretch of a trace has what ended before it",
        TRACE,
        "if batch.ended_ns > begin_ns and _first_ns(batch) < end_ns",
        "if _first_ns(batch) < end_ns",
        (f"{DRAWN}test_only_what_overlaps_a_stretch_of_time_is_in_it",),
    ),
    Fault(
        "a model that was loaded again has negative rates",
        RATES,
        "        if _began_anew(now, then):\n",
        "        if now is None:\n",
        (f"{TOP}test_a_model_that_was_loaded_again_counts_from_nothing",),
    ),
    Fault(
        "only executions tell that a model was loaded again",
        RATES,
        "return executed or any(",
        "return executed and any(",
        (f"{TOP}test_a_model_that_is_answered_from_the_cache_was_loaded_again_too",),
    ),
)
