# SPDX-License-Identifier: Apache-2.0
"""Models that share a resource: who runs beside whom, and in which turn. Models are told apart by the rows of their requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import Barrier, RunningBroker, add_model, answer, eventually, rows

from penstock.clients import Client, Code, ModelError

WAIT_S = 10.0
ON = ("--rate-limit", "execution_count")


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


@pytest.fixture
def add(repository: Path, barrier: Barrier) -> Any:
    """Adds a model that needs `count` of a global resource."""

    def add_one(name: str, count: int, priority: int = 1) -> None:
        limiter = f'rate_limiter {{ resources {{ name: "memory" global: true count: {count} }} priority: {priority} }}'
        add_model(repository, name, mode="barrier", barrier_path=barrier.path, limiter=limiter)

    return add_one


@contextmanager
def serving(tmp_path: Path, repository: Path, link: str, *options: str) -> Iterator[Client]:
    with RunningBroker(tmp_path, repository, *options) as broker, broker.client(link) as client:
        yield client


def in_use(client: Client) -> tuple[int, int]:
    """How much of the resource is used, and how many wait for it."""
    (found,) = client.status()["resources"]
    assert (found["resource"], found["device"]) == ("memory", None)
    return found["used"], found["waiting"]


def test_two_models_that_share_a_resource_never_overlap(
    tmp_path: Path, repository: Path, barrier: Barrier, link: str, add: Any
) -> None:
    add("one", 1)
    add("two", 1)
    with serving(tmp_path, repository, link, *ON) as client:
        futures = [client.submit(name, rows(*[5] * size)) for size, name in ((1, "one"), (2, "two")) for _ in range(5)]
        held = barrier.entered()
        eventually(lambda: sum(client.status()["queued"].values()) == 9, WAIT_S, "all have arrived")
        turns = []
        for waiting in (1,) * 9 + (0,):
            turns.append(held.rows)
            assert in_use(client) == (1, waiting)
            assert not barrier.is_somebody_there(), "while one executes, the other does not"
            held.let_go()
            if waiting:
                held = barrier.entered()
        assert [len(answer(future.result(WAIT_S))) for future in futures] == [1] * 5 + [2] * 5
        assert turns == [1, 2] * 5
        assert in_use(client) == (0, 0)


def test_they_overlap_where_there_is_enough(tmp_path: Path, repository: Path, barrier: Barrier, link: str, add: Any) -> None:
    add("one", 1)
    add("two", 1)
    with serving(tmp_path, repository, link, *ON, "--rate-limit-resource", "memory:2:global") as client:
        futures = [client.submit("one", rows(1)), client.submit("two", rows(2, 2))]
        both = [barrier.entered(), barrier.entered()]
        assert in_use(client) == (2, 0)
        for held in both:
            held.let_go()
        assert [answer(future.result(WAIT_S)) for future in futures] == [[1], [2, 2]]


def test_turns_by_priority(tmp_path: Path, repository: Path, barrier: Barrier, link: str, add: Any) -> None:
    """The order that tests/unit/scheduling/test_resources.py works out by hand: executions x priority, ties to who waits longer."""
    add("one", 1)
    add("two", 1, priority=2)
    with serving(tmp_path, repository, link, *ON) as client:
        futures = [client.submit("one", rows(1))]
        held = barrier.entered()
        futures += [client.submit(name, rows(*[0] * size)) for size, name in ((1, "one"), (2, "two")) for _ in range(7)]
        eventually(lambda: in_use(client) == (1, 1), WAIT_S, "the other waits")
        eventually(lambda: sum(client.status()["queued"].values()) == 14, WAIT_S, "all have arrived")
        turns = []
        for _ in range(7):
            turns.append(held.rows)
            held.let_go()
            held = barrier.entered()
        assert turns == [1, 2, 1, 2, 1, 1, 2]
        held.let_go()
        barrier.open()
        for future in futures:
            future.result(WAIT_S)


def test_a_resource_comes_back_from_a_worker_that_dies(
    tmp_path: Path, repository: Path, barrier: Barrier, link: str, add: Any
) -> None:
    add("one", 1)
    limiter = 'rate_limiter { resources { name: "memory" global: true count: 1 } }'
    add_model(repository, "dies", mode="dying", limiter=limiter)
    with serving(tmp_path, repository, link, *ON) as client:
        first = client.submit("one", rows(1))
        held = barrier.entered()
        lost, last = client.submit("dies", rows(2)), client.submit("one", rows(3))
        held.let_go()
        assert answer(first.result(WAIT_S)) == [1]
        with pytest.raises(ModelError, match="worker died"):
            lost.result(WAIT_S)
        barrier.entered().let_go()
        assert answer(last.result(WAIT_S)) == [3]


def test_a_limit_that_is_too_low_fails_the_load(
    tmp_path: Path, repository: Path, barrier: Barrier, link: str, add: Any
) -> None:
    add("big", 4)
    add("small", 1)
    with serving(tmp_path, repository, link, *ON, "--rate-limit-resource", "memory:1") as client:
        said = 'Resource count for "memory" is limited to 1 which will prevent scheduling of one or more model instances, '
        with pytest.raises(ModelError, match=f"{said}the minimum required count is 4") as refused:
            client.infer("big", rows(1))
        assert refused.value.code is Code.UNAVAILABLE
        future = client.submit("small", rows(1))
        barrier.entered().let_go()
        assert answer(future.result(WAIT_S)) == [1]


def test_off_by_default_with_a_warning(tmp_path: Path, repository: Path, barrier: Barrier, add: Any) -> None:
    add("one", 1)
    add("two", 1)
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        futures = [client.submit("one", rows(1)), client.submit("two", rows(2))]
        for held in [barrier.entered(), barrier.entered()]:
            held.let_go()
        assert [answer(future.result(WAIT_S)) for future in futures] == [[1], [2]]
        assert "resources" not in client.status()
        assert broker.log().count("instance_group.rate_limiter has no effect without --rate-limit execution_count") == 2
