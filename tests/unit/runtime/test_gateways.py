# SPDX-License-Identifier: Apache-2.0
"""Gateways that the broker starts: when one is started again, when it is given up, and how all leave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs
from scripted import ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.errors import MachineError
from penstock.ipc.messages import Failed, Hello, Query
from penstock.ipc.peers import Peer
from penstock.runtime.draining import drain
from penstock.runtime.gateways import SERVED_DELAY_NS, STARTS_WITHIN_NS, Gateways
from penstock.runtime.restarts import CRASHES, FIRST_DELAY_NS
from penstock.runtime.sessions import Session
from penstock.runtime.settings import GatewaySpec


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(gateways=GatewaySpec(processes=2, http_port=0))
    made.start()
    yield made
    made.end_sessions()


def gateways_of(broker: ScriptedBroker) -> Gateways:
    return broker.core.gateways


def rows(broker: ScriptedBroker) -> list[dict[str, Any]]:
    return gateways_of(broker).describe(broker.core.reception.sessions.values())


def states(broker: ScriptedBroker) -> list[str]:
    return [row["state"] for row in rows(broker)]


def connected(broker: ScriptedBroker, pid: int) -> Session:
    """A process has connected and says that it is a gateway, and serves."""
    peer = Peer(pid, os.getuid(), os.getgid(), None)
    session = broker.core.reception.open(ScriptedLink(), peer, takes_fds=True)
    broker.say(session, Hello(os.urandom(16)), Query(1, "gateway"))
    link_of(session).take()
    return session


def later(broker: ScriptedBroker, ns: int) -> None:
    broker.now_ns += ns
    broker.settle()


def test_the_broker_is_settled_when_each_has_said_that_it_serves(broker: ScriptedBroker) -> None:
    first, second = broker.gateways
    connected(broker, first.pid)
    assert not broker.core.is_settled()
    session = connected(broker, second.pid)
    assert broker.core.is_settled()
    assert states(broker) == ["serving", "serving"]
    assert rows(broker)[1]["session"] == session.number


def test_a_gateway_of_somebody_else_is_none_of_these(broker: ScriptedBroker) -> None:
    session = connected(broker, 77)
    assert states(broker) == ["starting", "starting"]
    assert not gateways_of(broker).has(session)


def test_one_that_dies_is_started_again_after_the_back_off(broker: ScriptedBroker) -> None:
    gateways_of(broker).exited(0, "died (signal 9)")
    assert states(broker) == ["paused", "starting"]
    assert broker.core.next_deadline() == broker.now_ns + FIRST_DELAY_NS
    later(broker, FIRST_DELAY_NS - 1)
    assert len(broker.gateways) == 2
    later(broker, 1)
    assert states(broker) == ["starting", "starting"]
    assert (rows(broker)[0]["restarts"], rows(broker)[0]["pid"]) == (1, broker.gateways[2].pid)


def crash(broker: ScriptedBroker, times: int) -> None:
    for _ in range(times):
        later(broker, 2 * 10**9)
        gateways_of(broker).exited(0, "exited with status 1", "no uvloop")


def test_after_five_crashes_it_is_given_up_and_nobody_is_to_wait_for_it(broker: ScriptedBroker) -> None:
    connected(broker, broker.gateways[1].pid)
    crash(broker, CRASHES - 1)
    assert broker.lost_gateways == [] and not broker.core.is_settled()
    crash(broker, 1)
    reason = "it crashed 5 times in 60 s, last: exited with status 1: no uvloop"
    assert gateways_of(broker).lost() == {"gateway 0": reason}
    assert broker.lost_gateways == [0]
    assert states(broker) == ["given up", "serving"]
    assert broker.core.is_settled()
    later(broker, 3600 * 10**9)
    assert states(broker) == ["given up", "serving"]


def test_one_that_has_served_is_started_again_however_often_it_dies(broker: ScriptedBroker) -> None:
    for _ in range(3 * CRASHES):
        connected(broker, broker.gateways[-1].pid)
        gateways_of(broker).exited(1, "died (signal 11)")
        assert states(broker)[1] == "paused"
        later(broker, SERVED_DELAY_NS)
        assert states(broker)[1] == "starting"
    assert rows(broker)[1]["restarts"] == 3 * CRASHES


def test_one_that_the_machine_refuses_is_tried_again(broker: ScriptedBroker) -> None:
    broker.refuses = MachineError("no more processes")
    gateways_of(broker).exited(0, "died (signal 9)")
    later(broker, FIRST_DELAY_NS)
    assert (states(broker)[0], rows(broker)[0]["reason"]) == ("paused", "no more processes")
    broker.refuses = None
    later(broker, 2 * FIRST_DELAY_NS)
    assert states(broker)[0] == "starting"


def test_one_that_hangs_at_its_start_is_killed_and_started_again(broker: ScriptedBroker) -> None:
    first, second = broker.gateways
    connected(broker, second.pid)
    later(broker, STARTS_WITHIN_NS - 1)
    assert not first.is_killed
    later(broker, 1)
    assert (first.is_killed, second.is_killed) == (True, False)
    gateways_of(broker).exited(0, "died (signal 9)")
    assert states(broker) == ["paused", "serving"]
    later(broker, FIRST_DELAY_NS)
    assert states(broker) == ["starting", "serving"]


def test_one_that_does_not_leave_is_killed_when_the_workers_time_is_over(broker: ScriptedBroker) -> None:
    broker.core.settings = structs.replace(broker.core.settings, drain_s=0.0, kill_s=0.0)
    with pytest.raises(Waited):
        drain(broker.core, wait, lambda _now_ns: None, lambda: None)
    assert [each.is_killed for each in broker.gateways] == [True, True]


class Waited(Exception):  # noqa: N818 - the end of a test
    """The broker waits for something to happen."""


def wait(_until_ns: int | None) -> None:
    raise Waited


def test_told_to_leave_each_leaves_once_and_none_is_started_again(broker: ScriptedBroker) -> None:
    first, second = broker.gateways
    connected(broker, second.pid)
    gateways_of(broker).exited(0, "died (signal 9)")
    gateways_of(broker).stop()
    gateways_of(broker).stop()
    assert (first.is_told_to_leave, second.is_told_to_leave) == (False, True)
    assert states(broker) == ["gone", "leaving"]
    assert not gateways_of(broker).are_gone
    gateways_of(broker).exited(1, "exited with status 0")
    assert gateways_of(broker).are_gone
    later(broker, 10**9)
    assert len(broker.gateways) == 2
    assert gateways_of(broker).lost() == {}


def test_killed_are_those_that_are_there(broker: ScriptedBroker) -> None:
    gateways_of(broker).exited(0, "died (signal 9)")
    gateways_of(broker).kill()
    assert [each.is_killed for each in broker.gateways] == [False, True]


def test_while_the_broker_stops_only_its_own_gateways_are_served(broker: ScriptedBroker) -> None:
    ours, theirs, local = connected(broker, broker.gateways[0].pid), connected(broker, 77), broker.client()
    for session in (ours, theirs):
        broker.register(session, "r")
        link_of(session).take()
    broker.core.stopping = True
    for session in (ours, theirs, local):
        broker.infer(session)
    assert [bool(link_of(session).take(Failed)) for session in (ours, theirs, local)] == [False, True, True]
    assert len(ours.in_flight) == 1
    (batch,) = broker.batches()
    broker.finish(batch)
    assert not ours.in_flight
