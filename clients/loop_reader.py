# SPDX-License-Identifier: Apache-2.0
"""The connection's standby on an event loop: the loop says when there is input, when a deadline is over, when a Ping is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from .leading import RETRY_S


class Host(Protocol):
    """What it needs of the connection."""

    def fileno(self) -> int:
        """To be polled for input, level-triggered."""

    def glance(self) -> None:
        """Reads what is there."""

    def push(self) -> None:
        """Tries to send what is to be sent."""

    def ping(self) -> None:
        """Keeps the lease."""

    def expire(self) -> int:
        """Answers what is overdue. Returns when the next deadline is over (0: there is none)."""


class LoopReader:
    """Made by the thread that connects; everything else is for the loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: Host, ping_s: float) -> None:
        self._loop = loop
        self._host = host
        self._ping_s = ping_s  # 0: no lease to be kept
        self._fd = -1  # what the loop polls
        self._stopped = False
        self._pushing = False  # the loop has been told to push
        self._due_ns = 0  # when the deadline's timer runs out; 0: it does not run
        #: what runs, by what it is for
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "reading" if self._fd >= 0 else "not started"
        return f"<LoopReader {state}, {len(self._timers)} timers>"

    def check_invariants(self) -> None:
        """Nothing of a stopped one is left with the loop."""
        assert not self._stopped or (self._fd < 0 and not self._timers), self
        assert bool(self._due_ns) == (self._on_deadline in self._timers), self

    def start(self) -> None:
        """Reads from now on, unless the connection has ended already. Idempotent."""
        if self._fd < 0 and not self._stopped:
            self._fd = self._host.fileno()
            self._loop.add_reader(self._fd, self._host.glance)
            if self._ping_s:
                self._run(self._on_ping, self._ping_s)

    def arm(self, deadline_ns: int) -> None:
        """Something is to be answered by then."""
        if not self._stopped and (not self._due_ns or deadline_ns < self._due_ns):
            self._due_ns = deadline_ns
            self._run(self._on_deadline, max(deadline_ns - time.monotonic_ns(), 0) / 1e9)

    def push_later(self) -> None:
        """Sends in one frame what the tasks that are about to run put in."""
        if not self._pushing:
            self._pushing = True
            self._loop.call_soon(self._on_push)

    def need(self) -> None:
        """The socket did not take everything: it is tried again soon."""
        if self._on_full not in self._timers:
            self._run(self._on_full, RETRY_S)

    def stop(self) -> None:
        """The connection has ended, and its descriptors are about to be closed. Idempotent."""
        self._stopped = True
        if not self._loop.is_closed():
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)
            for timer in self._timers.values():
                timer.cancel()
        self._fd, self._due_ns = -1, 0
        self._timers.clear()

    def _run(self, action: Callable[[], None], delay_s: float) -> None:
        """Has the loop call `action` after that time, and not at another it was told before."""
        if not self._stopped:
            if action in self._timers:
                self._timers[action].cancel()
            self._timers[action] = self._loop.call_later(delay_s, action)

    def _on_deadline(self) -> None:
        del self._timers[self._on_deadline]
        self._due_ns = 0
        due_ns = self._host.expire()
        if due_ns:
            self.arm(due_ns)

    def _on_push(self) -> None:
        self._pushing = False
        self._host.push()

    def _on_full(self) -> None:
        del self._timers[self._on_full]
        self._host.push()  # which says so when it is still full

    def _on_ping(self) -> None:
        self._run(self._on_ping, self._ping_s)
        self._host.ping()
