# SPDX-License-Identifier: Apache-2.0
"""Two instances of one model; the second request is finished first. Requests are told apart by their number of rows."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from running import Barrier, Held, RunningBroker, add_model, answer, eventually, rows

from penstock.clients import Client

WAIT_S = 10.0


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


@pytest.fixture
def client(tmp_path: Path, repository: Path, barrier: Barrier, link: str, batching: str) -> Iterator[Client]:
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path, count=2, batching=batching)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as connected:
        yield connected


@pytest.fixture
def batching() -> str:
    return "dynamic_batching { preserve_ordering: true }"


def executions(client: Client) -> int:
    (found,) = client.statistics("gate")["model_stats"]
    return int(found["execution_count"])


def two_running(client: Client, barrier: Barrier, **how: Any) -> tuple[list[Future[Any]], dict[int, Held], list[int]]:
    """Two requests, of 1 and 2 rows, each in an instance of its own; who is answered is noted in order."""
    answered: list[int] = []
    futures = []
    held: dict[int, Held] = {}
    for number in (1, 2):
        future = client.submit("gate", rows(*[number] * number), **how)
        future.add_done_callback(lambda _future, number=number: answered.append(number))
        futures.append(future)
        entered = barrier.entered()
        held[entered.rows] = entered
    return futures, held, answered


def kill(client: Client, held: Held) -> str:
    """Kills the worker that executed a batch; returns its instance's name once it is gone."""
    pid, _, _ = struct.unpack("3i", held.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    (name,) = (each["instance"] for each in client.status()["instances"] if each["pid"] == pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in [each["pid"] for each in client.status()["instances"]], WAIT_S, "it is gone")
    return str(name)


def test_the_faster_instance_waits_with_its_reply(client: Client, barrier: Barrier) -> None:
    futures, held, answered = two_running(client, barrier)
    held[2].let_go()
    eventually(lambda: executions(client) == 1, WAIT_S, "the second has been executed")
    client.status()  # whatever was sent before this answer has been read
    assert not futures[1].done()
    held[1].let_go()
    assert [answer(future.result(WAIT_S)) for future in futures] == [[1], [2, 2]]
    assert answered == [1, 2]
    (found,) = client.statistics("gate")["model_stats"]
    assert (found["inference_stats"]["success"]["count"], found["inference_count"]) == (2, 3)


@pytest.mark.parametrize("batching", ["dynamic_batching { }"])
def test_without_it_the_faster_instance_answers_first(client: Client, barrier: Barrier) -> None:
    futures, held, answered = two_running(client, barrier)
    held[2].let_go()
    assert answer(futures[1].result(WAIT_S)) == [2, 2]
    held[1].let_go()
    assert answer(futures[0].result(WAIT_S)) == [1]
    assert answered == [2, 1]


def test_nobody_waits_for_a_request_that_was_cancelled(client: Client, barrier: Barrier) -> None:
    futures, held, _ = two_running(client, barrier)
    held[2].let_go()
    eventually(lambda: executions(client) == 1, WAIT_S, "the second has been executed")
    assert futures[0].cancel()
    assert answer(futures[1].result(WAIT_S)) == [2, 2]
    held[1].let_go()


def test_a_reply_outlives_the_worker_that_made_it(client: Client, barrier: Barrier) -> None:
    futures, held, _ = two_running(client, barrier, explain=True)
    held[2].let_go()
    eventually(lambda: executions(client) == 1, WAIT_S, "the second has been executed")
    name = kill(client, held[2])
    held[1].let_go()
    assert answer(futures[0].result(WAIT_S)) == [1]
    result = futures[1].result(WAIT_S)
    assert answer(result) == [2, 2]
    assert result.explain.instance == name


def test_the_death_of_a_worker_is_told_at_once(client: Client, barrier: Barrier) -> None:
    futures, held, answered = two_running(client, barrier)
    kill(client, held[2])
    assert "worker died" in str(futures[1].exception(WAIT_S))
    held[1].let_go()
    assert answer(futures[0].result(WAIT_S)) == [1]
    assert answered == [2, 1]
