# SPDX-License-Identifier: Apache-2.0
"""`penstock doctor` on this machine: without a broker, with one, and with what a killed one left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from running import START_S, RunningBroker, add_model


def doctor(runtime_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PENSTOCK_RUNTIME_DIR": str(runtime_dir)}
    command = [sys.executable, "-m", "penstock.clients.cli", "doctor", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=START_S)


def findings(runtime_dir: Path) -> dict[str, dict[str, Any]]:
    done = doctor(runtime_dir, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["what"]: row for row in json.loads(done.stdout)}


def test_a_machine_on_which_the_tests_run_has_no_problem(tmp_path: Path) -> None:
    found = findings(tmp_path / "run")
    assert all(set(row) == {"what", "verdict", "found", "consequence", "fix"} for row in found.values())
    assert "will be made" in found["runtime directory"]["found"]
    assert found["onnxruntime"]["verdict"] == "ok"
    assert "none runs" in found["broker, local link"]["found"]


def test_a_running_broker_is_asked_over_both_links_and_a_killed_one_is_told_from_it(tmp_path: Path) -> None:
    # Given a broker at the default addresses
    add_model(tmp_path / "models", "echo")
    (tmp_path / "run").mkdir(mode=0o700)
    with RunningBroker(tmp_path / "run", tmp_path / "models") as broker:
        found = findings(broker.folder)
        for link in ("local link", "ZeroMQ"):
            assert f"process {broker.pid} answers" in found[f"broker, {link}"]["found"]
        # When it is killed, its sockets stay
        broker.kill()
        found = findings(broker.folder)
        for link in ("local link", "ZeroMQ"):
            assert found[f"broker, {link}"]["verdict"] == "warning"


def test_a_problem_is_the_exit_code(tmp_path: Path) -> None:
    # Given a runtime directory that others may enter
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    done = doctor(tmp_path / "run")
    assert done.returncode == 1
    assert f"chmod 700 {tmp_path / 'run'}" in done.stdout
    assert "1 problem" in done.stdout
