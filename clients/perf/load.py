# SPDX-License-Identifier: Apache-2.0
"""What the client saw in a window: the moments of its requests, and what became of those that failed. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.errors import PenstockError, invalid
from .confidence import Span
from .percentiles import WindowFigures
from .stages import ClientTimes

BEGAN, SENT, READ, ENDED = range(4)
"""The moments of a request: its message begun, its message sent, its answer read, its result built. Monotonic ns.

In an open loop a request begins when its time has come, whether or not it can be sent then.
"""


class Stint(NamedTuple):
    """How long a load generator is to send: for a time, or (unless 0) so many requests. All is answered when it ends."""

    duration_ns: int = 0
    requests: int = 0
    begin_ns: int = 0  # CLOCK_MONOTONIC, the same for all processes; 0: at once
    number: int = 0  # of the window at its point: schedules differ by it


class Load(NamedTuple):
    """Of one process in one window, or of several together. `moments`: int64 [requests, 4], of those that succeeded."""

    moments: npt.NDArray[np.int64]
    rows: int  # of those requests
    began_ns: int
    ended_ns: int  # the last result was there, and the schedule of an open loop over
    cpu_ns: int  # of the busiest client process
    most_in_flight: int
    failed: Mapping[str, int]  # code of the error -> requests that failed with it
    first_error: PenstockError | None
    scheduled_per_s: float = 0.0  # requests that the schedule of an open loop had
    late_ns: Sequence[int] = ()  # by how much each of them was sent late
    held_back: int = 0  # those that came due while as many as may be were in flight

    @property
    def elapsed_ns(self) -> int:
        """The length of the window."""
        return self.ended_ns - self.began_ns

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

    @property
    def span(self) -> Span:
        """When its requests ended."""
        return Span(self.elapsed_ns, self.moments[:, ENDED] - self.began_ns)

    def require_some(self) -> None:
        """Raises the first error where no request succeeded, CallerError where none was due: nothing can be measured then."""
        if len(self.moments):
            return
        raise self.first_error or invalid("no request was due in a whole window: a higher rate or longer windows are needed")


class Recording:
    """What a load generator writes down during a stint. `moments`: four after another for each request that succeeded."""

    def __init__(self) -> None:
        self.moments = array("q")
        self.errors: list[PenstockError] = []

    def __repr__(self) -> str:
        return f"<Recording of {len(self.moments) // 4} requests, {len(self.errors)} failures>"

    def check_invariants(self) -> None:
        """Every request has all of its moments."""
        assert len(self.moments) % 4 == 0, self

    def note(self, began_ns: int, sent_ns: int, read_ns: int, ended_ns: int, error: PenstockError | None) -> None:
        """The moments of a request that succeeded; of one that failed, why."""
        if error is None:
            self.moments.extend((began_ns, sent_ns, read_ns, ended_ns))
        else:
            self.errors.append(error)

    def load(self, batch: int, span_ns: tuple[int, int], cpu_ns: int, most_in_flight: int) -> Load:
        """All of it, of requests of `batch` rows each."""
        found = np.frombuffer(self.moments, np.int64).reshape(-1, 4)
        failed = Counter(error.code.value for error in self.errors)
        return Load(
            found, len(found) * batch, *span_ns, cpu_ns, most_in_flight, failed, self.errors[0] if self.errors else None
        )


def gathered(loads: Sequence[Load]) -> Load:
    """Of the processes that shared a window: requests of all, the CPU time of the busiest."""
    return Load(
        moments=np.concatenate([load.moments for load in loads]),
        rows=sum(load.rows for load in loads),
        began_ns=min(load.began_ns for load in loads),
        ended_ns=max(load.ended_ns for load in loads),
        cpu_ns=max(load.cpu_ns for load in loads),
        most_in_flight=sum(load.most_in_flight for load in loads),
        failed=failures_of(loads),
        first_error=next((load.first_error for load in loads if load.first_error is not None), None),
        scheduled_per_s=sum(load.scheduled_per_s for load in loads),
        late_ns=[late for load in loads for late in load.late_ns],
        held_back=sum(load.held_back for load in loads),
    )


def failures_of(loads: Iterable[Load]) -> Counter[str]:
    """Of all of them, by code."""
    counted: Counter[str] = Counter()
    for load in loads:
        counted.update(load.failed)
    return counted
