# SPDX-License-Identifier: Apache-2.0
"""A mark in a stream that can be waited for, asked about, and timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ipc import cuda
from .owner import Owner
from .streams import NOT_READY

if TYPE_CHECKING:
    from .streams import Stream


class Event(Owner):
    """A mark that a stream passes; it may be recorded again, and then stands for the last time.

    `timed`: knows when it was passed (a little more work for the device). `blocking`: a thread in synchronize() sleeps,
    whatever the device was opened with. An event belongs to the device that the thread uses when it is made.
    """

    __slots__ = ("_query", "_record", "_synchronize", "blocking", "handle", "timed")

    def __init__(self, timed: bool = False, blocking: bool = False) -> None:
        super().__init__()
        self.timed = timed
        self.blocking = blocking
        api = cuda.runtime()
        flags = (0 if timed else api.cudaEventDisableTiming) | (api.cudaEventBlockingSync if blocking else 0)
        self.handle: Any = cuda.call("cudaEventCreateWithFlags", flags)
        self._query = api.cudaEventQuery
        self._record = cuda.bound("cudaEventRecord")
        self._synchronize = cuda.bound("cudaEventSynchronize")

    def __repr__(self) -> str:
        traits = [name for name, has in (("timed", self.timed), ("blocking", self.blocking)) if has]
        return f"<Event {int(self.handle):#x}{', ' if traits else ''}{', '.join(traits)}{self._state()}>"

    def record(self, stream: Stream) -> None:
        """Marks this point of the stream."""
        self._record(self.handle, stream.handle)

    def is_done(self) -> bool:
        """Whether the stream is past the mark. True for an event that was never recorded."""
        error = self._query(self.handle)[0]
        if error and error != NOT_READY:
            raise cuda.failure("cudaEventQuery", error)
        return not error

    def synchronize(self) -> None:
        """Waits until the stream is past the mark; other Python threads run meanwhile."""
        self._synchronize(self.handle)

    def ns_since(self, earlier: Event) -> int:
        """Nanoseconds between two marks that streams have passed, with the device's resolution of about 500."""
        milliseconds: float = cuda.call("cudaEventElapsedTime", earlier.handle, self.handle)
        return round(milliseconds * 1e6)

    def check_invariants(self) -> None:
        """Raises AssertionError when there is no event."""
        assert self.is_closed or int(self.handle), repr(self)

    def _release(self) -> None:
        cuda.call("cudaEventDestroy", self.handle)
