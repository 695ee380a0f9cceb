# SPDX-License-Identifier: Apache-2.0
"""Clients that do not read what is due to them: others are served, memory is bounded, and each request has one outcome."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    Barrier,
    Program,
    RunningBroker,
    add_model,
    answer,
    eventually,
    memory_of,
    resident_bytes,
    rows,
    stopped,
)

from penstock.clients import Client

DUE = 10_000
MB = 1024 * 1024


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


def test_stopped_with_ten_thousand_replies_due(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given 10,000 requests of a client that is stopped, when they are answered, then nobody else is held up by it.

    And when it goes on, each of its requests has its right answer.
    """
    add_model(repository, "echo")
    together = "dynamic_batching { max_queue_delay_microseconds: 1000 }"
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path, max_batch_size=256, batching=together)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as bystander:
        assert answer(bystander.infer("echo", rows(1))) == [1]
        with Program("submits_and_waits", broker.addresses[link], "gate", str(DUE)) as victim:
            assert victim.say()["submitted"] == DUE
            barrier.entered()
            resident = resident_bytes(broker.pid)
            with stopped(victim.pid):
                barrier.open()
                for number in range(100):
                    assert answer(bystander.infer("echo", rows(number), timeout_s=5)) == [number]
                eventually(lambda: executed(bystander) == DUE, 20, "all requests were executed")
                assert answer(bystander.infer("gate", rows(2), timeout_s=5)) == [2]
                assert resident_bytes(broker.pid) < resident + 8 * MB
                assert len(bystander.status()["sessions"]) == 2, "slow is no crime"
            victim.tell("read")
            assert victim.say() == {"right": DUE, "wrong": 0, "errors": {}}


def executed(client: Client) -> int:
    (found,) = client.statistics("gate")["model_stats"]
    return int(found["inference_count"])
