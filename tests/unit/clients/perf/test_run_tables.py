# SPDX-License-Identifier: Apache-2.0
"""A run as it is kept: its rows, its columns as they are spelled everywhere, and its files, which say at any time what is known."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.clients.perf.figures import COLUMNS, Row, document
from penstock.clients.perf.percentiles import Latencies
from penstock.clients.perf.run_file import Machine, Measured, Run, read_run, write_run
from penstock.clients.perf.run_keeping import KeptRun
from penstock.clients.perf.run_tables import columns_of, csv_text, markdown_text, most_within, record_of
from penstock.clients.perf.stages import Stages
from penstock.ipc.errors import CallerError

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
ROW = Row(8, 2, None, 1234.567, 1200.0, 1270.004, STAGES, LATENCIES, 300, 1, 3, True, 55.52, ("a note",))


def run(*rows: Row, **about: Any) -> Run:
    fields: dict[str, Any] = {
        "title": "digits-offline", "began": "2026-01-02T03:04:05Z", "seconds": 12.3, "command": "penstock perf digits",
        "evaluation_mode": "offline", "load": "closed loop",
        "machine": Machine(processor="P", cores=2, memory_gib=3.5, kernel="Linux 6", python="3.12.1", gpus=()),
        "packages": {"numpy": "2.0"},
        "measured": Measured(
            server="penstock 0.1.0", link="local", address="unix:///s", model="digits", version=1, shared_memory="memfd",
            input_data="random", seed=0, processes=1,
        ),
        "configuration": {"Backend": "ONNX Runtime", "Precision": "-"}, "rows": tuple(map(record_of, rows)),
    }  # fmt: skip
    return Run(**(fields | about))


def test_csv_is_the_header_and_a_line_per_row() -> None:
    assert csv_text(run(ROW)).splitlines() == [HEADER, LINE]


def test_stages_of_a_line_add_up_to_its_mean_latency() -> None:
    (line,) = csv.DictReader(csv_text(run(ROW)).splitlines())
    titles = [column.title for column in COLUMNS]
    assert sum(Decimal(line[title]) for title in [*titles[3:10], "Unaccounted"]) == Decimal(line["avg latency (ms)"])


def test_an_open_loop_has_the_rate_that_was_asked_for() -> None:
    found = run(ROW._replace(batch=1, request_rate=12.5), load="poisson")
    assert [column.title for column in columns_of(found)][:3] == ["Batch", "Request Rate", "Concurrency"]
    (line,) = csv.DictReader(csv_text(found).splitlines())
    assert (line["Batch"], line["Request Rate"], line["Concurrency"]) == ("1", "12.50", "2")


def test_fewer_decimals_for_a_screen_and_no_negative_zero() -> None:
    found = run(ROW)
    cells = [column.cell(found.rows[0], 3) for column in columns_of(found)]
    assert cells[:5] == ["8", "2", "1234.57", "0.010", "0.082"]
    assert cells[-1] == "0.000"


def test_the_document_has_every_column_and_how_it_came_about() -> None:
    found = document(ROW)
    assert [found[column.key] for column in COLUMNS[:4]] == [8, 2, 1234.57, 0.01]
    assert (found["unaccounted_ms"], found["avg_latency_ms"]) == (-0.000001, 1.255)
    assert (found["requests"], found["windows"], found["stable"]) == (300, 3, True)


def test_a_record_has_the_figures_of_its_row_under_the_same_names() -> None:
    record = record_of(ROW)
    assert msgspec.structs.asdict(record) | document(ROW) == msgspec.structs.asdict(record)
    assert (record.inferences_per_s_low, record.inferences_per_s_high) == (1200.0, 1270.0)
    assert (record.failed, record.client_cpu_percent, record.notes) == (1, 55.5, ("a note",))


def test_a_search_has_found_the_most_load_of_each_batch_size_that_is_within_the_threshold() -> None:
    # Given rows whose p95 latency is 1.4 ms, and one that is slower
    slow = ROW._replace(concurrency=9, latencies=LATENCIES._replace(p95_ns=1_400_001))
    rows = [slow, ROW._replace(concurrency=5), ROW._replace(concurrency=2), ROW._replace(batch=1, request_rate=12.5)]
    # Then what is found is the largest that is not slower, however the search came by it
    found = most_within(list(map(record_of, rows)), 1.4)
    assert found == [
        "the most load with a p95 latency within 1.4 ms: batch 8, concurrency 5",
        "the most load with a p95 latency within 1.4 ms: batch 1, 12.5 requests/s",
    ]
    # And neither is what was answered in time for want of those that failed
    refused = ROW._replace(concurrency=7, failed=17)
    assert most_within(list(map(record_of, [refused, *rows])), 1.4) == found
    assert most_within([record_of(slow)], 1.4) == ["no load that was measured has a p95 latency within 1.4 ms: batch 8"]


# --- the Markdown page -------------------------------------------------------------------------------------------------------


def test_the_page_has_configuration_results_notes_and_machine() -> None:
    text = markdown_text(run(ROW, notes=("of the run",)))
    lines = text.splitlines()
    assert lines[0] == "# digits-offline"
    assert lines[lines.index("| Parameter Name | Parameter Value |") + 2] == "| Backend | ONNX Runtime |"
    (titles,) = (line for line in lines if line.startswith("| Batch |"))
    assert titles.strip("| ").split(" | ") == HEADER.split(",")
    assert lines[lines.index(titles) + 1].count("---:") == 16
    assert lines[lines.index(titles) + 2].startswith("| 8 | 2 | 1234.57 | 0.010 |")
    assert "| batch 8, concurrency 2 | 1200.00 to 1270.00 | 300 | 1 | 3 | yes | 56 % |" in lines
    assert "- of the run" in lines and "- batch 8, concurrency 2: a note" in lines
    assert "| Processor | P |" in lines and "| numpy | 2.0 |" in lines
    assert "not complete" not in text


def test_the_page_of_a_run_that_ended_early_says_so() -> None:
    assert "The run is not complete" in markdown_text(run(complete=False))


def test_text_of_users_stays_in_its_cell() -> None:
    text = markdown_text(run(configuration={"A|B": "<b>\nbold"}, command="x"))
    assert "| A\\|B | &lt;b> bold |" in text.splitlines()


# --- the files ---------------------------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = run(ROW, notes=("a",))
    write_run(written, tmp_path / "r.json")
    assert read_run(tmp_path / "r.json") == written


def test_what_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"format": "another"}')
    with pytest.raises(CallerError, match=r"r\.json is no measurement of penstock perf"):
        read_run(tmp_path / "r.json")


def test_a_run_that_takes_the_place_of_another_says_which_files_it_replaces(tmp_path: Path) -> None:
    paths = [tmp_path / "r.json", tmp_path / "r.csv"]
    KeptRun(run(ROW), paths[1:]).begin()
    assert KeptRun(run(ROW), paths).begin() == paths[1:]


def test_a_name_that_is_too_long_for_a_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300 + ".json")
    with pytest.raises(OSError, match="name too long") as raised:
        write_run(run(), path)
    assert raised.value.filename == str(path)


def test_files_say_at_any_time_what_is_known(tmp_path: Path) -> None:
    # Given a run that is to be kept in three files
    paths = [tmp_path / f"r{suffix}" for suffix in (".json", ".csv", ".md")]
    kept = KeptRun(run(), paths)
    # When it begins, then they are there without rows, and nothing was before
    assert kept.begin() == []
    kept.check_invariants()
    assert (read_run(paths[0]).rows, read_run(paths[0]).complete) == ((), False)
    assert paths[1].read_text() == HEADER + "\n"
    # When a row is measured, then it is in all of them, and the run is not complete
    kept.add(record_of(ROW), 4.56)
    found = read_run(paths[0])
    assert (found.rows, found.seconds, found.complete) == ((record_of(ROW),), 4.6, False)
    assert paths[1].read_text().splitlines() == [HEADER, LINE]
    assert "| 8 | 2 | 1234.57 |" in paths[2].read_text() and "not complete" in paths[2].read_text()
    # When it ends, then it is
    kept.end()
    assert read_run(paths[0]).complete and "not complete" not in paths[2].read_text()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_run_that_stops_says_why_and_stays_incomplete(tmp_path: Path) -> None:
    kept = KeptRun(run(), [tmp_path / "r.json"])
    kept.add(record_of(ROW), 1.0)
    kept.stop("interrupted")
    found = read_run(tmp_path / "r.json")
    assert (found.complete, found.notes, len(found.rows)) == (False, ("interrupted",), 1)
    assert "not complete" in repr(kept)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a file with a row
    path = tmp_path / "r.csv"
    kept = KeptRun(run(), [path])
    kept.add(record_of(ROW), 1.0)

    # When the disk is full in the middle of the next writing
    def full(self: Path, text: str, encoding: str) -> int:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as failed:
        kept.add(record_of(ROW), 2.0)
    # Then that is said of the file, which has the row, and no other file is left
    assert failed.value.filename == str(path)
    assert path.read_text().splitlines() == [HEADER, LINE]
    assert list(tmp_path.iterdir()) == [path]
