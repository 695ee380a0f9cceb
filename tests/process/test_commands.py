# SPDX-License-Identifier: Apache-2.0
"""The commands as a user runs them: `penstock serve` on the sample models, and everything else against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import START_S, RunningBroker, add_model, children_of, eventually

from penstock.clients.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "model_repository"


def penstock(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [sys.executable, "-m", "penstock.clients.cli", *words]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=START_S)


def said(*words: str) -> Any:
    """What a command prints with --json."""
    done = penstock(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker on the sample models for the commands that only look."""
    with RunningBroker(tmp_path_factory.mktemp("run"), SAMPLES) as running:
        yield running


@pytest.fixture(scope="module")
def at(broker: RunningBroker) -> tuple[str, str]:
    return ("--address", broker.addresses["local"])


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom penstock.clients.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'zmq', 'rich', 'onnxruntime', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_serve_says_in_one_object_when_everything_is_ready(broker: RunningBroker) -> None:
    assert broker.said["pid"] == broker.pid
    assert broker.said["addresses"] == list(broker.addresses.values())
    states = {model["name"]: model["state"] for model in broker.said["models"]}
    assert states == {"digits": "READY", "simple": "READY", "identity_fp32": "READY", "ragged_sum": "READY"}
    assert "INFO penstock.fleet: model digits/1 is READY" in broker.log()


@pytest.mark.parametrize("link", ["local", "zmq"])
def test_status_over_either_link(broker: RunningBroker, link: str) -> None:
    found = said("status", "--address", broker.addresses[link])
    assert found["pid"] == broker.pid
    assert found["ready"] is True
    assert sorted(row["pid"] for row in found["instances"]) == sorted(broker.workers())
    assert "digits/1" in penstock("status", "--address", broker.addresses[link]).stdout


@pytest.mark.parametrize("link", ["local", "zmq"])
def test_top_says_what_each_model_did_in_each_interval(broker: RunningBroker, link: str) -> None:
    address = ("--address", broker.addresses[link])
    done = penstock("top", *address, "--count", "2", "--interval-s", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert all(line["interval_s"] >= 0.1 for line in lines)
    models = {row["model"]: row for row in lines[0]["models"]}
    assert models["digits/1"]["state"] == "READY"
    assert models["digits/1"]["instances"] >= 1
    table = penstock("top", *address, "--count", "1", "--interval-s", "0.1").stdout
    assert "req/s" in table
    assert "identity_fp32/1" in table


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    done = penstock("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_PENSTOCK_COMPLETE" in done.stdout


def completed(words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    done = penstock(_PENSTOCK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_options_and_names_of_models_are_completed(broker: RunningBroker) -> None:
    assert completed("penstock sta") == ["status", "stats"]
    assert completed("penstock serve --max-e") == ["--max-execution-s"]
    assert completed(f"penstock stats --address {broker.addresses['local']} di") == ["digits"]
    assert completed(f"penstock infer --address {broker.folder}/nobody.sock di") == []


def test_every_command_has_a_manual_page() -> None:
    whole = penstock("help").stdout
    assert "\nSYNOPSIS\n    penstock [OPTIONS] COMMAND" in whole
    for command in COMMANDS:
        page = penstock("help", command)
        assert page.returncode == 0, page.stderr
        assert page.stdout.startswith(f"NAME\n    penstock-{command} - ")
        assert all(f"\n{title}\n" in page.stdout for title in ("SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT CODES"))
        assert f"    {command}\n" in whole
    assert "PENSTOCK_DRAIN_S is --drain-s" in penstock("help", "serve").stdout
    assert penstock("help", "nothing").returncode == 2


@pytest.mark.parametrize("link", ["local", "zmq"])
def test_infer_from_files_to_files(broker: RunningBroker, link: str, tmp_path: Path) -> None:
    # Given two inputs in files
    first, second = np.arange(16, dtype=np.int32)[np.newaxis], np.full((1, 16), 3, np.int32)
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "second.npy", second)
    inputs = ["--input", f"INPUT0={tmp_path}/first.npy", "--input", f"INPUT1={tmp_path}/second.npy"]
    # When they are sent to a model that adds and subtracts
    done = penstock("infer", "simple", *inputs, "--output-dir", str(tmp_path / "out"), "--address", broker.addresses[link])
    # Then sum and difference lie in files
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "out" / "OUTPUT0.npy"), first + second)
    assert np.array_equal(np.load(tmp_path / "out" / "OUTPUT1.npy"), first - second)
    # And without a directory they are printed
    document = said("infer", "simple", *inputs, "--output", "OUTPUT0", "--address", broker.addresses[link])
    assert [row["name"] for row in document["outputs"]] == ["OUTPUT0"]
    assert document["outputs"][0]["data"] == (first + second).tolist()
    assert document["explain"]["instance"] == "simple_0_0"


def test_a_wrong_type_is_refused_and_not_converted(at: tuple[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 16), np.int64))
    done = penstock("infer", "simple", "--input", f"INPUT0={tmp_path}/a.npy", "--input", f"INPUT1={tmp_path}/a.npy", *at)
    assert done.returncode == 1
    assert done.stderr.startswith("penstock: INVALID_ARG: model 'simple'")
    assert "INT32" in done.stderr and "INT64" in done.stderr


def test_an_unknown_model_is_an_error_of_the_broker(at: tuple[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1))
    for words in (["infer", "nosuch", "--input", f"a={tmp_path}/a.npy"], ["stats", "nosuch"]):
        done = penstock(*words, *at)
        assert done.returncode == 1
        assert done.stderr.startswith("penstock: NOT_FOUND: Request for unknown model: 'nosuch'")
        assert done.stderr.count("\n") == 1


def test_stats_count_what_was_sent(broker: RunningBroker, at: tuple[str, str]) -> None:
    before = said("stats", "identity_fp32", *at)["model_stats"][0]["inference_count"]
    with broker.client("local") as client:
        client.infer("identity_fp32", {"INPUT0": np.zeros((3, 5), np.float32)})
    found = said("stats", "identity_fp32", *at)
    assert found["model_stats"][0]["inference_count"] == before + 3
    assert found["stages"][0]["histograms_ns"]["queue"]["p50"] > 0
    assert found["stages"][0]["batch_sizes"]["3"] >= 1
    shown = penstock("stats", *at).stdout
    assert all(word in shown for word in ("identity_fp32/1", "compute_infer", "closed"))


def test_regions_of_every_client(broker: RunningBroker, at: tuple[str, str]) -> None:
    # Given a client that holds a slot
    with broker.client("local") as client, client.buffers(client.model("digits"), batch=4):
        # When the regions are listed by another process
        rows = [row for row in said("regions", *at) if row["pid"] == os.getpid()]
        # Then its memory is there, with its owner
        assert rows and rows[0]["kind"] == "memfd" and rows[0]["byte_size"] >= 4 * 64 * 4
        assert f"process {os.getpid()}" in penstock("regions", *at).stdout


def test_a_second_broker_is_refused_and_told_of_the_first(broker: RunningBroker) -> None:
    for address in broker.addresses.values():
        done = penstock("serve", str(SAMPLES), "--address", address, "--log-level", "error")
        assert done.returncode == 2
        assert f"process {broker.pid}" in done.stderr
        assert done.stderr.count("\n") == 1
    assert said("status", "--address", broker.addresses["local"])["ready"] is True


def test_addresses_by_default_lie_in_the_runtime_directory(tmp_path: Path) -> None:
    # Given a broker that was told no address
    add_model(tmp_path / "models", "echo")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "penstock.clients.cli", "serve", str(tmp_path / "models"), "--json"]
    environment = {**os.environ, "PENSTOCK_RUNTIME_DIR": str(folder), "PENSTOCK_LOG_LEVEL": "error"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        ready = json.loads(process.stdout.readline())
        assert ready["addresses"] == [f"unix://{folder}/broker.sock", f"ipc://{folder}/broker.zmq"]
        assert folder.stat().st_mode & 0o777 == 0o700
        # When a command is told none either
        stopped = penstock("stop", "--json", PENSTOCK_RUNTIME_DIR=str(folder))
        # Then it finds the broker; stopping it leaves neither process nor socket, and nothing was logged as an error
        assert json.loads(stopped.stdout) == {"pid": process.pid}
        assert process.wait(START_S) == 0
        assert process.stderr.read() == ""
    assert not [path for path in folder.iterdir() if path.is_socket()]
    assert penstock("status", PENSTOCK_RUNTIME_DIR=str(folder)).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_serve_and_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    add_model(tmp_path / "models", "echo", count=2)
    with RunningBroker(tmp_path, tmp_path / "models") as running:
        workers = running.workers()
        assert len(workers) == 2
        os.kill(running.pid, number)
        assert running.close() == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        assert not [path for path in tmp_path.iterdir() if path.is_socket()]


def test_one_model_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "good")
    add_model(tmp_path / "models", "bad")
    (tmp_path / "models" / "bad" / "config.pbtxt").write_text('name: "bad" backend: "nosuch"')
    with RunningBroker(tmp_path, tmp_path / "models") as running:
        states = {model["name"]: model for model in running.said["models"]}
        assert states["good"]["state"] == "READY"
        assert states["bad"]["state"] == "UNAVAILABLE" and "nosuch" in states["bad"]["reason"]
        found = said("status", "--address", running.addresses["local"])
        assert found["ready"] is False
    # And under --strict the broker does not stay
    strict = penstock("serve", str(tmp_path / "models"), "--strict", "--json", "--address", f"unix://{tmp_path}/strict.sock")
    assert strict.returncode == 3
    assert strict.stdout == ""
    assert strict.stderr.splitlines()[-1].startswith("penstock: --strict: not loaded: bad")


def test_a_worker_attached_by_hand(tmp_path: Path) -> None:
    # Given a broker without workers
    add_model(tmp_path / "models", "echo")
    address = f"unix://{tmp_path}/broker.sock"
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.clients.cli", "broker", str(tmp_path / "models"), "--json", "--address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["models"][0]["state"] == "LOADING"
        assert not children_of(process.pid)
        # When a worker is attached
        worker = subprocess.Popen([sys.executable, "-m", "penstock.clients.cli", "worker", "echo", "--connect", address])
        eventually(lambda: said("status", "--address", address)["ready"], START_S, "the model is ready")
        # Then it answers
        np.save(tmp_path / "x.npy", np.array([[1, 2]], np.float32))
        answer = said("infer", "echo", "--input", f"x={tmp_path}/x.npy", "--address", address)
        assert answer["outputs"][0]["data"] == [[1.0, 2.0]]
        # And it ends with the broker
        assert penstock("stop", "--address", address).returncode == 0
        assert worker.wait(START_S) == 0
        assert process.wait(START_S) == 0


def test_a_worker_for_a_model_that_nobody_knows_says_so(broker: RunningBroker) -> None:
    done = penstock("worker", "nosuch", "--connect", broker.addresses["local"])
    assert done.returncode == 1
    assert "nosuch" in done.stderr and "Traceback" not in done.stderr
