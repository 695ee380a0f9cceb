# SPDX-License-Identifier: Apache-2.0
"""Gateways at their beginning and at their end: ports that are taken, a broker that is told to stop, one that is started again."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from gateways import RunningGateway
from running import Barrier, RunningBroker, add_model, eventually, resident_bytes
from supervised_gateways import HOPELESS_S, call, gateway_pids, in_flight, post, served
from tritonclient.utils import InferenceServerException

IDLE = 1000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client of HTTP/2 begins (RFC 9113, 3.4): with empty settings."""


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """This process may have so many, and what it starts begins with that limit."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def refused(repository: Path, folder: Path, *options: str) -> str:
    """What `penstock serve` says that ends with status 2."""
    address = f"unix://{folder}/other.sock"
    command = [sys.executable, "-m", "penstock.clients.cli", "serve", str(repository), "--address", address, *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HOPELESS_S, check=False)
    assert ended.returncode == 2, ended
    assert not ended.stdout
    return ended.stderr


@contextmanager
def listening(**options: Any) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), **options) as sock:
        yield str(sock.getsockname()[1])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_port_that_is_taken_is_named_with_its_option_before_anything_is_started(
    tmp_path: Path, repository: Path, protocol: str
) -> None:
    add_model(repository, "echo")
    for shares in (False, True):  # with SO_REUSEPORT it would be bound beside the other, and get some of its connections
        with listening(reuse_port=shares) as port:
            said = refused(repository, tmp_path, f"--{protocol}-port", port)
            assert f"127.0.0.1:{port} (--{protocol}-host, --{protocol}-port): address already in use" in said
            assert "is READY" not in said


def test_another_brokers_ports_are_taken_even_while_its_gateway_is_away(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    with served(tmp_path, repository) as (broker, client):
        (pid,) = gateway_pids(client)
        os.kill(pid, signal.SIGSTOP)  # it is there, and answers nobody
        try:
            for protocol in ("http", "grpc"):
                _, _, port = broker.said[protocol].rpartition(":")
                assert "address already in use" in refused(repository, tmp_path, f"--{protocol}-port", port)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_gateways_need_the_local_socket(tmp_path: Path, repository: Path) -> None:
    command = ["serve", str(repository), "--address", f"ipc://{tmp_path}/only.zmq", "--http-port", "0"]
    ended = subprocess.run(
        [sys.executable, "-m", "penstock.clients.cli", *command],
        capture_output=True,
        text=True,
        timeout=HOPELESS_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "add --address unix:///PATH" in ended.stderr


def test_told_to_stop_under_load_what_was_accepted_is_answered(tmp_path: Path, repository: Path) -> None:
    # Given requests in flight over both protocols, and connections that are idle: one that says nothing, one that is kept, a stream
    with Barrier(tmp_path / "barrier.sock") as barrier, ExitStack() as stack:
        add_model(repository, "held", mode="barrier", barrier_path=str(barrier.path))
        broker, client = stack.enter_context(served(tmp_path, repository, "--gateway-processes", "2"))
        host, _, port = broker.said["http"].rpartition(":")
        silent = stack.enter_context(socket.create_connection((host, int(port))))
        kept = post(broker.said["http"], "nobody")
        stack.callback(kept.close)
        assert kept.getresponse().read()
        posts = [post(broker.said["http"], "held") for _ in range(6)]
        calls = [call(broker.said["grpc"], "held", stack) for _ in range(6)]
        eventually(lambda: sum(in_flight(client)) == 12, HOPELESS_S, "all are in flight")
        assert broker.process is not None
        # When the broker is told to stop
        broker.process.terminate()
        eventually(lambda: client.status()["stopping"], HOPELESS_S, "it is stopping")
        # Then nobody else is let in, and who is in is told
        eventually(lambda: _is_refused(host, int(port)), HOPELESS_S, "new connections are refused")
        kept.request("GET", "/v2/health/ready")
        answer = kept.getresponse()
        assert (answer.status, b"Server exiting" in answer.read()) == (503, True)
        # And when the model has done its work, all are answered, and all leave by themselves
        barrier.open()
        for connection in posts:
            assert connection.getresponse().status == 200
            connection.close()
        for future in calls:
            assert future.exception(HOPELESS_S) is None
        assert silent.recv(1) == b""
        assert broker.close() == 0
        log = broker.log()
        assert log.count("exited with status 0") == 3, log  # two gateways and a worker
        assert "did not exit" not in log and "leaves with" not in log


def _is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_told_twice_nobody_is_waited_for(tmp_path: Path, repository: Path) -> None:
    with Barrier(tmp_path / "barrier.sock") as barrier, ExitStack() as stack:
        add_model(repository, "held", mode="barrier", barrier_path=str(barrier.path))
        broker, client = stack.enter_context(served(tmp_path, repository, "--drain-s", "3600"))
        connection = post(broker.said["http"], "held")
        future = call(broker.said["grpc"], "held", stack)
        eventually(lambda: sum(in_flight(client)) == 2, HOPELESS_S, "both are in flight")
        assert broker.process is not None
        broker.process.terminate()
        eventually(lambda: client.status()["stopping"], HOPELESS_S, "it is stopping")
        broker.process.terminate()
        with pytest.raises(ConnectionError):
            connection.getresponse()
        connection.close()
        assert future.exception(HOPELESS_S) is not None
        assert broker.close() == 0


def test_a_thousand_idle_connections_of_each_protocol_cost_little_and_are_given_back(tmp_path: Path, repository: Path) -> None:
    # Given a broker that was started with too low a limit of descriptors
    add_model(repository, "echo")
    with ExitStack() as stack:
        with descriptors(IDLE):
            broker, client = stack.enter_context(served(tmp_path, repository))
        stack.enter_context(descriptors(3 * IDLE))
        (pid,) = gateway_pids(client)
        check_served(broker)
        before, held = resident_bytes(pid), _descriptors(pid)
        peaks = []
        for _ in range(3):
            # When there are a thousand connections that say nothing, or no more than they must
            with ExitStack() as idle:
                for protocol, words in (("http", b""), ("grpc", PREFACE)):
                    host, _, port = broker.said[protocol].rpartition(":")
                    for _ in range(IDLE):
                        idle.enter_context(socket.create_connection((host, int(port)), HOPELESS_S)).sendall(words)
                eventually(lambda: _descriptors(pid) > 2 * IDLE, HOPELESS_S, "all are accepted")
                # Then others are served
                check_served(broker)
                peaks.append(resident_bytes(pid))
            # And afterwards nothing of them is left
            eventually(lambda: _descriptors(pid) <= held + 4, HOPELESS_S, "all are closed")
            check_served(broker)
        # And they have cost no more than 32 KiB each, which the next had again
        assert max(peaks) < before + 2 * IDLE * 32 * 1024, (before, peaks)


def check_served(broker: RunningBroker) -> None:
    """A new client of each protocol is served."""
    for protocol, library in (("http", over_http), ("grpc", over_grpc)):
        given = library.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(np.zeros((1, 2), np.float32))
        with library.InferenceServerClient(broker.said[protocol]) as triton:
            assert triton.infer("echo", [given]).as_numpy("y").shape == (1, 2)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_what_a_gateway_is_told_is_for_its_user_alone(tmp_path: Path, repository: Path) -> None:
    secret = "model-config:key=kept-secret"
    with served(tmp_path, repository, "--http-restricted-api", secret) as (broker, client):
        (pid,) = gateway_pids(client)
        assert "kept-secret" not in Path(f"/proc/{pid}/cmdline").read_text()
        connection = http.client.HTTPConnection(broker.said["http"], timeout=HOPELESS_S)
        connection.request("GET", "/v2/models/echo/config")
        assert connection.getresponse().status == 403  # it knows it all the same
        connection.close()


def test_a_broker_without_standard_error_has_gateways_too(tmp_path: Path, repository: Path) -> None:
    command = [
        sys.executable, "-m", "penstock.clients.cli", "serve", str(repository), "--http-port", "0", "--json",
        "--address", f"unix://{tmp_path}/quiet.sock",
    ]  # fmt: skip
    quiet = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with subprocess.Popen(quiet, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        said = broker.stdout.readline()
        broker.terminate()
    assert json.loads(said)["http"]
    assert broker.returncode == 0


def test_one_started_by_hand_serves_ipv6(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    there = ("--http-host", "::1", "--grpc-host", "::1")
    with RunningBroker(tmp_path, repository) as broker, RunningGateway(tmp_path, broker.addresses["local"], *there) as gateway:
        for place in (gateway.http, gateway.grpc):
            assert place.startswith("[::1]:")
            socket.create_connection(("::1", int(place.rpartition(":")[2]))).close()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_one_started_by_hand_survives_a_restart_of_the_broker(tmp_path: Path, repository: Path, protocol: str) -> None:
    add_model(repository, "echo")
    library: Any = {"http": over_http, "grpc": over_grpc}[protocol]
    given = library.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2), np.float32))
    with ExitStack() as stack:
        broker = stack.enter_context(RunningBroker(tmp_path, repository))
        gateway = stack.enter_context(RunningGateway(tmp_path, broker.addresses["local"]))
        triton = stack.enter_context(library.InferenceServerClient(getattr(gateway, protocol)))
        assert triton.infer("echo", [given]).as_numpy("y").shape == (1, 2)
        # When its broker is killed, it answers that it has none
        broker.kill()
        with pytest.raises(InferenceServerException) as raised:
            triton.infer("echo", [given])
        assert raised.value.status() in ("503", "StatusCode.UNAVAILABLE")
        # And when there is one again, it serves, and has said so
        broker.start()
        assert triton.infer("echo", [given]).as_numpy("y").shape == (1, 2)
        assert triton.is_server_ready()
