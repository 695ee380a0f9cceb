# SPDX-License-Identifier: Apache-2.0
"""Brokers that are killed, stopped, or started twice: calls end, workers end, clients recover."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import (
    START_S,
    Barrier,
    RunningBroker,
    add_model,
    answer,
    eventually,
    is_alive,
    rows,
    stopped,
)

from penstock.clients import BrokerError, Client, Code, MemfdRegion, SystemRegion
from penstock.clients.regions import Region

RECOVERED_WITHIN_S = 10.0


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


def make_region(link: str, byte_size: int) -> Region:
    if link == "local":
        return MemfdRegion("mine", byte_size)
    return SystemRegion.create("mine", f"penstock-test-{os.getpid()}", byte_size)


def test_killed(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given calls in flight, when the broker is killed, then they end, and workers with it; with the next one all goes on.

    The same client, with the region that it registered and the slots that it leased before.
    """
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, make_region(link, 4096) as region:
        client.register(region)
        region.view("FP32", [1, 2])[:] = rows(1)["x"]
        slot, busy, kept = (client.buffers(model, 1) for model in ("echo", "gate", "echo"))
        busy.inputs["x"][:] = rows(2)["x"]
        slot.inputs["x"][:] = rows(3)["x"]
        assert answer(client.infer(slot)) == [3]
        in_flight = [client.submit(busy), client.submit("gate", rows(4)), client.submit("gate", rows(5))]
        barrier.entered()
        workers = broker.workers()
        assert len(workers) == 2

        broker.kill()

        for future in in_flight:
            with pytest.raises(BrokerError, match="connection to the broker at .* was lost") as lost:
                future.result(5)
            assert lost.value.code is Code.UNAVAILABLE
        eventually(lambda: not any(map(is_alive, workers)), 1.0, "the workers died with their broker")

        broker.start()
        kept.inputs["x"][:] = rows(6)["x"]
        assert answer(client.infer(kept)) == [6], "a slot that was idle meanwhile"
        slot.inputs["x"][:] = rows(7)["x"]
        assert answer(client.infer(slot)) == [7], "a slot that had been used before"
        placed = {"x": region.tensor("FP32", [1, 2])}
        assert answer(client.infer("echo", placed, {"y": region.tensor("FP32", [1, 2], 64)})) == [1], "the user's own region"
        assert np.array_equal(region.view("FP32", [1, 2], 64), rows(1)["x"])
        busy.inputs["x"][:] = rows(8)["x"]
        future = client.submit(busy)
        barrier.entered().let_go()
        assert answer(future.result(RECOVERED_WITHIN_S)) == [8], "a slot whose request was lost"
        assert answer(client.infer("echo", rows(9, 10))) == [9, 10]
        client.check_invariants()


def test_a_call_waits_for_a_broker_that_is_being_restarted(
    tmp_path: Path, repository: Path, barrier: Barrier, link: str
) -> None:
    """Given a broker that is known to be dead, when a call is made before the next one is there, then it waits for it."""
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link, connect_timeout_s=START_S) as client:
        future = client.submit("gate", rows(1))
        barrier.entered()
        broker.kill()
        with pytest.raises(BrokerError, match="was lost"):
            future.result(5)
        broker.launch()
        assert client.status()["pid"] == broker.pid
        broker.wait_until_ready()
        barrier.open()
        assert answer(client.infer("gate", rows(2))) == [2]


def test_a_second_broker_is_refused(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a broker, when another is started at its address, then that one is told whose it is, and the first goes on."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        assert answer(client.infer("echo", rows(1))) == [1]
        files = sorted(path.name for path in tmp_path.iterdir())
        command = [sys.executable, "-m", "penstock.clients.cli", "serve", str(repository), "--address", broker.addresses[link]]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
        assert second.returncode == 2
        assert f"is in use by process {broker.pid}" in second.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == files
        assert answer(client.infer("echo", rows(2))) == [2]
        with broker.client(link) as newcomer:
            assert answer(newcomer.infer("echo", rows(3))) == [3]


@pytest.mark.parametrize(("link", "stopped_s"), [("local", 2.0), ("zmq", 2.0), ("tcp", 3.0)])
def test_stopped_for_a_while(tmp_path: Path, repository: Path, barrier: Barrier, link: str, stopped_s: float) -> None:
    """Given limits on execution (1 s) and silence (2 s), when the broker sleeps for longer, then it takes nobody for dead."""
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path, max_execution_s=1)
    with RunningBroker(tmp_path, repository, "--lease-s", "2", with_tcp=True) as broker, broker.client(link) as client:
        assert answer(client.infer("echo", rows(1))) == [1]
        before = survivors(client)
        future = client.submit("gate", rows(2))
        held = barrier.entered()
        with stopped(broker.pid):
            held.let_go()
            with pytest.raises(BrokerError, match="no answer within the timeout") as unanswered:
                client.infer("echo", rows(3), timeout_s=stopped_s)
            assert unanswered.value.code is Code.DEADLINE_EXCEEDED
        assert answer(future.result(5)) == [2]
        future = client.submit("gate", rows(4))
        barrier.entered().let_go()
        assert answer(future.result(5)) == [4]
        assert survivors(client) == before


def survivors(client: Client) -> list[object]:
    """Sessions and instances, as far as they tell one from its successor."""
    status = client.status()
    sessions = [(session["session"], session["regions"]) for session in status["sessions"]]
    return sessions + [(instance["instance"], instance["pid"], instance["state"]) for instance in status["instances"]]
