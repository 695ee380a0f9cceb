# SPDX-License-Identifier: Apache-2.0
"""What the tables say: configuration, figures, comparisons, and what is wrong with a run."""

from __future__ import annotations

import pytest
from run_documents import offline, row, run

from penstock.clients.perf.figures import COLUMNS
from penstock.clients.report.attention import warnings_of
from penstock.clients.report.comparison import comparison_tables, difference
from penstock.clients.report.reading import numbered
from penstock.clients.report.tables import (
    CONFIGURATION,
    Table,
    certainty_table,
    circumstances_table,
    configuration_table,
    results_table,
    summary_table,
)

LARGE = {
    "inferences_per_s": 9e9, "inferences_per_s_low": 9e9, "inferences_per_s_high": 9e9, "avg_latency_ms": 9e9,
    "p99_latency_ms": 9e9,
}  # fmt: skip


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.rows]


def test_the_configuration_is_in_the_order_of_the_model_pages_with_a_column_for_each_run() -> None:
    other = run(configuration={"Precision": "FP16", "Torch jit": "none", "Weather": "fine"}, title="other")
    table = configuration_table(numbered([run(), other]))
    assert table.heads == ("Parameter", "1: digits, offline, local link", "2: other")
    names = [line[0].removesuffix(" ≠") for line in texts(table)]
    assert names == [*(name for name in CONFIGURATION if "Graph" not in name), "Weather"]
    assert ["Precision ≠", "FP32", "FP16"] in texts(table)
    assert ["Backend accelerator", "-", "-"] in texts(table)


def test_cuda_graphs_have_a_row_where_a_run_speaks_of_them() -> None:
    table = configuration_table(numbered([run(configuration={"NVIDIA TensorRT Capture CUDA Graph": "True"})]))
    assert ["NVIDIA TensorRT Capture CUDA Graph", "True"] in texts(table)


def test_results_have_the_columns_as_perf_spells_them() -> None:
    table = results_table(run(offline((8,))))
    assert table.heads == tuple(column.title for column in COLUMNS)
    assert texts(table)[0][:3] == ["8", "1", "21,250.33"]
    assert texts(table)[0][-1] == "0.001"


def test_nothing_left_over_is_no_negative_zero() -> None:
    assert texts(results_table(run([row(unaccounted_ms=-1e-6)])))[0][-1] == "0.000"


def test_an_open_loop_says_what_rate_was_asked_for() -> None:
    open_loop = run([row(1, 5, 250.0)], load="poisson")
    table = results_table(open_loop)
    assert table.heads[:3] == ("Batch", "Request Rate", "Concurrency")
    assert texts(table)[0][:3] == ["1", "250", "5"]
    assert texts(summary_table(numbered([open_loop])))[0][3] == "offline, open loop, Poisson arrivals"


def test_rows_that_are_not_stable_failed_or_have_notes_are_signed_in_every_table() -> None:
    bad = run([row(1, stable=False), row(2, failed=7, notes=("the client was the limit",)), row(4)])
    for table in (results_table(bad), certainty_table(bad)):
        assert [line[0].text for line in table.rows] == ["1†", "2‡*", "4"]
        assert [line[0].marking for line in table.rows] == ["unstable", "failed", "number"]
    assert texts(certainty_table(bad))[1][5:] == ["7", "3", "yes", "41.3", "the client was the limit"]


def test_what_a_reader_must_know_is_said_first_whatever_it_is() -> None:
    bad = run([row(1, stable=False, windows=10), row(2, failed=7, notes=("slow disk",))], complete=False, notes=("by hand",))
    assert warnings_of(numbered([bad])) == (
        "Incomplete: it was interrupted or has failed; the 2 rows here were measured before that.",
        "by hand",
        "1 of 2 rows did not become stable (†): batch 1, concurrency 1.",
        "batch 2, concurrency 1: 7 requests failed; they are in no latency.",
        "batch 2, concurrency 1: slow disk",
    )
    assert [text[:7] for text in warnings_of(numbered([run(), bad]))] == ["Run 2: "] * 5
    assert not warnings_of(numbered([run()]))


def test_runs_are_compared_where_they_have_the_same_batch_and_load() -> None:
    slow, fast = (
        row(8, 1, inferences_per_s=speed, inferences_per_s_low=speed - 1, inferences_per_s_high=speed + 1)
        for speed in (100.0, 150.0)
    )
    throughput, mean, tail = comparison_tables(numbered([run([row(1), slow, row(1, 1, 50.0)]), run([fast, row(8, 2)])]))
    assert (throughput.title, mean.title, tail.title) == ("Inferences/Second", "avg latency (ms)", "p99 latency (ms)")
    assert texts(throughput) == [["8", "concurrency 1", "100.00", "150.00", "+50.0 %"]]
    assert throughput.rows[0][-1].marking == "better"


def test_a_row_that_is_not_stable_is_signed_in_a_comparison_too() -> None:
    for table in comparison_tables(numbered([run([row()]), run([row(stable=False, **LARGE)])])):
        assert table.rows[0][3].text.endswith("†")
        assert table.rows[0][4].text.endswith("% ≈")
        assert table.rows[0][4].marking == "unclear"


def test_what_may_be_chance_is_neither_better_nor_worse() -> None:
    low, high = (
        row(inferences_per_s=speed, inferences_per_s_low=speed - 6, inferences_per_s_high=speed + 6) for speed in (100.0, 110.0)
    )
    found = difference(low, high, "inferences_per_s")
    assert found is not None
    assert (str(found), found.marking) == ("+10.0 % ≈", "unclear")


@pytest.mark.parametrize(("key", "marking"), [("inferences_per_s", "better"), ("p99_latency_ms", "worse")])
def test_more_is_better_of_throughput_and_worse_of_latency(key: str, marking: str) -> None:
    found = difference(row(), row(**LARGE), key)
    assert found is not None and found.percent > 0
    assert found.marking == marking


def test_runs_with_nothing_in_common_are_not_compared() -> None:
    assert comparison_tables(numbered([run([row(1, 8)]), run([row(1, 8, 100.0)])])) == ()
    assert comparison_tables(numbered([run()])) == ()


def test_of_nothing_there_are_no_percents() -> None:
    nothing = row(inferences_per_s=0.0, inferences_per_s_low=0.0, inferences_per_s_high=0.0)
    assert difference(nothing, row(), "inferences_per_s") is None


def test_machine_versions_and_date_are_there_to_repeat_it() -> None:
    found = {line[0]: line[1] for line in texts(circumstances_table(numbered([run()])))}
    assert found["Began (UTC)"] == "2026-11-21T19:00:00Z"
    assert (found["Processor"], found["Cores"], found["GPUs"]) == ("AMD EPYC 7B13", "2", "none")
    assert (found["onnxruntime"], found["Shared memory"], found["Seed"]) == ("1.23.2", "memfd", "0")
