# SPDX-License-Identifier: Apache-2.0
"""Gateways that the broker starts: their deaths, under load and idle, alone and one of two; what clients see of it, and what not."""

from __future__ import annotations

import http.client
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tritonclient.http as over_http
from gateways import key_of
from running import Barrier, Program, RunningBroker, add_model, eventually, is_alive, resident_bytes
from supervised_gateways import BOTH, HOPELESS_S, call, gateway_pids, in_flight, post, served
from tritonclient.utils import shared_memory

from penstock.clients import Client


def kill(client: Client, number: int = 0) -> int:
    """SIGKILL to a gateway; its pid."""
    pid = gateway_pids(client)[number]
    os.kill(pid, signal.SIGKILL)
    return pid


def replaced(client: Client, pid: int, number: int = 0) -> None:
    """Waits until another process serves in place of that one."""
    eventually(lambda: gateway_pids(client)[number] not in (0, pid), HOPELESS_S, f"gateway {number} serves again")


def test_killed_under_load_every_request_has_an_outcome_and_regions_are_still_there(tmp_path: Path, repository: Path) -> None:
    # Given a region that a client has registered, and clients of both protocols that send without a pause
    add_model(repository, "echo")
    with served(tmp_path, repository) as (broker, client), ExitStack() as stack:
        region = shared_memory.create_shared_memory_region("values", key_of("values"), 16)
        stack.callback(shared_memory.destroy_shared_memory_region, region)
        shared_memory.set_shared_memory_region(region, [np.array([[5, 6]], np.float32)])
        triton = stack.enter_context(over_http.InferenceServerClient(broker.said["http"]))
        triton.register_system_shared_memory("values", key_of("values"), 16)
        protocols = ("http", "grpc", "http", "grpc")
        loads = [stack.enter_context(Program("triton_load", each, broker.said[each], "echo")) for each in protocols]
        for load in loads:
            load.say()
        memory, held = resident_bytes(broker.pid), len(os.listdir(f"/proc/{broker.pid}/fd"))
        # When the gateway is killed three times
        for _ in range(3):
            pid = kill(client)
            replaced(client, pid)
            for load in loads:  # each goes on
                load.tell("count")
                before = load.say()["answered"]
                eventually(lambda load=load, before=before: counted(load) > before, HOPELESS_S, "it is answered again")
        for load in loads:
            load.tell("stop")
        # Then every request had an outcome, and none a wrong one
        for load, protocol in zip(loads, protocols, strict=True):
            said = load.say()
            assert not said["wrong"], said
            if protocol == "http":  # whose connections wait: only what was in flight is lost
                assert sum(said["failed"].values()) <= 3 and "late" not in said["failed"], said
            else:
                assert all("StatusCode.UNAVAILABLE" in how for how in said["failed"]), said
        # And the region is listed, and used
        with over_http.InferenceServerClient(broker.said["http"]) as other:
            (row,) = other.get_system_shared_memory_status()
            assert row["name"] == "values"
            given = over_http.InferInput("x", [1, 2], "FP32")
            given.set_shared_memory("values", 8)
            assert other.infer("echo", [given]).as_numpy("y").tolist() == [[5, 6]]
            other.unregister_system_shared_memory("values")
        # And nothing of the three is left in the broker
        status = client.status()
        assert status["gateways"][0]["restarts"] == 3
        eventually(lambda: in_flight(client) == [0], HOPELESS_S, "nothing is in flight")
        assert status["regions"] <= 1 + 8, status  # the gateway's own, for inline tensors
        assert resident_bytes(broker.pid) < memory + 16_000_000
        assert len(os.listdir(f"/proc/{broker.pid}/fd")) <= held + 4


def counted(load: Program) -> int:
    load.tell("count")
    return int(load.say()["answered"])


def test_what_is_sent_while_a_gateway_is_started_again_waits_however_often_it_dies(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    with served(tmp_path, repository) as (broker, client):
        # When the idle gateway is killed, over and over again
        for death in range(6):
            pid = kill(client)
            # Then a request that is sent at once is not refused
            connection = post(broker.said["http"], "echo")
            assert connection.getresponse().status == 200, death
            connection.close()
            replaced(client, pid)
        # And status says how it died, and local clients never notice
        (row,) = client.status()["gateways"]
        assert (row["restarts"], row["reason"].startswith("died (signal 9")) == (6, True)
        assert client.infer("echo", {"x": np.zeros((1, 2), np.float32)}).outputs["y"].shape == (1, 2)


def test_two_serve_and_the_death_of_one_is_none_of_the_others(tmp_path: Path, repository: Path) -> None:
    with Barrier(tmp_path / "barrier.sock") as barrier, ExitStack() as stack:
        add_model(repository, "held", mode="barrier", max_batch_size=64, barrier_path=str(barrier.path))
        broker, client = stack.enter_context(served(tmp_path, repository, "--gateway-processes", "2"))
        # Given requests in flight on many connections, of both protocols
        posts = [post(broker.said["http"], "held") for _ in range(24)]
        calls = [call(broker.said["grpc"], "held", stack) for _ in range(24)]
        eventually(lambda: sum(in_flight(client)) == 48, HOPELESS_S, "all are in flight")
        first, second = in_flight(client)
        assert first and second
        # When one gateway is killed
        pid = kill(client, 0)
        replaced(client, pid)
        # Then nothing of it is in flight any more, but for the batch that is being executed
        eventually(lambda: in_flight(client) == [0, second], HOPELESS_S, "its requests are gone")
        # And the other's requests are answered
        barrier.open()
        answered = sum(_is_answered(connection) for connection in posts)
        answered += sum(future.exception(HOPELESS_S) is None for future in calls)
        assert answered == second
        eventually(lambda: in_flight(client) == [0, 0], HOPELESS_S, "nothing is in flight")


def _is_answered(connection: http.client.HTTPConnection) -> bool:
    try:
        return connection.getresponse().status == 200
    except OSError:  # RemoteDisconnected is one
        return False
    finally:
        connection.close()


def test_a_gateway_dies_with_its_broker(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    broker = RunningBroker(tmp_path, repository, *BOTH)
    with broker:
        with broker.client("local") as client:
            (pid,) = gateway_pids(client)
        broker.kill()
        eventually(lambda: not is_alive(pid), HOPELESS_S, "the gateway is dead")
        broker.start()  # at the same sockets, to be ended in order


def test_one_that_cannot_start_is_given_up_and_the_ready_line_says_so(tmp_path: Path, repository: Path) -> None:
    # Given a package that gateways need, and that cannot be imported
    add_model(repository, "echo")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "uvloop.py").write_text("raise ImportError('libuv is not there', name='uvloop')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "broken")}
    # When a broker starts one
    with RunningBroker(tmp_path, repository, *BOTH, environment=environment) as broker, broker.client("local") as client:
        # Then it serves without, and says why
        (row,) = client.status()["gateways"]
        assert row["state"] == "given up"
        assert "a gateway needs uvloop, which cannot be imported: pip install 'penstock[gateway]'" in row["reason"]
        assert client.infer("echo", {"x": np.zeros((1, 2), np.float32)}).outputs["y"].shape == (1, 2)
