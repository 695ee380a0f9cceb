# SPDX-License-Identifier: Apache-2.0
"""One descriptor that is readable while there is something to do, made of several that only announce it.

ZeroMQ's descriptors are edge-triggered: asking for input, and even sending, take the announcement away. Whoever finds input
and leaves it there says so here, and `fileno` stays readable until that is taken back.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable


class Readiness:
    """Readable when one of `announcers` is, or while `left` was last set to True. Not for more than one thread to set."""

    __slots__ = ("_epoll", "_event_fd", "_left")

    def __init__(self, announcers: Iterable[int]) -> None:
        self._epoll = select.epoll()
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._left = False
        for fd in (*announcers, self._event_fd):
            self._epoll.register(fd, select.EPOLLIN)

    def __repr__(self) -> str:
        return f"<Readiness {'closed' if self._epoll.closed else 'input left' if self._left else 'quiet'}>"

    def fileno(self) -> int:
        """To be polled for input, level-triggered."""
        return self._epoll.fileno()

    def poll(self, timeout_s: float | None) -> bool:
        """Whether it becomes readable within that time; None: whenever."""
        return bool(self._epoll.poll(timeout_s))

    def set_left(self, left: bool) -> None:
        """Says whether input was left."""
        if left != self._left:
            self._left = left
            if left:
                os.eventfd_write(self._event_fd, 1)
            else:
                os.eventfd_read(self._event_fd)

    def close(self) -> None:
        """Wakes whoever polls, and closes. To be called once."""
        self.set_left(True)
        self._epoll.close()
        os.close(self._event_fd)
