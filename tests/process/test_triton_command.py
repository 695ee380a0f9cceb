# SPDX-License-Identifier: Apache-2.0
"""`penstock tritonserver` as scripts written for tritonserver use it: flags, log lines, exit codes, and Triton's clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gateways  # noqa: F401 - tritonclient.http's event loop, made where it is none of what a test leaves behind
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from running import START_S, add_model, eventually
from tritonclient.utils import InferenceServerException

from penstock.clients import Client

SAMPLES = Path(__file__).resolve().parents[2] / "model_repository"
LINE = re.compile(r'^[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \w+\.py:\d+\] ("(?:[^"\\]|\\.)*"|)$')
"""A line of Triton's log: level, date, time, process, place, and the message as a JSON string, or a table after it."""
ANY_PORTS = ("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0")


class RunningTriton:
    """`penstock tritonserver` in a process of its own. A context manager: nothing of it is left behind."""

    def __init__(self, folder: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self._log = folder / "tritonserver.log"
        self._flags = flags
        self._environment = {**os.environ, "PENSTOCK_RUNTIME_DIR": str(folder / "run"), **(environment or {})}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> RunningTriton:
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock.clients.cli", "tritonserver", *self._flags],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def wait_until(self, text: str) -> RunningTriton:
        """Waits until the log says so."""
        eventually(lambda: text in self.log() or self.process.poll() is not None, START_S, f"the log says {text!r}")
        assert text in self.log(), self.log()
        return self

    def place(self, service: str) -> str:
        """HOST:PORT of a service, from the log."""
        found = re.search(rf'"Started {service} at ([\w.:]+)"', self.log())
        assert found, self.log()
        return found[1]

    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """A signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(START_S)


def exit_of(folder: Path, *flags: str) -> tuple[int, str]:
    """The exit status and the output of a server that is to end by itself."""
    with RunningTriton(folder, *flags) as server:
        return server.wait(), server.log()


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """The command line of many a script."""
    flags = (f"--model-repository={SAMPLES}", "--model-control-mode=explicit", "--load-model=simple", "--log-verbose=1")
    with RunningTriton(tmp_path_factory.mktemp("classic"), *flags, *ANY_PORTS) as server:
        server.wait_until("Started Metrics Service")
        yield server
        assert server.stop() == 0, server.log()


def client_of(server: RunningTriton, protocol: str) -> Any:
    if protocol == "http":
        return over_http.InferenceServerClient(server.place("HTTPService"))
    return over_grpc.InferenceServerClient(server.place("GRPCInferenceService"))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_clients_drive_it(classic: RunningTriton, protocol: str) -> None:
    library: Any = over_http if protocol == "http" else over_grpc
    with client_of(classic, protocol) as client:
        assert client.is_server_ready() and client.is_model_ready("simple") and not client.is_model_ready("digits")
        inputs = [library.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for each in inputs:
            each.set_data_from_numpy(np.ones((1, 16), np.int32))
        assert client.infer("simple", inputs).as_numpy("OUTPUT0").tolist() == [[2] * 16]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_whoever_reaches_it_loads_and_unloads(classic: RunningTriton, protocol: str) -> None:
    with client_of(classic, protocol) as client:
        client.load_model("identity_fp32")
        assert client.is_model_ready("identity_fp32")
        client.unload_model("identity_fp32")
        assert not client.is_model_ready("identity_fp32")


def test_its_log_has_the_lines_that_scripts_look_for(classic: RunningTriton) -> None:
    log = classic.log()
    lines = [line for line in log.splitlines() if line and line[0] not in "+|"]
    assert not [line for line in lines if not LINE.match(line)]
    assert "| Model  | Version | Status |\n" in log and "| simple | 1       | READY  |\n" in log
    assert "| model_control_mode       | MODE_EXPLICIT " in log and "| startup_models_0         | simple " in log
    started = [line.rpartition(" at ")[0].partition("Started ")[2] for line in lines if '"Started ' in line]
    assert started == ["GRPCInferenceService", "HTTPService", "Metrics Service"]


def test_metrics_are_served(classic: RunningTriton) -> None:
    host, _, port = classic.place("Metrics Service").rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"nv_inference_request_success" in b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_tritons_words_and_exit_code(tmp_path: Path, number: int) -> None:
    with RunningTriton(tmp_path, "--model-repository", str(SAMPLES), "--model-control-mode=explicit", *ANY_PORTS) as server:
        server.wait_until("Started Metrics Service")
        assert server.stop(number) == 0
    log = server.log().partition(f"Signal ({int(number)}) received.")[2]
    words = (
        "Waiting for in-flight requests to complete.", "Timeout 30: Found 0 model versions that have in-flight inferences",
        "All models are stopped, unloading models", "Found 0 live models and 0 in-flight non-inference requests",
    )  # fmt: skip
    found = [log.find(text) for text in words]
    assert -1 not in found and found == sorted(found), log


def test_the_time_to_exit_is_kept_and_what_is_still_in_flight_is_answered(tmp_path: Path, repository: Path) -> None:
    # Given a request that takes for ever
    add_model(repository, "stuck", mode="hanging")
    flags = (f"--model-repository={repository}", "--exit-timeout-secs=1")
    with (
        RunningTriton(tmp_path, *flags, *ANY_PORTS) as server,
        client_of(server.wait_until("Started Metrics"), "grpc") as client,
    ):
        given = over_grpc.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(np.zeros((1, 2), np.float32))
        told: list[Any] = []
        answered = threading.Event()

        def hear(result: Any, error: InferenceServerException | None) -> None:
            told.append(error)
            answered.set()

        client.async_infer("stuck", [given], hear)
        with Client(f"unix://{tmp_path}/run/broker.sock") as own:
            eventually(lambda: any(each["in_flight"] for each in own.query("status")["sessions"]), START_S, "it is under way")
        # When the server is told to stop
        assert server.stop() == 0
        # Then it has waited for the second that it was given, and no longer; and the client has its outcome
        assert answered.wait(START_S) and isinstance(told[0], InferenceServerException)
    assert "Timeout 1: Found 1 model versions that have in-flight inferences" in server.log()


def test_a_model_that_does_not_load_ends_it(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    add_model(repository, "bad", mode="unheard_of")
    status, log = exit_of(tmp_path, f"--model-repository={repository}", *ANY_PORTS)
    assert status == 1
    assert log.endswith("error: creating server: Internal - failed to load all models\n")
    assert "| bad   | 1       | UNAVAILABLE: " in log and "| echo  | 1       | READY" in log
    assert "Started HTTPService" not in log


@pytest.mark.parametrize("strict", ["true", "false"])
def test_a_model_that_does_not_load_is_no_error_where_that_is_said(tmp_path: Path, repository: Path, strict: str) -> None:
    add_model(repository, "echo")
    add_model(repository, "bad", mode="unheard_of")
    flags = (f"--model-repository={repository}", "--exit-on-error=false", f"--strict-readiness={strict}", *ANY_PORTS)
    with RunningTriton(tmp_path, *flags) as server:
        server.wait_until("Started Metrics Service")
        assert re.search(r'^E.*"Internal: failed to load all models"$', server.log(), re.MULTILINE)
        with client_of(server, "http") as client:
            assert client.is_model_ready("echo") and client.is_server_ready() == (strict == "false")
        assert server.stop() == 0


def test_a_model_that_is_nowhere_ends_it_too(tmp_path: Path, repository: Path) -> None:
    flags = (f"--model-repository={repository}", "--model-control-mode=explicit", "--load-model=nowhere", *ANY_PORTS)
    status, log = exit_of(tmp_path, *flags)
    assert status == 1 and "failed to load all models" in log


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model-repository=/", "--nonsense=1"), "unrecognized option '--nonsense'"),
        (("--model-repository=/", "--http-port=abc"), 'Bad option: "--http-port".\nInvalid option value. Got abc'),
    ],
)
def test_wrong_usage_is_answered_with_usage_on_standard_error(flags: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.clients.cli", "tritonserver", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("Usage: ") and "--model-control-mode" in done.stderr and done.stderr.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "error: creating server: Invalid argument - --model-repository must be specified"),
        (("--model-repository=/no/such",), "error: creating server: Internal - failed to stat file /no/such"),
        (("--model-repository=/", "--model-namespacing=true"), "penstock: --model-namespacing=true is refused: "),
    ],
)
def test_what_cannot_be_served_is_said_and_ends_it(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    status, log = exit_of(tmp_path, *flags, *ANY_PORTS)
    assert status == 1 and said in log


@pytest.mark.parametrize("protocol", ["http", "grpc", "metrics"])
def test_a_port_that_is_taken_ends_it(tmp_path: Path, repository: Path, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = (f"--model-repository={repository}", *ANY_PORTS, f"--{protocol}-port={port}")
        status, log = exit_of(tmp_path, *flags)
    assert status == 1
    assert log.splitlines()[-1].startswith("error: creating server: Unavailable - ")
    assert str(port) in log.splitlines()[-1] and "already in use" in log.splitlines()[-1]


def test_two_of_one_user_run_beside_each_other_and_each_has_its_file_of_lines(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    flags = (f"--model-repository={repository}", "--id=first", f"--log-file={tmp_path / 'lines'}", *ANY_PORTS)
    with RunningTriton(tmp_path, *flags) as first:
        lines = tmp_path / "lines"
        eventually(lambda: lines.exists() and "Started Metrics" in lines.read_text(), START_S, "the first serves")
        second_folder = tmp_path / "second"
        second_folder.mkdir()
        flags = (f"--model-repository={repository}", "--log-format=ISO8601", *ANY_PORTS)
        same = {"PENSTOCK_RUNTIME_DIR": str(tmp_path / "run"), "PENSTOCK_GATEWAY_PROCESSES": "2"}
        with RunningTriton(second_folder, *flags, environment=same) as second:
            second.wait_until("Started Metrics")
            assert re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ I \d+ broker\.py:\d+\] ", second.log())
            assert "gateway 1 serves" in second.log()
            with client_of(second, "http") as client:
                assert client.is_server_ready() and client.get_server_metadata()["name"] == "triton"
            assert second.stop() == 0
        assert first.stop() == 0 and not first.log()
