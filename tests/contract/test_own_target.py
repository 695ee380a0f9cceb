# SPDX-License-Identifier: Apache-2.0
"""A broker as what is measured: prepared requests over either link, answers as they come, and what ends a measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from fake_broker import FakeBroker

from penstock.clients.perf.plan import Plan, Point, memory_over
from penstock.clients.perf.target import TargetSpec
from penstock.clients.perf.targets import open_target
from penstock.clients.perf.targets.own import OwnRequests, OwnTarget
from penstock.ipc.addresses import parse_address
from penstock.ipc.errors import BrokerError, CallerError
from penstock.ipc.messages import Infer

SOON_NS = 20_000_000


@pytest.fixture
def target(broker: FakeBroker) -> Iterator[OwnTarget]:
    link = parse_address(broker.address).kind
    with closing(open_target(TargetSpec(link=link, address=broker.address, model="echo"))) as found:
        assert isinstance(found, OwnTarget)
        yield found
        found.check_invariants()


def plan(target: OwnTarget, **more: object) -> Plan:
    return Plan(points=(), memory=memory_over(target.spec.link, None), **more)  # type: ignore[arg-type]


@pytest.fixture
def requests(target: OwnTarget) -> Iterator[OwnRequests]:
    """Three of them, none answered before the test says so."""
    with target.prepare(plan(target), Point(2, 3, request_rate=100)) as prepared:
        yield prepared
        prepared.check_invariants()


def test_as_many_are_prepared_as_an_open_loop_may_have_in_flight_and_more_for_a_closed_one(target: OwnTarget) -> None:
    with target.prepare(plan(target), Point(2, 3, request_rate=100)) as prepared:
        assert len(prepared) == 3
    with target.prepare(plan(target), Point(2, 3)) as prepared:
        assert len(prepared) == 12


def test_answers_are_taken_as_they_come(broker: FakeBroker, requests: OwnRequests) -> None:
    # Given three requests, sent as two and one
    broker.hold = True
    requests.send([2, 0])
    requests.send([1])
    broker.wait_held(3)
    # When the first and the last are answered in one frame
    before_ns = time.monotonic_ns()
    broker.answer(2, 0)
    answers = list(requests.take())
    # Then both are there, by their numbers, read at one moment
    assert sorted(answer.number for answer in answers) == [1, 2]
    assert before_ns < answers[0].read_ns == answers[1].read_ns <= answers[0].ended_ns <= answers[1].ended_ns
    assert [answer.error for answer in answers] == [None, None]
    # And the other comes when it is answered
    broker.answer(1)
    assert [answer.number for answer in requests.take(SOON_NS * 1000)] == [0]


def test_a_wait_ends_in_time_with_nothing(broker: FakeBroker, requests: OwnRequests) -> None:
    broker.hold = True
    requests.send([0, 1])
    began_ns = time.monotonic_ns()
    assert list(requests.take(SOON_NS)) == []
    assert time.monotonic_ns() - began_ns >= SOON_NS
    # And what was waited for in vain can be waited for again
    broker.wait_held(2)
    broker.answer(0, 1)
    assert sorted(answer.number for answer in requests.take()) == [0, 1]


def test_a_refused_request_is_an_answer(broker: FakeBroker, requests: OwnRequests) -> None:
    broker.hold = True
    requests.send([0, 1])
    broker.wait_held(2)
    broker.fail("OVERLOADED")
    (answer,) = requests.take()
    assert answer.error is not None and answer.error.code == "OVERLOADED"
    # And it can be sent again
    broker.answer(1)
    assert [each.number for each in requests.take()] == [1]
    broker.hold = False
    requests.send([0])
    assert [(each.number, each.error) for each in requests.take()] == [(0, None)]
    assert len(broker.of(Infer)) == 3


def test_what_has_failed_is_told_when_its_memory_is_free(broker: FakeBroker, requests: OwnRequests) -> None:
    # Given two requests, of which one fails while a worker still has its memory
    broker.hold = True
    requests.send([0, 1])
    broker.wait_held(2)
    broker.fail("DEADLINE_EXCEEDED", released=False)
    # Then that is nothing that could be sent again
    assert list(requests.take(SOON_NS)) == []
    requests.check_invariants()
    # When the other is answered, it is told alone
    broker.answer(1)
    assert [each.number for each in requests.take()] == [1]
    # And when the memory is free, the failure is told, and the next can be sent
    broker.release()
    (answer,) = requests.take()
    assert (answer.number, answer.error.code) == (0, "DEADLINE_EXCEEDED")  # type: ignore[union-attr]
    broker.hold = False
    requests.send([0])
    assert [(each.number, each.error) for each in requests.take()] == [(0, None)]


def test_a_connection_that_is_lost_frees_what_was_withheld(broker: FakeBroker, requests: OwnRequests) -> None:
    broker.hold = True
    requests.send([0])
    broker.wait_held(1)
    broker.fail("DEADLINE_EXCEEDED", released=False)
    assert list(requests.take(SOON_NS)) == []
    broker.die()
    assert [each.number for each in requests.take()] == [0]


def test_a_lost_connection_is_no_answer(broker: FakeBroker, requests: OwnRequests) -> None:
    broker.hold = True
    requests.send([0, 1])
    broker.wait_held(2)
    broker.die()
    with pytest.raises(BrokerError, match="was lost"):
        list(requests.take())


def test_a_model_that_cannot_give_back_what_it_gets_is_not_verified(target: OwnTarget) -> None:
    output = target.model.outputs[0]._replace(datatype="INT8")
    target.model = target.model._replace(outputs=(output,))
    with pytest.raises(CallerError, match="--verify is for"), target.prepare(plan(target, verify=True), Point(1, 1)):
        pass


def test_a_model_that_is_not_there_leaves_no_connection(broker: FakeBroker) -> None:
    link = parse_address(broker.address).kind
    with pytest.raises(CallerError, match="nosuch"):
        open_target(TargetSpec(link=link, address=broker.address, model="nosuch"))
