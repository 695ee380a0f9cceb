# SPDX-License-Identifier: Apache-2.0
"""Metrics as a scraper sees them: the text is read by Prometheus' own parser, the figures are worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.ipc.errors import Code
from penstock.ipc.messages import BatchDone, Copied
from penstock.runtime.metrics.exposition import Family, Sample, exposition
from penstock.runtime.metrics.families import BOUNDS_NS, REASONS, Documents, families
from penstock.runtime.records import Record

STATUS: dict[str, Any] = {
    "instances": [{"model": "m", "version": 1, "state": "ready"}, {"model": "m", "version": 1, "state": "loading"}],
    "models": [{"name": "m", "version": "1", "state": "READY"}, {"name": "never", "version": ""}],
    "queued": {"m/1": 3},
    "sessions": [{}, {}],
    "regions": 4,
    "region_bytes": 4096,
    "bad_messages": 5,
}


def scraped(record: Record, tags: dict[str, str] | None = None) -> str:
    """The text for one model, "m/1"."""
    statistics = record.statistics.to_json("m", "1")
    stages = {"name": "m", "version": "1", **record.stages()}
    return exposition(families(Documents(STATUS, [statistics], [stages], {"m/1": tags or {}})))


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value, as Prometheus reads it; its parser puts _total behind the names of counters that have none."""
    return {
        (
            sample.name if f"\n{sample.name}" in text else sample.name.removesuffix("_total"),
            tuple(sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


M = (("model", "m"), ("version", "1"))


def test_triton_s_names_with_its_units_and_labels() -> None:
    # Given a batch of two requests, three rows together: 10 us of input, 20 of infer, 5 of output
    record = Record()
    record.load_ns = 1_500_000_000
    report = BatchDone(1, 0, 10_000, 20_000, 5_000, copies=[Copied("gather", 2, 640)])
    record.executed(3, "full", report, 0)
    record.completed(3, [100_000, 50_999], [40_000, 1_000], report, 0)
    # When it is scraped
    found = values(scraped(record))
    # Then durations are whole microseconds, and each request is credited the whole batch's
    expected = {
        "nv_model_load_duration_secs": 1.5, "nv_inference_request_success": 2, "nv_inference_count": 3, "nv_inference_exec_count": 1,
        "nv_inference_request_duration_us": 150, "nv_inference_queue_duration_us": 41,
        "nv_inference_compute_input_duration_us": 20, "nv_inference_compute_infer_duration_us": 40,
        "nv_inference_compute_output_duration_us": 10, "nv_inference_pending_request_count": 3,
        "nv_cache_num_hits_per_model": 0, "nv_cache_num_misses_per_model": 0,
    }  # fmt: skip
    assert {name: found[(name, M)] for name in expected} == expected
    assert found[("penstock_batches_closed_total", (("closed", "full"), *M))] == 1
    assert found[("penstock_copied_bytes_total", (("kind", "gather"), *M))] == 640
    assert found[("penstock_copied_copies_total", (("kind", "gather"), *M))] == 2
    assert found[("penstock_instances", (("model", "m"), ("state", "loading"), ("version", "1")))] == 1
    assert found[("penstock_model_ready", M)] == 1
    assert (found[("penstock_clients", ())], found[("penstock_bad_messages_total", ())]) == (2, 5)


def test_counters_are_counters_under_triton_s_names() -> None:
    text = scraped(Record())
    assert "# TYPE nv_inference_request_success counter\n" in text
    assert 'nv_inference_request_success{model="m",version="1"} 0\n' in text


@pytest.mark.parametrize(
    ("code", "fault", "reason"),
    [
        (Code.CANCELLED, "caller", "CANCELED"),
        (Code.OVERLOADED, "broker", "REJECTED"),
        (Code.UNAVAILABLE, "model", "REJECTED"),
        (Code.INTERNAL, "model", "BACKEND"),
        (Code.DEADLINE_EXCEEDED, "broker", "OTHER"),
    ],
    ids=lambda value: value,
)
def test_failures_have_triton_s_reasons_which_are_all_there_from_the_start(code: Code, fault: str, reason: str) -> None:
    record = Record()
    assert [values(scraped(record))[("nv_inference_request_failure", failure(each))] for each in REASONS] == [0, 0, 0, 0]
    record.failed(10, code.value, fault)
    assert values(scraped(record))[("nv_inference_request_failure", failure(reason))] == 1


def failure(reason: str) -> tuple[tuple[str, str], ...]:
    return (("model", "m"), ("reason", reason), ("version", "1"))


def test_a_request_refused_on_arrival_is_in_the_metrics_and_not_in_the_statistics() -> None:
    record = Record()
    record.refused(Code.OVERLOADED.value, "broker")
    assert values(scraped(record))[("nv_inference_request_failure", failure("REJECTED"))] == 1
    assert record.statistics.fail_count == 0


def test_histograms_are_cumulative_and_complete() -> None:
    # Given totals of 3 us, 5 us and 1 s, in an execution each
    record = Record()
    report = BatchDone(1, 0, 1, 1, 1)
    for total_ns in (3_000, 5_000, 10**9):
        record.executed(1, "single", report, 0)
        record.completed(1, [total_ns], [0], report, 0)
    found = values(scraped(record))
    stage = ("stage", "total")
    # Then a bucket counts what is below its bound: 4.096 us, 8.192 us, ...
    counts = [found[("penstock_stage_seconds_bucket", tuple(sorted([*M, stage, ("le", f"{b / 1e9:g}")])))] for b in BOUNDS_NS]
    assert counts[:2] == [1, 2]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert found[("penstock_stage_seconds_bucket", tuple(sorted([*M, stage, ("le", "+Inf")])))] == 3
    assert found[("penstock_stage_seconds_count", tuple(sorted([*M, stage])))] == 3
    assert found[("penstock_stage_seconds_sum", tuple(sorted([*M, stage])))] == pytest.approx(1.000008)


def test_metric_tags_are_labels() -> None:
    found = values(scraped(Record(), {"team": 'a "b"\\c\n'}))
    assert found[("nv_inference_count", (("_team", 'a "b"\\c\n'), ("model", "m"), ("version", "1")))] == 0


def test_numbers_are_written_exactly() -> None:
    text = exposition(
        [Family("a", "gauge", "A\nB\\", [Sample({}, 2**60), Sample({"x": "1"}, 0.1)]), Family("b", "gauge", "", [])]
    )
    assert text == '# HELP a A\\nB\\\\\n# TYPE a gauge\na 1152921504606846976\na{x="1"} 0.1\n'
