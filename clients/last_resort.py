# SPDX-License-Identifier: Apache-2.0
"""The reader of last resort: the one thread of the library's own, for futures that somebody awaits without reading.

It is started by the first `add_done_callback`, `wait`, `as_completed` or `done()` on a future without an answer, or when a
full socket did not take all that was submitted (over tcp:// at once, since it also keeps the lease). It reads only when nobody
has read for a millisecond, and gives way to any caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

UNREAD_S = 0.001
MAX_LOOK_S = 0.016
"""While callers read, it looks only this often whether they still do."""


class Host(Protocol):
    """What it needs of the host."""

    @property
    def stuck(self) -> bool:
        """Whether something is to be sent that the socket did not take."""

    def push(self) -> None:
        """Tries to send it."""

    def read_as_last_resort(self) -> bool:
        """Reads until a caller wants to. False when somebody reads already."""

    def ping(self) -> None:
        """Keeps the lease."""


class Readings(Protocol):
    """How often the link has been read, by anybody."""

    reads: int


class Watched(Protocol):
    """How many unanswered futures are watched."""

    watched: int


class LastResort:
    """Owns the thread. `need` and `stop` may be called by any thread."""

    def __init__(self, host: Host, readings: Readings, books: Watched, ping_s: float) -> None:
        self._host = host
        self._readings = readings
        self._books = books
        self._ping_s = ping_s  # 0: no lease to be kept
        self.push_later: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._needed = threading.Event()
        self._stopped = threading.Event()
        if ping_s > 0:
            self._start()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped.is_set() else "needed" if self._needed.is_set() else "asleep"
        return f"<LastResort {state}{'' if self._thread else ', never started'}>"

    def need(self) -> None:
        """There is a future to be watched, or something to be sent that the socket did not take."""
        self._needed.set()
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                self._start()

    def stop(self) -> None:
        """The connection has ended. The thread ends by itself."""
        self._stopped.set()
        self._needed.set()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="penstock-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        host, readings, books = self._host, self._readings, self._books
        ping_at = time.monotonic() + self._ping_s
        look_s = UNREAD_S
        while not self._stopped.is_set():
            self._needed.wait(max(ping_at - time.monotonic(), 0.0) if self._ping_s else None)
            if self._ping_s and time.monotonic() >= ping_at:
                ping_at = time.monotonic() + self._ping_s
                host.ping()
            if not books.watched and not host.stuck:
                self._needed.clear()
                if books.watched or host.stuck:  # between the two lines
                    self._needed.set()
                continue
            reads = readings.reads
            if self._stopped.wait(look_s):
                return
            if host.stuck:
                host.push()
            led = readings.reads == reads and host.read_as_last_resort()
            look_s = UNREAD_S if led else min(look_s * 2, MAX_LOOK_S)
