# SPDX-License-Identifier: Apache-2.0
"""The broker's event loop on real descriptors: who is called back, and who is not any more."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from penstock.runtime.event_loop import EventLoop


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop()
    yield made
    made.close()


def readable() -> int:
    """A descriptor that has something to say."""
    return os.eventfd(1)


@pytest.mark.parametrize("timeout_s", [1e3, 1e7, 2**63 / 1e9])
def test_a_wait_may_be_as_long_as_the_farthest_deadline(loop: EventLoop, timeout_s: float) -> None:
    """epoll takes no more than 2 ** 31 ms, which is 25 days."""
    fd, called = readable(), []
    loop.add(fd, called.append)
    loop.turn(timeout_s)
    loop.remove(fd)
    os.close(fd)
    assert len(called) == 1


def test_whoever_is_ready_is_called_in_every_turn_until_removed(loop: EventLoop) -> None:
    fd, called = readable(), []
    loop.add(fd, called.append)
    loop.turn(0)
    loop.turn(0)
    loop.remove(fd)
    loop.remove(fd)
    loop.turn(0)
    os.close(fd)
    assert len(called) == 2


def test_one_that_is_removed_by_another_in_the_same_turn_is_not_called(loop: EventLoop) -> None:
    """Given two that are ready, when either removes the other, then that one is not called."""
    fds, called = [readable(), readable()], []

    def callback(own: int, other: int) -> None:
        called.append(own)
        loop.remove(other)

    loop.add(fds[0], lambda _events: callback(fds[0], fds[1]))
    loop.add(fds[1], lambda _events: callback(fds[1], fds[0]))
    loop.turn(0)
    assert len(called) == 1
    for fd in fds:
        loop.remove(fd)
        os.close(fd)


def test_a_new_descriptor_is_not_called_for_what_happened_to_an_old_one_of_that_number(loop: EventLoop) -> None:
    """Given two dead clients, when the first one's end makes room for a client that lives, then that one is not taken for dead."""
    fds, died = [readable(), readable()], []

    def replace(other: int) -> None:
        loop.remove(other)
        os.close(other)
        again = os.eventfd(0)
        if again != other:
            os.dup2(again, other)
            os.close(again)
        loop.add(other, died.append)

    loop.add(fds[0], lambda _events: replace(fds[1]))
    loop.add(fds[1], lambda _events: replace(fds[0]))
    loop.turn(0)
    assert died == []
    for fd in fds:
        loop.remove(fd)
        os.close(fd)
