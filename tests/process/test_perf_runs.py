# SPDX-License-Identifier: Apache-2.0
"""Runs of `penstock perf` against a real broker: every kind of load, the files that are kept of it, and what ends it early."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from running import START_S, RunningBroker, add_model, children_of, eventually, is_alive

from penstock.clients.perf.machine import in_words
from penstock.clients.perf.run_file import Run, read_run
from penstock.runtime.repository.private_directories import sweep

PERF = [sys.executable, "-m", "penstock.clients.cli", "perf"]
FEW = ("--measurement-request-count", "12", "--max-trials", "3", "--warmup", "3")
ENDLESS = ("--measurement-request-count", "5", "--max-trials", "1000000", "--stability-percentage", "0")
ONLINE = ("--evaluation-mode", "online")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "echo", batching="dynamic_batching { }", count=2)
    with RunningBroker(folder, folder / "models") as running:
        yield running


def run_of(broker: RunningBroker, folder: Path, *words: str) -> Run:
    """What the run's file says, after it."""
    command = [*PERF, "echo", *words, "--name", "r", "--result-dir", str(folder), "--address", broker.addresses["local"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * START_S)
    assert done.returncode == 0, done.stderr
    return read_run(folder / "r.json")


@contextmanager
def measuring(*words: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The command while it runs, and what it says on standard error; its table goes to FOLDER/table."""
    with (folder / "table").open("w") as table:
        command = [*PERF, *words, "--name", "r", "--result-dir", str(folder)]
        with subprocess.Popen(command, stdout=table, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            yield process, process.stderr


def wait_for(said: IO[str], text: str) -> None:
    assert any(text in line for line in said), f"it never said {text!r}"


def csv_rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "r.csv").read_text().splitlines()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_offline_three_files_say_the_same(broker: RunningBroker, tmp_path: Path) -> None:
    # When a run is kept in a directory that is not there yet, and in a file beside
    folder = tmp_path / "a" / "b"
    words = ("--batch-sizes", "1", "4", "--label", "Precision=FP32", "--label", "Weights=none")
    found = run_of(broker, folder, *words, *FEW, "--result-path", str(tmp_path / "more.csv"))
    # Then its document says what was measured, of what, and that it is complete
    assert found.complete and found.notes == ()
    assert (found.evaluation_mode, found.load, found.title) == ("offline", "closed loop", "r")
    assert found.command.startswith("penstock perf echo --batch-sizes 1 4")
    assert [(row.batch, row.concurrency, row.requests) for row in found.rows] == [(1, 1, 36), (4, 1, 36)]
    assert all(row.inferences_per_s_low <= row.inferences_per_s <= row.inferences_per_s_high for row in found.rows)
    assert found.measured.server.startswith("penstock ") and found.machine.cores == len(os.sched_getaffinity(0))
    # And how the model is served, as the broker says, and as the labels do
    assert found.configuration["Backend"] == "fake"
    assert (found.configuration["Max batch size"], found.configuration["Number of model instances"]) == ("4", "2")
    assert (found.configuration["Device kind"], found.configuration["Hardware"]) == ("cpu", in_words(found.machine))
    assert (found.configuration["Precision"], list(found.configuration)[-1]) == ("FP32", "Weights")
    # And the other files have the same rows, and nothing else is there
    assert [row["Inferences/Second"] for row in csv_rows(folder)] == [f"{row.inferences_per_s:.2f}" for row in found.rows]
    assert (tmp_path / "more.csv").read_text() == (folder / "r.csv").read_text()
    assert "| Weights | none |" in (folder / "r.md").read_text()
    assert names(folder) == ["r.csv", "r.json", "r.md"]


def test_online_requests_have_one_row_each(broker: RunningBroker, tmp_path: Path) -> None:
    found = run_of(broker, tmp_path, *ONLINE, "--concurrency", "8", "16", *FEW)
    assert (found.evaluation_mode, found.load) == ("online", "closed loop")
    assert [(row.batch, row.concurrency) for row in found.rows] == [(1, 8), (1, 16)]


@pytest.mark.parametrize("distribution", ["poisson", "constant"])
def test_online_by_the_clock(broker: RunningBroker, tmp_path: Path, distribution: str) -> None:
    # When requests are sent at a rate, whatever the answers do
    words = ("--request-rate", "400", "--distribution", distribution)
    found = run_of(broker, tmp_path, *ONLINE, *words, *FEW)
    # Then the run says so, and its table has the rate
    assert (found.load, found.rows[0].request_rate) == (distribution, 400.0)
    (row,) = csv_rows(tmp_path)
    assert list(row)[:3] == ["Batch", "Request Rate", "Concurrency"] and row["Request Rate"] == "400.00"


def test_two_client_processes_share_the_load(broker: RunningBroker, tmp_path: Path) -> None:
    found = run_of(broker, tmp_path, *ONLINE, "--concurrency", "8", "--processes", "2", *FEW)
    assert (found.measured.processes, found.rows[0].concurrency) == (2, 8)
    assert found.rows[0].requests == 36


def test_a_search_ends_at_the_most_that_is_within_the_threshold(broker: RunningBroker, tmp_path: Path) -> None:
    """Given a threshold that nothing exceeds; then the largest load is the answer, and nothing between is tried."""
    words = ("--concurrency", "2", "4", "8", "--latency-threshold-ms", "1e6", "--binary-search")
    found = run_of(broker, tmp_path, *ONLINE, *words, *FEW)
    assert [row.concurrency for row in found.rows] == [2, 8]
    assert found.notes == ("the most load with a p95 latency within 1e+06 ms: batch 1, concurrency 8",)


def test_the_document_on_standard_output_is_the_one_in_the_file(broker: RunningBroker, tmp_path: Path) -> None:
    command = [*PERF, "echo", *FEW, "--json", "--result-path", str(tmp_path / "r.json"), "--address", broker.addresses["local"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * START_S)
    assert json.loads(done.stdout) == json.loads((tmp_path / "r.json").read_text())


# --- what ends it early ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_between_rows_it_keeps_them(tmp_path: Path, number: signal.Signals) -> None:
    # Given a long run against a broker of its own, with two rows measured
    add_model(tmp_path / "models", "echo")
    out = tmp_path / "out"
    out.mkdir()
    many = [str(count) for count in range(1, 2000)]
    with measuring("echo", "--serve", str(tmp_path / "models"), *ONLINE, "--concurrency", *many, *FEW, folder=out) as (
        perf,
        said,
    ):
        wait_for(said, "row 3 of 1999")
        # When it is interrupted
        perf.send_signal(number)
        rest = said.read()
        # Then it ends as what was interrupted does, and says so; its broker would be found by the leak check
        assert perf.wait(START_S) == 130
    found = read_run(out / "r.json")
    assert rest.splitlines()[-1] == f"penstock: interrupted after {len(found.rows)} rows" and "Traceback" not in rest
    # And the rows are in the table and in every file, which say that there should have been more
    assert len(found.rows) >= 2 and not found.complete
    assert found.notes == (f"not complete: interrupted after {len(found.rows)} rows",)
    assert len(csv_rows(out)) == len(found.rows)
    assert "The run is not complete" in (out / "r.md").read_text()
    assert f"{found.rows[1].inferences_per_s:.2f}" in (out / "table").read_text()
    assert names(out) == ["r.csv", "r.json", "r.md", "table"]


def test_killed_it_leaves_nothing_that_the_next_broker_does_not_remove(tmp_path: Path) -> None:
    # Given a run of two client processes against a broker of its own
    add_model(tmp_path / "models", "echo")
    words = ("--serve", str(tmp_path / "models"), "--concurrency", "2", "--processes", "2", *ENDLESS)
    with measuring("echo", *words, folder=tmp_path) as (perf, said):
        wait_for(said, "window 1:")
        children = children_of(perf.pid)
        (address,) = {
            word
            for pid in children
            for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if word.startswith("unix://")
        }
        folder = Path(address.removeprefix("unix://")).parent
        assert len(children) == 3 and folder.is_dir()
        # When it is killed
        perf.kill()
        perf.wait()
        # Then its processes end with it
        eventually(lambda: not any(map(is_alive, children)), START_S, "the children end")
    # And the folder of their sockets is removed before the next is made
    sweep()
    assert not folder.exists()


def test_interrupted_within_a_row_it_keeps_the_windows_there_are(broker: RunningBroker, tmp_path: Path) -> None:
    # Given a row that never becomes stable
    words = ("echo", "--batch-sizes", "2", *ENDLESS, "--address", broker.addresses["local"])
    with measuring(*words, folder=tmp_path) as (perf, said):
        wait_for(said, "window 4: ")
        # When it is interrupted
        perf.send_signal(signal.SIGINT)
        assert said.read().endswith("penstock: interrupted after 1 row\n")
        assert perf.wait(START_S) == 130
    # Then the row is what its last three windows say, and does not pass for a stable one
    (row,) = read_run(tmp_path / "r.json").rows
    assert (row.batch, row.requests, row.stable) == (2, 15, False)
    assert any("interrupted" in note for note in row.notes)


def test_interrupted_its_client_processes_end_with_it(broker: RunningBroker, tmp_path: Path) -> None:
    # Given two client processes in the middle of a row
    words = ("echo", *ONLINE, "--concurrency", "8", "--processes", "2", *ENDLESS, "--address", broker.addresses["local"])
    with measuring(*words, folder=tmp_path) as (perf, said):
        wait_for(said, "window 3: ")
        # When the command is interrupted, then it keeps the row, and leaves no process (which the leak check would find)
        perf.send_signal(signal.SIGINT)
        assert said.read().endswith("penstock: interrupted after 1 row\n")
        assert perf.wait(START_S) == 130
    assert read_run(tmp_path / "r.json").rows[0].concurrency == 8


def test_interrupted_before_anything_was_measured(tmp_path: Path) -> None:
    # Given a command that waits for a broker of its own, whose model takes for ever
    add_model(tmp_path / "models", "slow", mode="hanging", at="load")
    out = tmp_path / "out"
    out.mkdir()
    with measuring("slow", "--serve", str(tmp_path / "models"), folder=out) as (perf, said):
        eventually(lambda: bool(children_of(perf.pid)), START_S, "the broker was started")
        perf.send_signal(signal.SIGINT)
        assert said.read() == "penstock: interrupted before anything was measured\n"
        assert perf.wait(START_S) == 130
    assert names(out) == ["table"]


def test_a_broker_that_dies_costs_the_row_under_way(tmp_path: Path) -> None:
    # Given a run with two rows measured
    add_model(tmp_path / "models", "echo")
    out = tmp_path / "out"
    out.mkdir()
    with RunningBroker(tmp_path, tmp_path / "models") as running:
        many = [str(count) for count in range(1, 2000)]
        words = ("echo", *ONLINE, "--concurrency", *many, *FEW, "--address", running.addresses["local"])
        with measuring(*words, folder=out) as (perf, said):
            wait_for(said, "row 3 of 1999")
            # When its broker is killed
            running.kill()
            # Then that is the error
            assert "connection to the broker at " in said.read().splitlines()[-1]
            assert perf.wait(START_S) == 1
    # And the rows are kept, with the reason why there are no more
    found = read_run(out / "r.json")
    assert len(found.rows) >= 2 and not found.complete
    assert len(csv_rows(out)) == len(found.rows)
    assert "connection to the broker at " in found.notes[0]
    assert f"{found.rows[1].inferences_per_s:.2f}" in (out / "table").read_text()


def test_what_cannot_be_written_is_found_before_anything_is_measured(broker: RunningBroker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["echo", "--result-dir", str(tmp_path / "file" / "d"), "--address", broker.addresses["local"]]
    done = subprocess.run([*PERF, *words], capture_output=True, text=True, check=False, timeout=START_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"penstock: cannot write {tmp_path}/file/d: Not a directory\n"


# --- on a terminal -----------------------------------------------------------------------------------------------------------


def test_on_a_terminal_a_picture_is_drawn_and_taken_away(broker: RunningBroker) -> None:
    # Given a terminal as standard error
    ours, theirs = pty.openpty()
    environment: dict[str, Any] = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    command = [*PERF, "echo", "--batch-sizes", "1", "2", *FEW, "--address", broker.addresses["local"]]
    # When a model is measured
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        drawn = read_all(ours)
        assert process.stdout is not None
        table = process.stdout.read()
    os.close(ours)
    # Then the last row was drawn below the one before, with no line left for each window
    assert process.returncode == 0, drawn
    assert "row 2 of 2: batch 2, concurrency 1, window 3: " in drawn
    assert "Inferences/Second" in drawn and "(row 2 of 2" not in drawn
    # And the table is where it belongs
    assert "Unaccounted" in table


def read_all(descriptor: int) -> str:
    """Of a terminal, whose reader is told by an error that nobody writes any more."""
    found = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            return found.decode()
        found += part
