# SPDX-License-Identifier: Apache-2.0
"""Clients that do not read what is due to them: others are served, memory is bounded, and each request has one outcome."""

from __future__ import annotations

import os
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
    resident_bytes,
    rows,
    stopped,
)

from penstock.clients import Client

DUE = 10_000
UNREAD = 3_000
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


def test_outputs_that_are_not_read_are_bounded(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a client that leaves 190 MB of outputs for the broker to hold, when it is above 16, then its session ends.

    Others are served, what the broker held is gone, and the client finds a definite outcome for each request.
    """
    add_model(repository, "echo")
    add_model(repository, "wide", width=16 * 1024)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as bystander:
        assert answer(bystander.infer("echo", rows(1))) == [1]
        resident, held, files = resident_bytes(broker.pid), broker.memory(), descriptors_of(broker.pid)
        with Program("leaves_outputs_unread", broker.addresses[link], "wide", str(UNREAD)) as victim:
            assert victim.say()["submitted"] == UNREAD
            eventually(lambda: len(bystander.status()["sessions"]) == 1, 20, "the session has ended")
            assert "does not read its replies" in broker.log()
            eventually(lambda: broker.memory() == held, 1, "nothing is held for it any more")
            assert resident_bytes(broker.pid) < resident + 32 * MB
            assert descriptors_of(broker.pid) <= files + (link == "zmq"), "ZeroMQ cannot hang up, and keeps the connection"
            assert answer(bystander.infer("echo", rows(2), timeout_s=5)) == [2]
            victim.tell("read")
            outcome = victim.say()
            assert outcome["right"] + outcome["errors"]["UNAVAILABLE"] == UNREAD
            assert outcome["wrong"] == 0


def test_silent_for_longer_than_its_lease(tmp_path: Path, repository: Path, barrier: Barrier) -> None:
    """Given a client over tcp://, when it is stopped until its lease is over, then it learns so, and its next call works."""
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with (
        RunningBroker(tmp_path, repository, "--lease-s", "1", with_tcp=True) as broker,
        broker.client("local") as bystander,
        Program("submits_and_waits", broker.addresses["tcp"], "gate", "1") as victim,
    ):
        assert victim.say()["submitted"] == 1
        barrier.entered()
        with stopped(victim.pid):
            eventually(lambda: len(bystander.status()["sessions"]) == 1, 5, "the lease is over")
            assert "not heard of for 1 s" in broker.log()
        victim.tell("read")
        assert victim.say() == {"right": 0, "wrong": 0, "errors": {"UNAVAILABLE": 1}}
        barrier.open()
        victim.tell("again")
        assert victim.say() == {"right": 1, "wrong": 0, "errors": {}}


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
