# SPDX-License-Identifier: Apache-2.0
"""`penstock demo`: the figures hold together, and nothing is left behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import START_S, children_of, eventually

DEMO = [sys.executable, "-m", "penstock.clients.cli", "demo"]


def files_left(environment: dict[str, str]) -> list[str]:
    return [str(path) for name in ("TMPDIR", "PENSTOCK_RUNTIME_DIR") for path in Path(environment[name]).rglob("*")]


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "penstock" in name}


def test_every_digit_is_answered_rightly_and_nothing_is_left(surroundings: dict[str, str], tmp_path: Path) -> None:
    before = shared_memory()
    done = subprocess.run(
        [*DEMO, "--json"], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert set(report) == {
        "images", "accuracy", "mismatches", "requests_per_s", "p50_us", "p99_us", "batch_sizes", "copies",
    }  # fmt: skip
    assert report["images"] == 360 and report["mismatches"] == 0
    assert 0.97 < report["accuracy"] < 1
    assert sum(int(rows) * count for rows, count in report["batch_sizes"].items()) == 360
    assert max(map(int, report["batch_sizes"])) > 1, "requests of several processes were batched together"
    assert 0 < report["p50_us"] <= report["p99_us"] and report["requests_per_s"] > 0
    assert all(set(copied) == {"count", "byte_size"} for copied in report["copies"].values())
    assert files_left(surroundings) == []
    assert shared_memory() <= before


def test_the_page_draws_digits_and_says_why_batches_closed(surroundings: dict[str, str]) -> None:
    done = subprocess.run(
        [*DEMO, "--rounds", "2"],
        env={**surroundings, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "720 scans" in done.stdout
    assert "██" in done.stdout and "read as " in done.stdout
    for word in ("accuracy", "requests/s", "closed", "copied", "left behind  no process, no file, nothing in /dev/shm"):
        assert word in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_either(surroundings: dict[str, str], number: signal.Signals) -> None:
    # Given a demo whose broker has been started
    with subprocess.Popen(DEMO, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: bool(children_of(process.pid)), START_S, "the broker was started")
        # When it is interrupted
        process.send_signal(number)
        _, said = process.communicate(timeout=START_S)
    # Then it ends with an error, and without a traceback; processes are looked for by conftest.py
    assert process.returncode == 1
    assert "Traceback" not in said
    assert files_left(surroundings) == []


def test_killed_it_takes_its_processes_along(surroundings: dict[str, str]) -> None:
    with subprocess.Popen(DEMO, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: bool(children_of(process.pid)), START_S, "the broker was started")
        children = children_of(process.pid)
        process.kill()
    eventually(lambda: not any(_runs(pid) for pid in children), START_S, "the broker died with it")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
