# SPDX-License-Identifier: Apache-2.0
"""Waiting for a link's input in such a way that another thread can end the wait."""

from __future__ import annotations

import os
import select
import threading

SELECTABLE = 1024
"""Descriptors below this can be waited for by select(2) (FD_SETSIZE), which counts us where Python's poll counts ms."""
LONGEST_S = 86400.0
"""No wait is longer: Python's poll takes 24 days at most, and its select 292 years."""


class Watch:
    """One thread waits; any thread interrupts. Not to be closed while one waits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._closing = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Watch {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._wake_fd < 0

    def wait(self, timeout_s: float | None) -> None:
        """Returns when there is input, after an interruption, or when the time is up; sometimes for nothing."""
        limit_s = None if timeout_s is None else min(timeout_s, LONGEST_S)
        if limit_s is None or max(self._fd, self._wake_fd) >= SELECTABLE:
            ready = [fd for fd, _ in self._poll.poll(None if limit_s is None else limit_s * 1000)]
        else:
            ready, _, _ = select.select((self._fd, self._wake_fd), (), (), limit_s)
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)

    def interrupt(self) -> None:
        """Ends the wait that is going on, or the next."""
        with self._closing:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Gives the descriptor back. Idempotent."""
        with self._closing:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
