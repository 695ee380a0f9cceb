# SPDX-License-Identifier: Apache-2.0
"""Faults of load generation: from when a latency counts, who shares what, what is sought, how far a mean is trusted."""

from __future__ import annotations

from fault import Fault

OPEN_LOOP = "clients/perf/open_loop.py"
ARRIVALS = "clients/perf/arrivals.py"
SEARCH = "clients/perf/search.py"
REGION_SLOTS = "clients/perf/region_slots.py"

LOOP = "tests/unit/clients/perf/test_open_loop.py::"
SCHEDULES = "tests/unit/clients/perf/test_arrivals.py::"
ROWS = "tests/unit/clients/perf/test_perf_rows.py::"
SEARCHES = "tests/unit/clients/perf/test_perf_search.py::"
INTERVALS = "tests/unit/clients/perf/test_confidence.py::"
OWN = "tests/contract/test_own_target.py::"
REGIONS = "tests/unit/clients/perf/test_region_slots.py::"

FAULTS = (
    Fault(
        "numbers that go into a region are copied twice",
        REGION_SLOTS,
        "np.ascontiguousarray(array).reshape(-1).view(np.uint8)",
        "np.frombuffer(array.tobytes(), np.uint8)",
        (f"{REGIONS}test_numbers_are_copied_into_the_region_and_nowhere_else",),
    ),
    Fault(
        "an open loop's latencies count from when a request was sent",
        OPEN_LOOP,
        "self._flying[number] = due_ns, sent_ns",
        "self._flying[number] = now_ns, sent_ns",
        (f"{LOOP}test_latency_counts_from_the_time_at_which_a_request_was_due",),
    ),
    Fault(
        "an open loop waits for answers before it sends what is due",
        OPEN_LOOP,
        "if self._due and not is_full else None",
        "if self._due and is_full else None",
        (f"{LOOP}test_a_request_is_due_whether_or_not_those_before_it_are_answered",),
    ),
    Fault(
        "a request that failed has a latency",
        "clients/perf/load.py",
        "        if error is None:",
        "        if True:",
        (f"{LOOP}test_what_fails_is_counted_and_belongs_to_no_latency",),
    ),
    Fault(
        "an open loop's window ends with its last answer",
        OPEN_LOOP,
        "max(ended_ns, began_ns + duration_ns)",
        "ended_ns",
        (f"{LOOP}test_requests_are_sent_when_they_are_due",),
    ),
    Fault(
        "shares of a constant rate send together",
        ARRIVALS,
        "np.arange(self.share.number, count, self.share.of)",
        "np.arange(0, count, self.share.of)",
        (f"{SCHEDULES}test_constant_shares_take_turns",),
    ),
    Fault(
        "all shares have one schedule",
        ARRIVALS,
        "(self.seed, window, self.share.number)",
        "(self.seed, window)",
        (f"{SCHEDULES}test_poisson_shares_are_different_and_have_the_rate_together",),
    ),
    Fault(
        "a search goes on below what was within the threshold",
        SEARCH,
        "                low = middle",
        "                high = middle",
        (f"{SEARCHES}test_a_binary_search_halves_what_is_between_the_smallest_and_the_largest",),
    ),
    Fault(
        "more load than exceeded the threshold is measured",
        SEARCH,
        "exceeded[point.batch] = _load(point)",
        "exceeded[point.batch] = float('inf')",
        (f"{SEARCHES}test_without_a_search_each_is_measured_up_to_the_first_that_exceeds",),
    ),
    Fault(
        "the interval of the throughput is that of the normal distribution's one sigma",
        "clients/perf/confidence.py",
        "spread = QUANTILES[len(rates) - 1] * float",
        "spread = 1.0 * float",
        (f"{INTERVALS}test_by_hand",),
    ),
    Fault(
        "the CPU time of idle processes makes up for that of a busy one",
        "clients/perf/load.py",
        "cpu_ns=max(load.cpu_ns for load in loads)",
        "cpu_ns=min(load.cpu_ns for load in loads)",
        (f"{ROWS}test_the_busiest_process_is_the_one_that_is_told_of",),
    ),
    Fault(
        "an interrupted row is lost",
        "clients/perf/measuring.py",
        "                    if windows:",
        "                    if not windows:",
        (f"{ROWS}test_interrupted_in_a_later_window_it_gives_those_that_are_complete",),
    ),
    Fault(
        "a request that failed is sent again while a worker has its memory",
        "clients/perf/targets/own.py",
        "if future.state is State.QUARANTINED:",
        "if future.state is State.ABANDONED:",
        (f"{OWN}test_what_has_failed_is_told_when_its_memory_is_free[local]",),
    ),
    Fault(
        "a load whose requests fail is within any threshold",
        SEARCH,
        "if failed > MAY_EXCEED * (succeeded + failed):",
        "if failed > succeeded + failed:",
        (f"{ROWS}test_a_load_whose_requests_fail_is_not_within_a_threshold",),
    ),
    Fault(
        "what a closed loop misses at the end of a window is not told",
        "clients/perf/notes.py",
        "[-load.most_in_flight :]",
        "[-1:]",
        (f"{ROWS}test_windows_that_are_short_against_the_latency_are_told_of",),
    ),
    Fault(
        "looking up what is to be executed belongs to no stage",
        "workers/batches.py",
        "account = Account(started_ns)",
        "account = Account(monotonic_ns())",
        ("tests/contract/test_backends.py::test_a_batch_has_no_time_beside_its_stages[identity]",),
    ),
    Fault(
        "a lost connection is counted as a request that failed",
        "clients/perf/targets/own.py",
        "elif isinstance(error, PenstockError) and future.state is not State.LOST:",
        "elif isinstance(error, PenstockError):",
        (f"{OWN}test_a_lost_connection_is_no_answer[local]",),
    ),
)
