# SPDX-License-Identifier: Apache-2.0
"""What is started when: room, restarts that need none, and what is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import CONFIG

from penstock.runtime.launches import Launches
from penstock.runtime.models import ServedModel
from penstock.runtime.repository.configuration import WorkerPlan, parse_config

MS = 1_000_000


def model(number: int = 1) -> ServedModel:
    return ServedModel(number, parse_config(CONFIG, Path("config.pbtxt"), "echo"), 1, "/m/1")


def plan(name: str) -> WorkerPlan:
    return WorkerPlan((name,), model().config.instance_groups[0])


@pytest.fixture
def launches() -> Launches:
    return Launches(2)


def names(launches: Launches, now_ns: int = 0, loading: int = 0) -> list[str]:
    """Each that is taken is loading from then on."""
    taken: list[str] = []
    while (launch := launches.take(now_ns, loading + len(taken))) is not None:
        taken.append(launch.name)
    launches.check_invariants()
    return taken


def test_as_many_as_there_is_room_for_in_order(launches: Launches) -> None:
    echo = model()
    for name in ("a", "b", "c", "d"):
        launches.ask(plan(name), echo)
    assert names(launches) == ["a", "b"]
    assert names(launches, loading=2) == []
    assert names(launches, loading=1) == ["c"]
    assert launches.expects(echo) and not launches.expects(model(2))


def test_a_restart_waits_for_its_time_and_not_for_room(launches: Launches) -> None:
    echo = model()
    assert launches.crashed(plan("a"), echo, 0) == ""
    launches.ask(plan("b"), echo)
    assert launches.next_deadline() == 100 * MS
    assert names(launches, 99 * MS, loading=2) == []
    assert names(launches, 100 * MS, loading=2) == ["a"]
    assert names(launches, 100 * MS, loading=1) == ["b"]
    assert launches.next_deadline() is None


def test_who_crashes_too_often_is_given_up(launches: Launches) -> None:
    echo = model()
    reasons = [launches.crashed(plan("a"), echo, crash * 1000 * MS) for crash in range(5)]
    assert reasons == ["", "", "", "", "a crashed 5 times in 60 s"]


def test_what_is_dropped_is_not_started_and_its_crashes_are_forgotten(launches: Launches) -> None:
    one, other = model(1), model(2)
    for crash in range(4):
        launches.crashed(plan("a"), one, crash)
        names(launches, 10_000 * MS)
    launches.crashed(plan("b"), one, 0)
    for name, of in (("c", one), ("d", one), ("c", other)):
        launches.ask(plan(name), of)
    launches.drop(one, {"a", "c"})
    assert launches.crashed(plan("a"), one, 0) == ""
    launches.drop(one, {"a"})
    assert names(launches, 10_000 * MS) == ["b", "d"]
    launches.drop(one)
    assert names(launches, 10_000 * MS) == ["c"]


def test_what_is_cleared_is_not_started(launches: Launches) -> None:
    launches.ask(plan("a"), model())
    launches.crashed(plan("b"), model(), 0)
    launches.clear()
    assert names(launches, 10_000 * MS) == []
    assert repr(launches) == "<Launches 0 wait for room, 0 restarts due>"
