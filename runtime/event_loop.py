# SPDX-License-Identifier: Apache-2.0
"""An epoll with a callback per descriptor: all of the broker's waiting happens here."""

from __future__ import annotations

import select
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
LONGEST_S = 86_400.0
"""No wait is longer: epoll's own limit is 2 ** 31 ms, and a deadline or a queue timeout may be beyond it."""


class EventLoop:
    """An epoll with a callback per descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        #: no longer watched since the last turn began
        self._removed: set[int] = set()

    def __repr__(self) -> str:
        return f"<EventLoop {len(self._callbacks)} descriptors>"

    def add(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """Calls back with the events whenever `fd` has some."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Changes what `fd` is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stops watching; to be called before the descriptor is closed. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._removed.add(fd)

    def turn(self, timeout_s: float) -> None:
        """Waits for something to happen, and calls back for all that did."""
        callbacks, removed = self._callbacks, self._removed
        removed.clear()
        for fd, events in self._epoll.poll(min(timeout_s, LONGEST_S)):
            if fd not in removed:  # else what happened did so to a descriptor that is closed: the number may be another's now
                callbacks[fd](events)

    def close(self) -> None:
        """Closes the epoll itself."""
        self._epoll.close()
