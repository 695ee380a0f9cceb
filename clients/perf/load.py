# SPDX-License-Identifier: Apache-2.0
"""The closed loop: so many requests in flight, each answered one followed at once by the next. One thread does it all.

It waits for whichever answer comes first, takes all that were read with it, and sends as many again as one frame.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..client import Client
from ..futures import InferFuture
from ..results import InferResult
from ..slots import Slot
from .percentiles import WindowFigures
from .stages import ClientTimes

BEGAN, SENT, READ, ENDED = range(4)
"""The moments of a request: its message begun, its message sent, its answer read, its result built. Monotonic ns."""

Check = Callable[[Slot, InferResult], None]
"""Looks at a result, after its request has been timed. Raises what is wrong with it."""


class Load(NamedTuple):
    """What the client saw in one window. `moments`: int64 [requests, 4], in the order in which the requests ended."""

    moments: npt.NDArray[np.int64]
    rows: int
    cpu_ns: int = 0  # that this process took

    @property
    def elapsed_ns(self) -> int:
        """From the first request to the last result."""
        return int(self.moments[:, ENDED].max() - self.moments[:, BEGAN].min())

    @property
    def latencies_ns(self) -> npt.NDArray[np.int64]:
        """Of each request."""
        latencies: npt.NDArray[np.int64] = self.moments[:, ENDED] - self.moments[:, BEGAN]
        return latencies

    @property
    def times(self) -> ClientTimes:
        """Where they went, on this side."""
        return ClientTimes(len(self.moments), *(int(total) for total in np.diff(self.moments, axis=1).sum(axis=0)))

    @property
    def figures(self) -> WindowFigures:
        """What windows are compared by."""
        return WindowFigures(self.rows / self.elapsed_ns * 1e9, float(self.latencies_ns.mean()))


class ClosedLoop:
    """Keeps `concurrency` requests of `batch` rows in flight while it runs, from at least as many slots."""

    def __init__(self, client: Client, slots: Iterable[Slot], batch: int, concurrency: int, check: Check | None = None) -> None:
        self._client = client
        self._batch = batch
        self._concurrency = concurrency
        self._check = check
        #: slots that no request has, the one that is to be used next first
        self._idle = deque(slots)
        #: future of each request in flight -> its slot, and when its message was begun and sent
        self._flying: dict[InferFuture, tuple[Slot, int, int]] = {}

    def __repr__(self) -> str:
        return f"<ClosedLoop of {self._concurrency}: {len(self._flying)} in flight, {len(self._idle)} slots idle>"

    def check_invariants(self) -> None:
        """Never more in flight than there should be, nor fewer slots than that takes."""
        assert len(self._flying) <= self._concurrency <= len(self._flying) + len(self._idle), self

    def run(self, duration_ns: int = 0, requests: int = 0) -> Load:
        """Begins with nothing in flight and ends so, after that long or (unless 0) that many requests. Raises PenstockError."""
        moments = array("q")
        cpu_ns = time.process_time_ns()
        left = requests or 1 << 62
        end_ns = 1 << 62 if requests else time.monotonic_ns() + duration_ns
        if self._concurrency == 1:
            self._run_one(moments, end_ns, left)
        else:
            left -= self._send(min(self._concurrency, left))
            while self._flying:
                answered = self._take(moments)
                if left and moments[-1] < end_ns:
                    left -= self._send(min(answered, left))
        found = np.frombuffer(moments, np.int64).reshape(-1, 4)
        return Load(found, len(found) * self._batch, time.process_time_ns() - cpu_ns)

    def _run_one(self, moments: Any, end_ns: int, left: int) -> None:
        """The same for one request at a time, with less between one and the next."""
        clock, submit, idle, check = time.monotonic_ns, self._client.submit, self._idle, self._check
        ended_ns = 0
        while left and ended_ns < end_ns:
            slot = idle.popleft()
            began_ns = clock()
            future = submit(slot)
            sent_ns = clock()
            read_ns = future.wait_for_any((future,))
            result = future.result()
            ended_ns = clock()
            moments.extend((began_ns, sent_ns, read_ns, ended_ns))
            if check is not None:
                check(slot, result)
            idle.append(slot)
            left -= 1

    def _send(self, count: int) -> int:
        """Sends so many requests; returns how many."""
        slots = [self._idle.popleft() for _ in range(count)]
        began_ns = time.monotonic_ns()
        futures = [self._client.submit(slots[0])] if count == 1 else self._client.submit_many(slots)
        sent_ns = time.monotonic_ns()
        for slot, future in zip(slots, futures, strict=True):
            self._flying[future] = slot, began_ns, sent_ns
        return count

    def _take(self, moments: Any) -> int:
        """Waits for the next answers and writes down their requests' moments; returns how many."""
        flying = self._flying
        read_ns = next(iter(flying)).wait_for_any(flying)
        results = []
        for future in [future for future in flying if future.answered]:
            slot, began_ns, sent_ns = flying.pop(future)
            results.append((slot, future.result()))
            moments.extend((began_ns, sent_ns, read_ns, time.monotonic_ns()))
        for slot, result in results:  # when all are timed: none waits for another's check
            if self._check is not None:
                self._check(slot, result)
            self._idle.append(slot)
        return len(results)
