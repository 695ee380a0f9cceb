# SPDX-License-Identifier: Apache-2.0
"""`penstock perf --link http|grpc`: the table, the notes and the errors for a server that is none of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import START_S, Program

LINKS = ("http", "grpc")
FEW = ("--measurement-request-count", "12", "--max-trials", "3", "--warmup", "3", "--json")


def penstock(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.clients.cli", "perf", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_ADDRESS")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=2 * START_S)


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


@pytest.mark.parametrize(
    ("link", "memory", "more"),
    [("http", "none", ()), ("http", "system", ("--processes", "2")), ("grpc", "none", ("--processes", "2")), ("grpc", "system", ())],
)  # fmt: skip
def test_stages_are_what_the_server_has_counted(link: str, memory: str, more: tuple[str, ...]) -> None:
    # Given a server that counts 1, 2, 3 and 4 us for each request, and that a moment after it has answered
    with Program("kserve/serves_kserve", "--count-late-s", "0.05") as server:
        url = server.say()[link]
        words = ("numbers", "--link", link, "--url", url, "--shared-memory", memory, "--verify")
        # When it is measured, each answer checked
        done = penstock(*words, "--batch-sizes", "2", "--concurrency", "4", *more, *FEW)
        # Then that is what the table has
        (row,) = rows_of(done)
        assert [row[f"{stage}_ms"] for stage in ("queue", "compute_input", "compute_infer", "compute_output")] == [
            0.001, 0.002, 0.003, 0.004,
        ]  # fmt: skip
        assert row["unaccounted_ms"] == pytest.approx(0.005, abs=2e-6), (
            "the server was 15 us at each, and 10 of these are stages"
        )
        assert (row["requests"], row["failed"]) == (36, 0)
        measured = json.loads(done.stdout)["measured"]
        assert (measured["server"], measured["link"], measured["shared_memory"]) == ("triton 2.51.0", link, memory)
        server.tell("regions")
        assert server.say()["regions"] == []


@pytest.mark.parametrize("link", LINKS)
def test_inputs_come_from_a_file(link: str, tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text(json.dumps({"data": [{"x": ["a", "b"]}, {"x": ["c", "d"]}]}))
    with Program("kserve/serves_kserve") as server:
        words = (
            "strings",
            "--link",
            link,
            "--url",
            server.say()[link],
            "--verify",
            "--input-data",
            str(tmp_path / "inputs.json"),
        )
        assert [row["batch"] for row in rows_of(penstock(*words, *FEW))] == [1, 2, 4, 8]
        # And one that does not fit is refused with its place
        done = penstock("numbers", *words[1:], *FEW)
        assert done.returncode == 1
        assert "entry 0, input 'x': expected 4 values for dims [4], found 2" in " ".join(done.stderr.split())


@pytest.mark.parametrize("link", LINKS)
def test_what_the_server_does_not_tell_is_a_note_of_the_run(link: str) -> None:
    with Program("kserve/serves_kserve", "--no-statistics") as server:
        done = penstock("numbers", "--link", link, "--url", server.say()[link], "--batch-sizes", "1", *FEW)
    (row,) = rows_of(done)
    (note,) = json.loads(done.stdout)["notes"]
    assert "the server has no statistics" in note and note in done.stderr
    assert (row["queue_ms"], row["compute_infer_ms"]) == (0, 0) and row["network_ms"] > 0
    assert abs(row["unaccounted_ms"]) <= 2e-6, "what is left over is rounding"


@pytest.mark.parametrize("link", LINKS)
def test_requests_that_fail_are_counted_and_the_others_measured(link: str) -> None:
    with Program("kserve/serves_kserve", "--fail-nth", "7") as server:
        done = penstock("numbers", "--link", link, "--url", server.say()[link], "--batch-sizes", "1", *FEW)
    (row,) = rows_of(done)
    assert row["failed"] == 1
    assert "requests failed: INTERNAL" in done.stderr


@pytest.mark.parametrize("link", LINKS)
def test_a_server_that_is_not_there_is_2_and_one_that_refuses_1(link: str) -> None:
    done = penstock("numbers", "--link", link, "--url", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "127.0.0.1:1" in done.stderr and "refused" in done.stderr and "Traceback" not in done.stderr
    with Program("kserve/serves_kserve", "--no-client-shm") as server:
        done = penstock("numbers", "--link", link, "--url", server.say()[link], "--shared-memory", "system", *FEW)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--allow-client-shm=true" in done.stderr and "--shared-memory none" in done.stderr
