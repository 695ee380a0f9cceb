# SPDX-License-Identifier: Apache-2.0
"""What is to run on a machine with a GPU one day, run on one without: it says so, proves nothing, and is known to work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from nvidia import with_mps_control

BENCH = Path(__file__).resolve().parents[2] / "bench"
REHEARSAL = "REHEARSAL ON A SIMULATION: these numbers say nothing"
LIMIT_S = 280.0
has_no_gpu = pytest.mark.skipif(any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))), reason="this machine has a GPU")


def run(program: str, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / program), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)


@has_no_gpu
def test_without_a_gpu_one_sentence_says_so_and_nothing_is_claimed(tmp_path: Path) -> None:
    done = run("gpu_check.py", "--build", str(tmp_path / "build"))
    assert done.returncode == 2, done.stderr
    (line,) = done.stdout.splitlines()
    why = "lacks cuda-bindings (cuda-python); " if find_spec("cuda") is None else "gpu-check: no GPU: "
    assert line.startswith("gpu-check: ") and why in line and line.endswith("Nothing was proven.")
    # And the bench, asked directly, says the same
    done = run("gpu.py", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 2 and "nothing was measured" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_a_simulation_is_no_gpu(tmp_path: Path, simulated_cuda: Any) -> None:
    done = run("gpu_check.py", "--build", str(tmp_path / "build"), environment=simulated_cuda.environment())
    assert done.returncode == 2, done.stderr
    assert done.stdout == "gpu-check: no GPU: only a simulation, which proves nothing about one. Nothing was proven.\n"
    done = run("gpu.py", environment=simulated_cuda.environment())
    assert done.returncode == 2 and "this is a simulation" in done.stderr
    # And what is rehearsed on one is no result
    done = run("gpu.py", "--rehearse", "--json", str(BENCH / "results" / "x.json"), environment=simulated_cuda.environment())
    assert done.returncode == 2 and "are no results" in done.stderr


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    # Given an interpreter without any packages
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(tmp_path / "bare" / "bin" / "python"), str(BENCH / "gpu_check.py"), "--build", str(tmp_path / "build")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    # Then it says what it lacks, and what to do
    assert done.returncode == 2, done.stderr
    assert "lacks numpy, pyzmq, msgpack, msgspec, posix-ipc" in done.stdout and "WHEELS=FOLDER" in done.stdout


@pytest.mark.timeout(300)
def test_the_bench_runs_from_end_to_end_on_a_simulation(tmp_path: Path, simulated_cuda: Any) -> None:
    # When it is rehearsed, with a program in place of NVIDIA's for MPS
    file = tmp_path / "rehearsal.json"
    environment = simulated_cuda.environment(**with_mps_control(tmp_path / "bin"))
    done = run("gpu.py", "--rehearse", "--json", str(file), environment=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # Then every part has figures, and everything is headed by what they are worth
    figures = json.loads(file.read_text())
    assert figures["rehearsal"] == REHEARSAL
    assert done.stdout.startswith(REHEARSAL)
    assert file.with_suffix(".md").read_text().startswith(f"# {REHEARSAL}")
    assert set(figures["floors"]) == {"chain", "transfers", "gathers", "waits", "pinning", "opening"}
    assert {(row["busy_wait"], row["memory"]) for row in figures["latency"]} == {
        (busy, kind) for busy in ("auto", "always") for kind in ("memfd", "system", "cuda")
    }
    assert [(row["how"], row["instances"], row["mps"]) for row in figures["throughput"]] == [
        ("one process", 1, "off"), ("processes", 2, "off"), ("processes", 3, "off"), ("lanes", 2, "off"), ("lanes", 3, "off"),
        ("one process", 1, "on"), ("processes", 2, "on"), ("processes", 3, "on"),
    ]  # fmt: skip
    assert len(figures["regions"]) == 3 and figures["memory"]
    assert figures["goals"] == []
    assert figures["left_out"] == ["convnet and chain: not on a simulation", "plan: not on a simulation"]
    assert figures["complete"]
    assert [(row["model"], row["batch"]) for row in figures["full_load"]] == [("identity", 1)]
    assert [(row["model"], row["batch"]) for row in figures["overlap"]] == [("echo", 1)]
