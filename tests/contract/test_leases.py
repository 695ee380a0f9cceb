# SPDX-License-Identifier: Apache-2.0
"""Leases of tcp:// sessions: the real door and a real connection, but a clock that moves when told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.messages import Failed, Goodbye, Hello, Message, Ping, Pong, Query, ToClient, Welcome
from penstock.ipc.zeromq import DealerLink
from penstock.runtime.core import Core
from penstock.runtime.doors import ZmqDoor
from penstock.runtime.event_loop import EventLoop
from penstock.runtime.gateways import GatewayProcess
from penstock.runtime.instances import WorkerProcess
from penstock.runtime.sessions import Session
from penstock.runtime.settings import Settings

LEASE_S = 10
S = 1_000_000_000
PATIENCE_S = 5.0


class Porch:
    """A ZeroMQ door with a core behind it and nothing else."""

    def __init__(self, address: str) -> None:
        self.now_ns = 1000 * S
        settings = Settings(addresses=(address,), lease_s=LEASE_S)
        self.loop = EventLoop()
        self.core = Core(settings, self, lambda: self.now_ns)  # type: ignore[arg-type]  # no workers, so no more of a host
        self.door = ZmqDoor(address, self.loop, self.core, settings)

    def forget(self, session: Session) -> None:
        self.door.forget(session)

    def launch(self, name: str, environment: Mapping[str, str]) -> WorkerProcess:
        raise AssertionError(f"no worker is to be started: {name}")

    def launch_gateway(self, number: int) -> GatewayProcess:
        raise AssertionError(f"no gateway is to be started: {number}")

    def lose_gateway(self, number: int) -> None:
        raise AssertionError(f"no gateway is to be given up: {number}")

    def start_mps(self, *_arguments: object) -> None:
        raise AssertionError("no worker is to share a GPU")

    def turn(self) -> None:
        self.loop.turn(0.01)
        while self.door.read_more(self.now_ns):
            continue
        self.core.flush()

    def pass_time(self, seconds: float, stalled_s: float = 0.0) -> None:
        """Time passes, of which the broker itself did not run for a part."""
        self.now_ns += int(seconds * S)
        self.door.sweep(self.now_ns, int(stalled_s * S))
        self.turn()

    @property
    def sessions(self) -> int:
        return len(self.core.reception.sessions)

    def close(self) -> None:
        for session in list(self.core.reception.sessions.values()):
            self.core.reception.end(session, "test over")
        self.door.close()
        self.loop.close()


class Caller:
    """A client on the porch."""

    def __init__(self, porch: Porch) -> None:
        self._porch = porch
        self.link: DealerLink[Any] = DealerLink(FrameDecoder(ToClient))
        self.link.connect(porch.door.address)
        self._heard: list[Any] = []
        self.welcome = self.ask(Hello(os.urandom(16)))

    def say(self, message: Message) -> None:
        self.link.put(message)
        self.link.flush(block=True)

    def hear(self) -> Any:
        for _ in range(int(PATIENCE_S * 100)):
            self._porch.turn()
            self._heard += self.link.receive() if self.link.wait(0) else []
            if self._heard:
                return self._heard.pop(0)
        raise AssertionError("nothing is said")

    def ask(self, message: Message) -> Any:
        self.say(message)
        return self.hear()


@pytest.fixture
def porch() -> Iterator[Porch]:
    made = Porch("tcp://127.0.0.1:0")
    yield made
    made.close()


@pytest.fixture
def caller(porch: Porch) -> Iterator[Caller]:
    made = Caller(porch)
    yield made
    made.link.close()


def test_a_tcp_session_is_told_its_lease(caller: Caller) -> None:
    assert isinstance(caller.welcome, Welcome)
    assert (caller.welcome.lease_s, caller.welcome.inline_only) == (LEASE_S, True)


def test_silence_ends_the_session_and_the_client_is_told(porch: Porch, caller: Caller) -> None:
    porch.pass_time(LEASE_S)
    assert porch.sessions == 1
    porch.pass_time(0.001)
    assert porch.sessions == 0
    failed = caller.hear()
    assert isinstance(failed, Failed) and failed.id is None
    assert "not heard of for 10 s" in failed.message
    assert caller.ask(Query(1, "status")).message == "say Hello first"
    assert isinstance(caller.ask(Hello(os.urandom(16))), Welcome), "the connection goes on"


@pytest.mark.parametrize("word", [Ping(), Query(1, "ready"), Hello(bytes(16))])
def test_any_word_keeps_the_session(porch: Porch, caller: Caller, word: Message) -> None:
    for _ in range(5):
        porch.pass_time(LEASE_S - 1)
        caller.ask(word)
    assert porch.sessions == 1
    assert isinstance(caller.ask(Ping()), Pong)


def test_each_session_has_a_lease_of_its_own(porch: Porch, caller: Caller) -> None:
    silent = Caller(porch)
    try:
        porch.pass_time(6)
        assert isinstance(caller.ask(Ping()), Pong)
        porch.pass_time(6)
        assert porch.sessions == 1
        assert "not heard of" in silent.hear().message
        assert isinstance(caller.ask(Ping()), Pong)
    finally:
        silent.link.close()


def test_time_in_which_the_broker_did_not_run_is_nobodys_silence(porch: Porch, caller: Caller) -> None:
    porch.pass_time(3600, stalled_s=3599)
    assert porch.sessions == 1
    porch.pass_time(LEASE_S - 1)
    assert porch.sessions == 1
    porch.pass_time(1)
    assert porch.sessions == 0
    assert "not heard of" in caller.hear().message


def test_a_stall_before_the_session_began_adds_nothing_to_its_lease(porch: Porch, caller: Caller) -> None:
    """Given a broker that had nothing to wake up for in an hour, when a client comes and dies, then its lease is 10 s."""
    porch.pass_time(0, stalled_s=3600)
    porch.pass_time(LEASE_S + 1)
    assert porch.sessions == 0
    assert "not heard of" in caller.hear().message


def test_the_door_asks_to_be_woken_only_while_there_is_a_lease(porch: Porch) -> None:
    assert porch.door.wake_ns(7) is None
    caller = Caller(porch)
    assert porch.door.wake_ns(7) == 7
    caller.say(Goodbye())
    while porch.sessions:
        porch.turn()
    assert porch.door.wake_ns(7) is None
    caller.link.close()


def test_a_session_whose_process_can_be_watched_needs_no_lease(tmp_path: Path) -> None:
    """Over ipc://, then silence is nothing."""
    porch = Porch(f"ipc://{tmp_path}/door")
    try:
        caller = Caller(porch)
        assert (caller.welcome.lease_s, caller.welcome.inline_only) == (0, False)
        porch.pass_time(3600)
        assert isinstance(caller.ask(Ping()), Pong)
        caller.link.close()
    finally:
        porch.close()
