# SPDX-License-Identifier: Apache-2.0
"""Faults of the measuring: what is a mean of what, what is left over, who is waited for."""

from __future__ import annotations

from fault import Fault

STAGES = "clients/perf/stages.py"
PERCENTILES = "clients/perf/percentiles.py"
CLOSED_LOOP = "clients/perf/closed_loop.py"
RECORDS = "runtime/records.py"

BY_HAND = "tests/unit/clients/perf/test_perf_stages.py::"
FIGURES = "tests/unit/clients/perf/test_percentiles.py::"
LOOP = "tests/unit/clients/perf/test_closed_loop.py::"
REPORTS = "tests/unit/runtime/test_delivery.py::test_the_way_of_a_report_is_counted_for_each_request_it_answers"

FAULTS = (
    Fault(
        "the way takes less than no time",
        STAGES,
        "twice_ns = max(-ways_ns, 0)",
        "twice_ns = 0",
        (f"{BY_HAND}test_no_way_takes_less_than_no_time",),
    ),
    Fault(
        "the report's way is left out of the network",
        STAGES,
        "client.away_ns - server.in_broker_ns + server.returning_ns",
        "client.away_ns - server.in_broker_ns",
        (f"{BY_HAND}test_stages_by_hand",),
    ),
    Fault(
        "what is left over is computed from the sums and not from what is shown",
        STAGES,
        "latency_ns - sum(means)",
        "mean(client.sending_ns + client.away_ns + client.receiving_ns - sum(sums), count)",
        (f"{BY_HAND}test_they_do_so_where_every_mean_is_rounded",),
    ),
    Fault(
        "requests of others pass for one's own",
        STAGES,
        "if server.succeeded != count:",
        "if server.succeeded < count:",
        (f"{BY_HAND}test_requests_of_others_make_the_stages_unknowable",),
    ),
    Fault(
        "percentiles lie between latencies",
        PERCENTILES,
        'method="inverted_cdf"',
        'method="linear"',
        (f"{FIGURES}test_percentiles_are_recorded_latencies_and_not_between_two",),
    ),
    Fault(
        "only neighbouring windows are compared",
        PERCENTILES,
        "max(values) <= min(values) * (1 + percent / 100)",
        "all(b <= a * (1 + percent / 100) for a, b in zip(values, values[1:], strict=False))",
        (
            f"{FIGURES}test_the_first_and_the_last_of_the_three_are_compared_too",
            f"{FIGURES}test_either_figure_that_differs_by_more_is_enough",
        ),
    ),
    Fault(
        "latency has no say in stability",
        PERCENTILES,
        "for values in zip(*last, strict=True))",
        "for values in list(zip(*last, strict=True))[:1])",
        (f"{FIGURES}test_either_figure_that_differs_by_more_is_enough",),
    ),
    Fault(
        "one request follows several answers",
        CLOSED_LOOP,
        "left -= self._send(min(answered, left))",
        "left -= self._send(min(1, left))",
        (f"{LOOP}test_an_answer_is_followed_by_the_next_request_whichever_it_was",),
    ),
    Fault(
        "a request's answer was read when its result was built",
        CLOSED_LOOP,
        "last = began_ns, sent_ns, read_ns, ended_ns, error",
        "last = began_ns, sent_ns, ended_ns, ended_ns, error",
        (f"{LOOP}test_moments_of_one_request",),
    ),
    Fault(
        "what came back last is sent first",
        CLOSED_LOOP,
        "idle.rotate(-1)",
        "idle.rotate(0)",
        (f"{LOOP}test_each_prepared_request_is_used_again_last",),
    ),
    Fault(
        "a report's way counts once for all that it answers",
        RECORDS,
        "(now_ns - report.ended_ns) * len(totals_ns)",
        "(now_ns - report.ended_ns)",
        (REPORTS,),
    ),
    Fault(
        "who waits for any waits for all",
        "clients/futures.py",
        "return any(entry.answered for entry in self._entries)",
        "return all(entry.answered for entry in self._entries)",
        ("tests/contract/test_client.py::test_one_waits_for_any_of_several_and_learns_when_it_was_read[local]",),
    ),
)
