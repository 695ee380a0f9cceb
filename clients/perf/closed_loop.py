# SPDX-License-Identifier: Apache-2.0
"""The closed loop: so many requests in flight, each answered one followed at once by the next. One thread does it all.

It waits for whichever answer comes first, takes all that were read with it, and sends as many again together.
"""

from __future__ import annotations

import time
from collections import deque

from .load import Load, Recording, Stint
from .sending import send
from .target import Requests
from .waiting import wait_until


class ClosedLoop:
    """Keeps `concurrency` requests of `batch` rows in flight while it runs, of at least as many that are prepared."""

    def __init__(self, requests: Requests, batch: int, concurrency: int) -> None:
        self._requests = requests
        self._batch = batch
        self._concurrency = concurrency
        #: requests that are not in flight, the one that is to be sent next first
        self._idle = deque(range(len(requests)))
        #: request in flight -> when its message was begun and sent
        self._flying: dict[int, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<ClosedLoop of {self._concurrency}: {len(self._flying)} in flight, {len(self._idle)} idle>"

    def check_invariants(self) -> None:
        """Never more in flight than there should be, nor fewer prepared than that takes."""
        assert len(self._flying) <= self._concurrency <= len(self._flying) + len(self._idle), self

    def warm_up(self, requests: int) -> Load:
        """So many, uncounted."""
        return self.run(Stint(requests=requests))

    def run(self, stint: Stint) -> Load:
        """Begins with nothing in flight and ends so. Raises PenstockError where nothing more can be sent."""
        wait_until(stint.begin_ns)
        recording = Recording()
        cpu_ns, began_ns = time.process_time_ns(), time.monotonic_ns()
        left = stint.requests or 1 << 62
        end_ns = 1 << 62 if stint.requests else began_ns + stint.duration_ns
        most = min(self._concurrency, left)
        if most == 1:
            ended_ns = self._run_one(recording, end_ns, left)
        else:
            left -= self._send(most)
            while self._flying:
                answered, ended_ns = self._take(recording)
                if left and ended_ns < end_ns:
                    left -= self._send(min(answered, left))
        return recording.load(self._batch, (began_ns, ended_ns), time.process_time_ns() - cpu_ns, most)

    def _run_one(self, recording: Recording, end_ns: int, left: int) -> int:
        """The same for one request at a time, with next to nothing between one and the next: it is noted while that is away."""
        clock, send, take, idle = time.monotonic_ns, self._requests.send, self._requests.take, self._idle
        ended_ns, last = 0, None
        while left and ended_ns < end_ns:
            began_ns = clock()
            send((idle[0],))
            sent_ns = clock()
            idle.rotate(-1)
            if last is not None:
                recording.note(*last)
            ((_, read_ns, ended_ns, error),) = take()
            last = began_ns, sent_ns, read_ns, ended_ns, error
            left -= 1
        if last is not None:
            recording.note(*last)
        return ended_ns

    def _send(self, count: int) -> int:
        """Sends so many requests; returns how many."""
        numbers = [self._idle.popleft() for _ in range(count)]
        self._flying.update((number, (began_ns, sent_ns)) for number, began_ns, sent_ns in send(self._requests, numbers))
        return count

    def _take(self, recording: Recording) -> tuple[int, int]:
        """Waits for the next answers and writes down their requests' moments; returns how many, and when the last ended."""
        count = ended_ns = 0
        for number, read_ns, ended_ns, error in self._requests.take():
            began_ns, sent_ns = self._flying.pop(number)
            recording.note(began_ns, sent_ns, read_ns, ended_ns, error)
            self._idle.append(number)
            count += 1
        return count, ended_ns
