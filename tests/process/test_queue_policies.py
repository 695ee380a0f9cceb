# SPDX-License-Identifier: Apache-2.0
"""Priority levels and queue policies, from the config.pbtxt to the client: one story per key, over both links.

The instance of each model is held at a barrier with one batch (a row of value 0) while the story's requests arrive, and a
second, staged one (one request of two rows, so that it is full) waits behind it; what comes after that stands in the queue.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from running import Barrier, Held, RunningBroker, add_model, answer, eventually, rows

from penstock.clients import BrokerError, Client, Code
from penstock.clients.futures import InferFuture

LONG_S = 60.0
MODELS = {
    "levels": "priority_levels: 3 default_priority_level: 2",
    "bounded": "default_queue_policy { max_queue_size: 2 }",
    "bounded_level": "priority_levels: 2 default_priority_level: 2 priority_queue_policy { key: 1 value { max_queue_size: 1 } }",
    "rejecting": "default_queue_policy { default_timeout_microseconds: 20000 }",
    "overridden": "default_queue_policy { default_timeout_microseconds: 60000000 allow_timeout_override: true }",
    "not_overridden": "default_queue_policy { default_timeout_microseconds: 60000000 }",
    "without_default": "default_queue_policy { allow_timeout_override: true }",
    "delaying": """
        priority_levels: 2 default_priority_level: 2
        priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 200000 } }""",
}


class Broker(NamedTuple):
    running: RunningBroker
    gates: dict[str, Barrier]


class Line(NamedTuple):
    """A model whose instance is held, so that requests queue, and what was sent to it so far."""

    client: Client
    model: str
    gate: Barrier
    held: Held
    ahead: list[InferFuture]

    def ask(self, value: float, **asked: Any) -> InferFuture:
        return self.client.submit(self.model, rows(value), timeout_s=LONG_S, explain=True, **asked)

    def has(self, count: int) -> None:
        """Waits until that many are queued."""
        eventually(lambda: self.client.status()["queued"][f"{self.model}/1"] == count, 10, f"{count} requests are queued")

    def open(self) -> None:
        """The batch that is held and the staged one pass."""
        let_pass(self.held)
        let_pass(self.gate.entered())
        assert [answer(future.result(LONG_S)) for future in self.ahead] == [[0], [1, 1]]

    def served(self, *futures: InferFuture) -> list[list[float]]:
        """The values of each batch, in the order of execution. `futures` are all that is queued."""
        self.has(len(futures))
        self.open()
        batches: list[list[float]] = []
        left = set(futures)
        while left:
            let_pass(self.gate.entered())
            done, left = wait(left, LONG_S, "FIRST_COMPLETED")
            while sum(1 for _ in done) < next(iter(done)).result().explain.batch_requests:
                more, left = wait(left, LONG_S, "FIRST_COMPLETED")
                done |= more
            batches.append(sorted(answer(future.result())[0] for future in done))
        return batches


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker; nearly each test has a model of its own, with a barrier of its own."""
    folder: Path = tmp_path_factory.mktemp("run")
    repository = folder / "models"
    gates: dict[str, Barrier] = {}
    for model, batching in MODELS.items():
        gates[model] = Barrier(folder / model)
        add_model(
            repository, model, mode="barrier", max_batch_size=2, batching=f"dynamic_batching {{ {batching} }}",
            barrier_path=gates[model].path,
        )  # fmt: skip
    with RunningBroker(folder, repository) as running:
        yield Broker(running, gates)
    for gate in gates.values():
        gate.__exit__()


@pytest.fixture
def client(broker: Broker, link: str) -> Iterator[Client]:
    with broker.running.client(link) as made:
        yield made


def let_pass(held: Held) -> None:
    held.let_go()
    held.sock.close()


def line(broker: Broker, client: Client, model: str) -> Line:
    """Requests for the model wait from now on."""
    first = client.submit(model, rows(0), timeout_s=LONG_S)
    held = broker.gates[model].entered()
    staged = client.submit(model, rows(1, 1), timeout_s=LONG_S)
    client.status()  # is answered after what came before it was scheduled, and before what comes now
    return Line(client, model, broker.gates[model], held, [first, staged])


def said(future: InferFuture) -> str:
    """What the broker says of a request that it does not serve."""
    error = future.exception(LONG_S)
    assert isinstance(error, BrokerError) and error.code is Code.UNAVAILABLE, error
    return error.message


def failures(client: Client, model: str) -> int:
    (found,) = client.statistics(model)["model_stats"]
    return int(found["inference_stats"]["fail"]["count"])


def test_priority_levels_and_the_default_level(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "levels")
    # Given requests of level 3, of the default (2) three times, and of level 1, in this order
    asked = [queue.ask(value, priority=priority) for value, priority in ((10, 3), (11, 0), (12, 9), (13, 2), (14, 1))]
    queue.has(5)
    assert client.status()["queued_by_level"][f"{queue.model}/1"] == {"1": 1, "2": 3, "3": 1}

    # Then two at a time: level 1 and the first of level 2, the rest of level 2, level 3
    assert queue.served(*asked) == [[11, 14], [12, 13], [10]]


def test_max_queue_size(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "bounded")
    asked = [queue.ask(value) for value in (10, 11)]
    # When a third one comes, then it is refused at once, and not counted
    assert (
        said(queue.ask(12)) == f"model '{queue.model}': Exceeds maximum queue size: the model may have 2 requests queued, has 2"
    )
    assert queue.served(*asked) == [[10, 11]]
    assert failures(client, queue.model) == 0


def test_priority_queue_policy(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "bounded_level")
    # Given a policy for level 1 alone, which takes one
    asked = [queue.ask(value, priority=2) for value in (10, 11, 12)] + [queue.ask(13, priority=1)]
    assert "Exceeds maximum queue size: priority level 1 may have 1 " in said(queue.ask(14, priority=1))
    assert queue.served(*asked) == [[10, 13], [11, 12]]


def test_default_timeout_with_reject(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "rejecting")
    before = failures(client, queue.model)
    # When nothing moves, then a request fails after its 20 ms in the queue, and counts as a failure
    assert said(queue.ask(10)).startswith(f"model '{queue.model}': Request timeout expired")
    queue.open()
    assert failures(client, queue.model) == before + 1


def test_allow_timeout_override(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "overridden")
    patient = queue.ask(10)
    # When one asks for less than the default's minute, then it gets that
    assert "Request timeout expired" in said(queue.ask(11, queue_timeout_s=0.02))
    assert queue.served(patient) == [[10]]


@pytest.mark.parametrize("name", ["not_overridden", "without_default"])
def test_a_timeout_that_may_not_be_overridden(broker: Broker, client: Client, name: str) -> None:
    queue = line(broker, client, name)
    # Given a microsecond asked for, where that is not allowed or there is no default to be shortened
    impatient = queue.ask(10, queue_timeout_s=1e-6)
    queue.has(1)
    assert queue.served(impatient) == [[10]]


def test_timeout_action_delay(broker: Broker, client: Client) -> None:
    queue = line(broker, client, "delaying")
    # Given two of level 1 that have waited for their timeout
    late = [queue.ask(value, priority=1) for value in (10, 11)]
    lower = [queue.ask(value, priority=2) for value in (20, 21)]
    queue.has(4)
    # (the broker's clock has passed 200 ms when a deadline of 225 ms, begun after them, has)
    with pytest.raises(BrokerError, match="the deadline passed in the queue"):
        client.infer(queue.model, rows(30), priority=2, timeout_s=0.225)
    # When another of level 1 comes
    in_time = queue.ask(12, priority=1)

    # Then it goes before them, and they go before level 2
    assert queue.served(*late, *lower, in_time) == [[10, 12], [11, 20], [21]]


def test_the_command_line_asks_for_priority_and_queue_timeout(
    broker: Broker, client: Client, link: str, tmp_path: Path
) -> None:
    queue = line(broker, client, "overridden")
    np.save(tmp_path / "x.npy", rows(10)["x"])
    words = ["infer", queue.model, "--input", f"x={tmp_path}/x.npy", "--address", broker.running.addresses[link]]
    command = [sys.executable, "-m", "penstock.clients.cli", *words, "--priority", "1", "--queue-timeout-s", "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 1
    assert "Request timeout expired" in done.stderr
    queue.open()


def test_status_shows_levels(broker: Broker, client: Client, link: str) -> None:
    queue = line(broker, client, "levels")
    asked = [queue.ask(10, priority=3), queue.ask(11)]
    queue.has(2)
    words = ["status", "--json", "--address", broker.running.addresses[link]]
    done = subprocess.run([sys.executable, "-m", "penstock.clients.cli", *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["queued_by_level"] == {f"{queue.model}/1": {"2": 1, "3": 1}}
    assert queue.served(*asked) == [[10, 11]]
