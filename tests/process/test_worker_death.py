# SPDX-License-Identifier: Apache-2.0
"""Workers that die or hang: their batch gets an error that says so, they are started again, and other models never notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    START_S,
    Barrier,
    RunningBroker,
    add_model,
    answer,
    children_of,
    eventually,
    instance,
    is_alive,
    ready_pid,
    rows,
)

from penstock.clients import Client, Code, ModelError

RESTARTED_WITHIN_S = 10.0


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


def other_model_is_served(client: Client, value: float) -> None:
    assert answer(client.infer("echo", rows(value), timeout_s=5)) == [value]


def test_killed_while_loading(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given a worker that is loading its model, when it is killed, then another one loads it."""
    add_model(repository, "echo")
    add_model(repository, "late", mode="barrier", at="load", barrier_path=barrier.path)
    broker = RunningBroker(tmp_path, repository)
    broker.launch()
    with broker:
        first = barrier.entered()
        with broker.client(link) as client:
            eventually(lambda: client.is_ready("echo"), START_S, "the other model is ready")
            pid = instance(client, "late")["pid"]
            os.kill(pid, signal.SIGKILL)
            second = barrier.entered()
            other_model_is_served(client, 1)
            assert instance(client, "late")["pid"] not in (pid, None)
            assert not client.is_ready("late")
            second.let_go()
            broker.wait_until_ready()
            assert answer(client.infer("late", rows(2, 3))) == [2, 3]
        assert first.sock.recv(1) == b"", "the first one is dead"


def test_killed_while_idle(tmp_path: Path, repository: Path, link: str) -> None:
    """Given an idle worker, when it is killed, then it is started again, and what is asked meanwhile waits for it."""
    add_model(repository, "echo")
    add_model(repository, "victim")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        assert answer(client.infer("victim", rows(1))) == [1]
        pid, other_pid = ready_pid(client, "victim"), ready_pid(client, "echo")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: ready_pid(client, "victim") != pid, 1, "the broker knows that it is dead")
        assert not client.is_ready("victim")
        waiting = client.submit("victim", rows(2))
        other_model_is_served(client, 3)
        assert answer(waiting.result(RESTARTED_WITHIN_S)) == [2]
        assert ready_pid(client, "victim") not in (0, pid)
        assert ready_pid(client, "echo") == other_pid


def test_killed_in_a_batch(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given a running batch and more behind it, when the worker is killed, then that batch fails and the rest is served."""
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        running = client.submit("gate", rows(1))
        barrier.entered()
        behind = [client.submit("gate", rows(value)) for value in (2, 3)]
        pid = ready_pid(client, "gate")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"model 'gate': worker died \(signal 9") as failed:
            running.result(5)
        assert failed.value.fault == "model"
        other_model_is_served(client, 4)
        barrier.open()
        assert [answer(future.result(RESTARTED_WITHIN_S)) for future in behind] == [[2], [3]]
        assert ready_pid(client, "gate") not in (0, pid)
        other_model_is_served(client, 5)


def test_hung_in_a_batch(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model that never returns, when its limit is over, then the watchdog ends it and the error names the limit."""
    add_model(repository, "echo")
    add_model(repository, "hung", mode="hanging", max_execution_s=0.3)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        pid = ready_pid(client, "hung")
        future = client.submit("hung", rows(1))
        other_model_is_served(client, 2)
        with pytest.raises(ModelError, match=r"model 'hung': batch \d+ ran past the limit of 300\.0 ms .*died \(signal 9\)"):
            future.result(5)
        assert not is_alive(pid)
        eventually(lambda: ready_pid(client, "hung") not in (0, pid), RESTARTED_WITHIN_S, "it is started again")
        other_model_is_served(client, 3)


def test_sigterm_with_a_hung_worker(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given a batch that never ends, when the broker is told to stop, then it gives the batch drain_s, the worker kill_s."""
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    options = ("--drain-s", "0.2", "--kill-s", "0.2", "--max-execution-s", "0")
    with RunningBroker(tmp_path, repository, *options) as broker, broker.client(link) as client:
        workers = broker.workers()
        future = client.submit("gate", rows(1))
        barrier.entered()
        os.kill(broker.pid, signal.SIGTERM)
        with pytest.raises(ModelError, match="model 'gate': did not exit in time"):
            future.result(5)
        assert broker.close() == 0
    assert len(workers) == 2 and not any(is_alive(pid) for pid in workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["barrier", "broker.log", "models"], "no socket is left"


def test_sigterm_without_work_needs_no_patience(tmp_path: Path, repository: Path) -> None:
    """Given idle workers and all the patience in the world, when the broker is told to stop, then it does not wait."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository, "--drain-s", "600", "--kill-s", "600") as broker:
        os.kill(broker.pid, signal.SIGTERM)
        assert broker.close() == 0
        assert "worker exited with status 0" in broker.log()


def test_five_crashes(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model that kills its worker, when that has happened five times, then it is UNAVAILABLE and the reason is told."""
    add_model(repository, "echo")
    add_model(repository, "deadly", mode="dying")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        for crash in range(5):
            with pytest.raises(ModelError, match=r"worker died \(signal 9") as failed:
                client.infer("deadly", rows(crash), timeout_s=RESTARTED_WITHIN_S)
            assert failed.value.code is Code.INTERNAL
            other_model_is_served(client, crash)
        with pytest.raises(ModelError, match="crashed 5 times in 60 s") as refused:
            client.infer("deadly", rows(9))
        assert refused.value.code is Code.UNAVAILABLE
        (row,) = (row for row in client.index() if row["name"] == "deadly")
        assert row["state"] == "UNAVAILABLE"
        assert "crashed 5 times in 60 s" in row["reason"] and "died (signal 9" in row["reason"]
        ready = client.query("ready", "deadly")
        assert ready == {"ready": False, "reason": row["reason"]}
        assert not client.is_ready("deadly") and client.is_ready("echo") and not client.is_ready()
        assert not instance(client, "deadly")


def test_killed_with_a_forked_child_that_keeps_its_socket(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model that forked, when the worker is killed, then its death is seen though its socket stays open."""
    add_model(repository, "forking", mode="forking", at="load")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        assert answer(client.infer("forking", rows(1))) == [1]
        pid = ready_pid(client, "forking")
        (child,) = children_of(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: ready_pid(client, "forking") != pid, 1, "the broker knows that it is dead")
            assert is_alive(child)
            assert answer(client.infer("forking", rows(2), timeout_s=RESTARTED_WITHIN_S)) == [2]
            (second,) = children_of(ready_pid(client, "forking"))
        finally:
            os.kill(child, signal.SIGKILL)
        os.kill(second, signal.SIGKILL)


def test_started_by_hand(tmp_path: Path, repository: Path, link: str) -> None:
    """Given `penstock broker` and `penstock worker`, requests are served; when the worker is killed, the broker is fine."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository, command="broker") as broker, broker.client(link) as client:
        with pytest.raises(ModelError, match="not at ready state") as refused:
            client.infer("echo", rows(1))
        assert refused.value.code is Code.UNAVAILABLE
        assert attached_worker_serves(broker, client) == -signal.SIGKILL
        assert not client.is_ready("echo")
        assert attached_worker_serves(broker, client) == -signal.SIGKILL


def attached_worker_serves(broker: RunningBroker, client: Client) -> int:
    """Starts a worker by hand, has it serve, kills it in the end; its exit status."""
    command = [sys.executable, "-m", "penstock.clients.cli", "worker", "echo", "--connect", broker.addresses["local"]]
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: client.is_ready("echo"), START_S, "the worker is attached")
        assert answer(client.infer("echo", rows(1, 2))) == [1, 2]
        assert ready_pid(client, "echo") == worker.pid
    finally:
        worker.kill()
        status = worker.wait()
    eventually(lambda: not instance(client, "echo"), 1, "the broker knows that it is dead")
    return status
