# SPDX-License-Identifier: Apache-2.0
"""The open loop: requests are sent when they are due, whether or not those before them are answered. One thread does it all.

A closed loop sends nothing while it waits, and so asks a server that has stopped for a moment hardly anything in that moment:
its percentiles do not show what users saw, who came all the same (Tene, "How NOT to Measure Latency": coordinated omission).
Here the time of each request is known beforehand, and its latency is counted from that time, even where it is sent later.
"""

from __future__ import annotations

import time
from collections import deque

from .arrivals import Arrivals
from .closed_loop import ClosedLoop
from .load import ENDED, Load, Recording, Stint
from .sending import send
from .target import Requests
from .waiting import wait_until


class OpenLoop:
    """Sends requests of `batch` rows as `arrivals` says; never more in flight than are prepared: what then is due, waits."""

    def __init__(self, requests: Requests, batch: int, arrivals: Arrivals) -> None:
        self._requests = requests
        self._batch = batch
        self._arrivals = arrivals
        #: requests that are not in flight, the one that is to be sent next first
        self._idle = deque(range(len(requests)))
        #: request in flight -> when it was due, and when its message was sent
        self._flying: dict[int, tuple[int, int]] = {}
        #: when those that were not sent yet are due, in order
        self._due: deque[int] = deque()
        self._late_ns: list[int] = []
        self._most = 0
        self._held_back = 0
        self._freed_ns = 0  # when the last request was answered while all were in flight

    def __repr__(self) -> str:
        return (
            f"<OpenLoop at {self._arrivals.rate:g}/s: {len(self._due)} to be sent, {len(self._flying)} in flight, "
            f"{len(self._idle)} idle>"
        )

    def check_invariants(self) -> None:
        """Every prepared request is idle or in flight; what is due is in order."""
        assert sorted([*self._idle, *self._flying]) == list(range(len(self._requests))), self
        assert sorted(self._due) == list(self._due), self

    def warm_up(self, requests: int) -> Load:
        """So many, one after the other, uncounted."""
        return ClosedLoop(self._requests, self._batch, 1).warm_up(requests)

    def run(self, stint: Stint) -> Load:
        """Begins with nothing in flight and ends so. Raises PenstockError where nothing more can be sent."""
        if stint.requests:
            offsets = self._arrivals.first(stint.requests, stint.number)
            duration_ns = self._arrivals.length_ns(offsets, stint.requests)
        else:
            offsets = self._arrivals.within(stint.duration_ns, stint.number)
            duration_ns = stint.duration_ns
        recording = Recording()
        self._late_ns, self._most, self._held_back = [], 0, 0
        wait_until(stint.begin_ns)
        cpu_ns, began_ns = time.process_time_ns(), stint.begin_ns or time.monotonic_ns()
        self._due.extend((offsets + began_ns).tolist())
        while self._due or self._flying:
            self._send_due()
            self._wait(recording)
        ended_ns = max(recording.moments[ENDED::4], default=0)
        span_ns = began_ns, max(ended_ns, began_ns + duration_ns)
        load = recording.load(self._batch, span_ns, time.process_time_ns() - cpu_ns, self._most)
        return load._replace(scheduled_per_s=len(offsets) / duration_ns * 1e9, late_ns=self._late_ns, held_back=self._held_back)

    def _send_due(self) -> None:
        """Sends what is due, together, as far as there are prepared requests."""
        due, now_ns, numbers, times = self._due, time.monotonic_ns(), [], []
        while due and due[0] <= now_ns and self._idle:
            numbers.append(self._idle.popleft())
            times.append(due.popleft())
        if not numbers:
            return
        for (number, began_ns, sent_ns), due_ns in zip(send(self._requests, numbers), times, strict=True):
            self._flying[number] = due_ns, sent_ns
            self._late_ns.append(began_ns - due_ns)
        self._held_back += sum(due_ns < self._freed_ns for due_ns in times)
        self._most = max(self._most, len(self._flying))

    def _wait(self, recording: Recording) -> None:
        """Until the next is due or answers have come, whose requests' moments are written down."""
        if not self._flying:
            if self._due:
                wait_until(self._due[0])
            return
        is_full = not self._idle
        timeout_ns = max(self._due[0] - time.monotonic_ns(), 0) if self._due and not is_full else None
        for number, read_ns, ended_ns, error in self._requests.take(timeout_ns):
            due_ns, sent_ns = self._flying.pop(number)
            recording.note(due_ns, sent_ns, read_ns, ended_ns, error)
            self._idle.append(number)
        if is_full:
            self._freed_ns = time.monotonic_ns()
