# SPDX-License-Identifier: Apache-2.0
"""A slot whose request was given up is nobody's until the worker has let go of it; then it is leased again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from running import Barrier, Held, RunningBroker, add_model, answer, eventually, rows

from penstock.clients import CallerError, Client, Code, PenstockError, Slot

GiveUp = Callable[[Client, Slot, Barrier], Held]
LEASES = 100
"""More than the slots that the pool makes at once: a slot in quarantine is passed over however many are leased."""


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


@pytest.fixture
def client(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> Iterator[Client]:
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as connected:
        yield connected


def address(slot: Slot) -> int:
    return int(slot.outputs["y"].ctypes.data)


def lease(client: Client, value: float = 0) -> Slot:
    slot = client.buffers("gate", 1)
    slot.inputs["x"][:] = rows(value)["x"]
    return slot


def lease_many(client: Client) -> set[int]:
    """The addresses of many slots leased at once, and given back."""
    slots = [client.buffers("gate", 1) for _ in range(LEASES)]
    found = {address(slot) for slot in slots}
    for slot in slots:
        slot.close()
    assert len(found) == LEASES
    return found


def in_flight(client: Client) -> int:
    return sum(session["in_flight"] for session in client.status()["sessions"])


def give_up_by_cancel(client: Client, slot: Slot, barrier: Barrier) -> Held:
    """A request that is cancelled while its batch runs."""
    future = client.submit(slot)
    held = barrier.entered()
    assert future.cancel() and future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    return held


def give_up_by_deadline(client: Client, slot: Slot, barrier: Barrier) -> Held:
    """A request whose deadline passes while its batch runs."""
    future = client.submit(slot, timeout_s=0.5)
    held = barrier.entered()
    with pytest.raises(PenstockError, match="the deadline passed at the model") as late:
        future.result(5)
    assert late.value.code is Code.DEADLINE_EXCEEDED
    return held


@pytest.mark.parametrize("give_up", [give_up_by_cancel, give_up_by_deadline])
def test_given_up_while_its_batch_runs(client: Client, barrier: Barrier, give_up: GiveUp) -> None:
    """Given a request that was given up, its slot is leased to nobody while the worker may write into it, and then it is."""
    slot = lease(client, 1)
    held = give_up(client, slot, barrier)
    memory, late = address(slot), slot.outputs["y"]
    with pytest.raises(CallerError, match="given up and is not released"):
        client.submit(slot)
    slot.close()
    eventually(lambda: in_flight(client) == 1, 5, "the broker has heard of it, and waits for the worker")

    assert memory not in lease_many(client)
    next_slot = lease(client, 2)
    next_slot.outputs["y"][:] = 77
    late[:] = 0
    held.let_go()
    eventually(lambda: np.array_equal(late, rows(1)["x"]), 5, "the worker writes its late answer where it was asked to")
    assert (next_slot.outputs["y"] == 77).all(), "and nowhere else"

    eventually(lambda: in_flight(client) == 0, 5, "the broker has released it")
    assert memory in lease_many(client)
    future = client.submit(next_slot)
    barrier.entered().let_go()
    assert answer(future.result(5)) == [2]
    client.check_invariants()


def test_cancelled_in_the_queue(client: Client, barrier: Barrier) -> None:
    """Given a request that no worker has seen, when it is cancelled, then its slot is free at once."""
    ahead = [client.submit(lease(client, value)) for value in (1, 2)]  # one runs, one is at the worker already
    held = barrier.entered()
    slot = lease(client, 3)
    memory = address(slot)
    future = client.submit(slot)
    assert future.cancel()
    slot.close()
    eventually(lambda: in_flight(client) == 2, 5, "the broker has heard of it")
    assert memory in lease_many(client)
    held.let_go()
    barrier.entered().let_go()
    assert [answer(each.result(5)) for each in ahead] == [[1], [2]]
    (found,) = client.statistics("gate")["model_stats"]
    assert found["inference_count"] == 2
