# SPDX-License-Identifier: Apache-2.0
"""When an event loop is told to look: input, deadlines, a full socket, the lease; and nothing any more after the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.clients.loop_reader import LoopReader

SECOND_NS = 1_000_000_000


class FakeTimer:
    def __init__(self, delay_s: float, action: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Notes what it is asked for; the test does it."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[FakeTimer] = []
        self.soon: list[Callable[[], None]] = []

    def add_reader(self, fd: int, action: Callable[[], None]) -> None:
        self.readers[fd] = action

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_later(self, delay_s: float, action: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(delay_s, action))
        return self.timers[-1]

    def call_soon(self, action: Callable[[], None]) -> None:
        self.soon.append(action)

    def is_closed(self) -> bool:
        return False

    def running(self) -> list[FakeTimer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def fire(self) -> None:
        """The one timer that runs is due."""
        (timer,) = self.running()
        self.timers.clear()
        timer.action()


class FakeHost:
    def __init__(self) -> None:
        self.did: list[str] = []
        self.next_deadline_ns = 0

    def fileno(self) -> int:
        return 7

    def glance(self) -> None:
        self.did.append("glance")

    def push(self) -> None:
        self.did.append("push")

    def ping(self) -> None:
        self.did.append("ping")

    def expire(self) -> int:
        self.did.append("expire")
        return self.next_deadline_ns


class Rig:
    def __init__(self) -> None:
        self.loop: Any = FakeLoop()
        self.host = FakeHost()
        self.reader = LoopReader(self.loop, self.host, 0.0)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.reader.check_invariants()


def in_s(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * SECOND_NS)


def test_input_is_looked_at_from_the_start_to_the_end(rig: Rig) -> None:
    assert repr(rig.reader) == "<LoopReader not started, 0 timers>"
    rig.reader.start()
    rig.reader.start()
    assert list(rig.loop.readers) == [7]
    rig.loop.readers[7]()
    assert rig.host.did == ["glance"]
    rig.reader.stop()
    assert not rig.loop.readers
    rig.reader.stop()
    rig.reader.start()
    assert not rig.loop.readers


def test_the_earliest_deadline_is_waited_for_and_then_the_next(rig: Rig) -> None:
    rig.reader.arm(in_s(10))
    rig.reader.arm(in_s(20))
    rig.reader.arm(in_s(5))
    (timer,) = rig.loop.running()
    assert 4 < timer.delay_s <= 5
    rig.host.next_deadline_ns = in_s(7)
    rig.loop.fire()
    (timer,) = rig.loop.running()
    assert 6 < timer.delay_s <= 7
    rig.host.next_deadline_ns = 0
    rig.loop.fire()
    assert rig.host.did == ["expire", "expire"]
    assert not rig.loop.running()
    rig.reader.arm(in_s(-1))
    (timer,) = rig.loop.running()
    assert timer.delay_s == 0


def test_what_is_put_in_together_is_pushed_once(rig: Rig) -> None:
    for _ in range(3):
        rig.reader.push_later()
    (push,) = rig.loop.soon
    push()
    rig.reader.push_later()
    assert rig.host.did == ["push"]
    assert len(rig.loop.soon) == 2


def test_a_full_socket_is_tried_again_by_one_timer(rig: Rig) -> None:
    rig.reader.need()
    rig.reader.need()
    rig.loop.fire()
    assert rig.host.did == ["push"]
    rig.reader.need()
    assert len(rig.loop.running()) == 1


def test_a_lease_is_kept_by_pings(rig: Rig) -> None:
    reader = LoopReader(rig.loop, rig.host, 3.0)
    reader.start()
    for _ in range(2):
        (timer,) = rig.loop.running()
        assert timer.delay_s == 3
        rig.loop.fire()
    assert rig.host.did == ["ping", "ping"]
    reader.stop()
    reader.check_invariants()
    assert not rig.loop.running()


def test_after_the_end_nothing_is_begun(rig: Rig) -> None:
    rig.reader.start()
    rig.reader.arm(in_s(1))
    rig.reader.stop()
    rig.reader.arm(in_s(1))
    rig.reader.need()
    assert not rig.loop.running()
