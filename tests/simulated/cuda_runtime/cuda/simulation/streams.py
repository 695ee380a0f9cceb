# SPDX-License-Identifier: Apache-2.0
"""Streams that run late, events, and what is put into them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .captures import Capture, Mark

PATIENCE = 3
"""How often one must ask before the answer is yes."""


class Range(NamedTuple):
    """Memory that some work reads or writes."""

    address: int
    byte_size: int

    def meets(self, address: int, byte_size: int) -> bool:
        return self.address < address + byte_size and address < self.address + self.byte_size


class Work:
    """One thing in a stream. `after` must be done first, wherever it is."""

    __slots__ = ("after", "asked", "done_ns", "run", "stream", "touches")

    def __init__(self, run: Callable[[], None], touches: Sequence[Range] = (), after: Sequence[Work] = ()) -> None:
        self.run = run
        self.touches = touches
        self.after = after
        self.stream: Stream | None = None
        self.asked = 0
        self.done_ns = 0

    @property
    def is_done(self) -> bool:
        return self.done_ns > 0


class Stream:
    """Work in order."""

    def __init__(self, address: int, ordinal: int, is_blocking: bool, priority: int) -> None:
        self.address = address
        self.ordinal = ordinal
        #: whether the default stream waits for it, and it for the default stream
        self.is_blocking = is_blocking
        self.priority = priority
        self.work: deque[Work] = deque()
        #: whether some thread executes the stream's first work now
        self.is_running = False
        self.is_held = False
        self.capture: Capture | None = None

    def __repr__(self) -> str:
        return f"<stream {self.address:#x}: {len(self.work)} to do>"


class Event:
    """The work that it was recorded after; while a graph is captured, a mark in that."""

    def __init__(self, address: int, flags: int, ordinal: int) -> None:
        self.address = address
        self.ordinal = ordinal
        self.is_timed = not flags & 2
        self.last: Work | Mark | None = None

    def __repr__(self) -> str:
        return f"<event {self.address:#x}>"


class Executor:
    """Does the work of streams, by the thread that waits for it, with the lock open meanwhile."""

    def __init__(self, lock: threading.Condition, is_paused: Callable[[], bool], fail: Callable[[BaseException], None]) -> None:
        self._lock = lock
        self._is_paused = is_paused
        self._fail = fail

    def complete(self, work: Work, patiently: bool = True) -> bool:
        """Does everything up to this work. Without patience: False when that would mean to wait for another thread or a pause."""
        while not work.is_done:
            stream = work.stream
            assert stream is not None
            if stream.is_running or stream.is_held or self._is_paused():
                if not patiently:
                    return False
                self._lock.wait(0.005)  # a pause ends without a word: its file is gone
                continue
            first = stream.work[0]
            unmet = next((before for before in first.after if not before.is_done), None)
            if unmet is None:
                self._execute(stream, first)
            elif not self.complete(unmet, patiently):
                return False
        return True

    def drain(self, stream: Stream) -> None:
        if stream.work:
            self.complete(stream.work[-1])
        while stream.is_running:
            self._lock.wait(0.005)

    def _execute(self, stream: Stream, work: Work) -> None:
        stream.is_running = True
        self._lock.release()
        failure = None
        try:
            work.run()
        except BaseException as error:  # noqa: BLE001 - whatever a kernel raises costs the context, as on a device
            failure = error
        finally:
            self._lock.acquire()
            stream.is_running = False
        if failure is not None:
            self._fail(failure)
        if stream.work and stream.work[0] is work:
            stream.work.popleft()
        work.done_ns = time.perf_counter_ns()
        self._lock.notify_all()


def ask(executor: Executor, work: Work) -> bool:
    """Whether work is done, as asked by a query: not at once, though nothing is in its way."""
    if work.is_done:
        return True
    work.asked += 1
    return work.asked >= PATIENCE and executor.complete(work, patiently=False)
