# SPDX-License-Identifier: Apache-2.0
"""Clients that are killed: nothing of theirs is left within a second, and nobody else notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Barrier, Memory, Program, RunningBroker, add_model, answer, eventually, memory_of, rows

from penstock.clients import Client

GONE_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deaths")


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[RunningBroker]:
    """`echo` answers at once, `gate` when the barrier says so, `pair` likewise but for two requests in one batch."""
    models = folder / "models"
    gate = folder / "barrier"
    together = "dynamic_batching { max_queue_delay_microseconds: 60000000 }"
    add_model(models, "echo")
    add_model(models, "gate", mode="barrier", barrier_path=gate)
    add_model(models, "pair", mode="barrier", barrier_path=gate, max_batch_size=2, batching=together)
    with RunningBroker(folder, models) as running:
        yield running


@pytest.fixture
def barrier(folder: Path) -> Iterator[Barrier]:
    """What is still held when a test ends goes on."""
    with Barrier(folder / "barrier") as opened:
        yield opened


@pytest.fixture
def bystander(broker: RunningBroker, link: str) -> Iterator[Client]:
    with broker.client(link, name="bystander") as client:
        assert answer(client.infer("echo", rows(1, 2))) == [1, 2]
        yield client


def statistics(client: Client, model: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = client.statistics(model)["model_stats"]
    return found


def answered(client: Client, model: str) -> int:
    return int(statistics(client, model)["inference_stats"]["success"]["count"])


def in_flight(client: Client) -> int:
    return sum(session["in_flight"] for session in client.status()["sessions"])


def memory_of_victim(victim: Program, broker: RunningBroker) -> Memory:
    """What the victim shares with the broker: seen at both ends, or else its absence later would prove nothing."""
    shared = memory_of(victim.pid)
    assert shared and shared <= memory_of(broker.pid)
    return shared


def is_gone(memory: Memory, broker: RunningBroker) -> bool:
    return not memory & broker.memory()


def is_forgotten(client: Client) -> bool:
    """The broker's own books: one session, with its one region."""
    status = client.status()
    return len(status["sessions"]) == 1 and status["regions"] == 1


def test_killed_while_idle(broker: RunningBroker, link: str, bystander: Client) -> None:
    """Given a client that has had its answers, when it is killed, then its memory is gone from everywhere."""
    with Program("infers_and_idles", broker.addresses[link], "echo") as victim:
        assert victim.say() == {"y": [[5, -5]]}
        memory = memory_of_victim(victim, broker)
        assert any(memory <= memory_of(worker) for worker in broker.workers())
        victim.kill()
        eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")
    assert is_forgotten(bystander)
    assert answer(bystander.infer("echo", rows(3, 4))) == [3, 4]


def test_killed_while_its_requests_are_queued(broker: RunningBroker, link: str, bystander: Client, barrier: Barrier) -> None:
    """Given requests behind a batch that does not end, when their client is killed, then they are dropped and never run."""
    before = statistics(bystander, "gate")
    running, staged = (bystander.submit("gate", rows(number)) for number in (6, 7))
    held = barrier.entered()
    with Program("submits_and_waits", broker.addresses[link], "gate", "5") as victim:
        assert victim.say()["submitted"] == 5
        eventually(lambda: bystander.status()["queued"]["gate/1"] == 5, 5, "all of the victim's requests are queued")
        memory = memory_of_victim(victim, broker)
        victim.kill()
        eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")
        assert bystander.status()["queued"]["gate/1"] == 0
    held.let_go()
    barrier.entered().let_go()
    assert answer(running.result()) == [6] and answer(staged.result()) == [7]
    after = statistics(bystander, "gate")
    assert [after[key] - before[key] for key in ("execution_count", "inference_count")] == [2, 2]


def test_killed_while_its_batch_runs(broker: RunningBroker, link: str, bystander: Client, barrier: Barrier) -> None:
    """Given a running batch, when its client is killed, then its memory stays until the batch ends, and no longer."""
    with Program("submits_and_waits", broker.addresses[link], "gate", "1") as victim:
        held = barrier.entered()
        memory = memory_of_victim(victim, broker)
        victim.kill()
        eventually(lambda: len(bystander.status()["sessions"]) == 1, GONE_WITHIN_S, "the dead client's session has ended")
    assert answer(bystander.infer("echo", rows(8))) == [8]
    assert memory <= broker.memory(), "a worker still works on it"
    held.let_go()
    eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")
    assert is_forgotten(bystander)
    future = bystander.submit("gate", rows(9))
    barrier.entered().let_go()
    assert answer(future.result()) == [9]


def test_killed_while_it_shares_a_running_batch(broker: RunningBroker, link: str, bystander: Client, barrier: Barrier) -> None:
    """Given a batch of two clients' requests, when one is killed, then the other gets its right answer."""
    future = bystander.submit("pair", rows(10))
    with Program("submits_and_waits", broker.addresses[link], "pair", "1") as victim:
        held = barrier.entered()
        assert held.rows == 2
        memory = memory_of_victim(victim, broker)
        victim.kill()
        eventually(lambda: len(bystander.status()["sessions"]) == 1, GONE_WITHIN_S, "the dead client's session has ended")
    held.let_go()
    assert answer(future.result()) == [10]
    eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")


def test_killed_with_replies_unread(broker: RunningBroker, link: str, bystander: Client) -> None:
    """Given replies on their way to a client that does not read, when it is killed, then they go with it."""
    before = answered(bystander, "echo")
    with Program("submits_and_waits", broker.addresses[link], "echo", "50") as victim:
        assert victim.say()["submitted"] == 50
        eventually(lambda: answered(bystander, "echo") == before + 50, 5, "all requests are answered")
        memory = memory_of_victim(victim, broker)
        victim.kill()
        eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")
    assert is_forgotten(bystander)
    assert answer(bystander.infer("echo", rows(11))) == [11]


@pytest.mark.parametrize("model", ["echo", "gate"])
def test_killed_with_a_forked_child_that_keeps_its_socket(
    broker: RunningBroker, link: str, bystander: Client, barrier: Barrier, model: str
) -> None:
    """Given a child that inherited the connection, when its parent is killed, then the session ends all the same."""
    with Program("submits_and_waits", broker.addresses[link], model, "1", "fork") as victim:
        child = int(victim.say()["child"])
        try:
            held = barrier.entered() if model == "gate" else None
            eventually(lambda: in_flight(bystander) == (model == "gate"), 5, "only what is held back is in flight")
            memory = memory_of_victim(victim, broker)
            victim.kill()
            if held is not None:
                eventually(lambda: len(bystander.status()["sessions"]) == 1, GONE_WITHIN_S, "the session has ended")
                held.let_go()
            eventually(lambda: is_gone(memory, broker), GONE_WITHIN_S, "the dead client's memory is gone")
            assert memory <= memory_of(child), "the child has it still, and that is the child's business"
        finally:
            os.kill(child, signal.SIGKILL)
    assert is_forgotten(bystander)
    assert answer(bystander.infer("echo", rows(12))) == [12]
