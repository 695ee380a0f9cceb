# SPDX-License-Identifier: Apache-2.0
"""The table: its columns as they are spelled everywhere, and the file that they are written to."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from penstock.clients.perf.figures import COLUMNS, Row, cells, document
from penstock.clients.perf.percentiles import Latencies
from penstock.clients.perf.stages import Stages
from penstock.clients.perf.table_file import table_file

HEADER = (
    "Batch,Concurrency,Inferences/Second,Client Send (ms),Network+Server Send/Recv (ms),Server Queue (ms),"
    "Server Compute Input (ms),Server Compute Infer (ms),Server Compute Output (ms),Client Recv (ms),p50 latency (ms),"
    "p90 latency (ms),p95 latency (ms),p99 latency (ms),avg latency (ms),Unaccounted"
)
LINE = (
    "8,2,1234.57,0.010000,0.082001,0.095000,0.005000,1.040000,0.015000,0.008000,1.200000,1.300000,1.400000,2.500000,"
    "1.255000,-0.000001"
)
STAGES = Stages(10_000, 82_001, 95_000, 5_000, 1_040_000, 15_000, 8_000, -1)
LATENCIES = Latencies(1_200_000, 1_300_000, 1_400_000, 2_500_000, STAGES.latency_ns)
ROW = Row(8, 2, None, 1234.567, 1200.0, 1270.0, STAGES, LATENCIES, 300, 0, 3, True, 55.5)


def test_the_file_is_the_header_and_a_line_per_row(tmp_path: Path) -> None:
    with table_file(tmp_path / "t.csv") as add:
        add(ROW)
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        HEADER,
        LINE,
    ]


def test_stages_of_a_line_add_up_to_its_mean_latency(tmp_path: Path) -> None:
    with table_file(tmp_path / "t.csv") as add:
        add(ROW)
    (line,) = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    titles = [column.title for column in COLUMNS]
    stages = [Decimal(line[title]) for title in [*titles[3:10], "Unaccounted"]]
    assert sum(stages) == Decimal(line["avg latency (ms)"])


def test_what_was_measured_is_in_the_file_when_the_rest_fails(tmp_path: Path) -> None:
    # Given a measurement that is interrupted after its first row
    def interrupted() -> None:
        with table_file(tmp_path / "t.csv") as add:
            add(ROW)
            assert (tmp_path / "t.csv").read_text().splitlines() == [HEADER, LINE], "at once"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    # Then the row is there
    assert (tmp_path / "t.csv").read_text().splitlines() == [HEADER, LINE]


def test_fewer_decimals_for_a_screen_and_no_negative_zero() -> None:
    assert cells(ROW, 3)[:5] == ["8", "2", "1234.57", "0.010", "0.082"]
    assert cells(ROW, 3)[-1] == "0.000"


def test_the_document_has_every_column_and_how_it_came_about() -> None:
    found = document(ROW)
    assert [found[column.key] for column in COLUMNS[:4]] == [8, 2, 1234.57, 0.01]
    assert (found["unaccounted_ms"], found["avg_latency_ms"]) == (-0.000001, 1.255)
    assert (found["requests"], found["windows"], found["stable"]) == (300, 3, True)
