# SPDX-License-Identifier: Apache-2.0
"""InferFuture: a concurrent.futures.Future that costs little until somebody asks for what is dear.

A plain Future makes a condition variable when it is born (about 2 us). This one makes it when the first callback is
added or the first `wait`/`as_completed` looks at it; `result()` needs none, since it reads the socket itself (turns.py).
Everything of the base class that touches its private state is either overridden here or goes through the properties below,
which are those that CPython's concurrent/futures/_base.py uses (3.10 to 3.14).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent import futures
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Protocol

from .pending import Entry, State
from .results import InferResult

_PENDING, _FINISHED, _CANCELLED = "PENDING", "FINISHED", "CANCELLED_AND_NOTIFIED"  # _base.py's names of the states


if TYPE_CHECKING:
    _Future = Future[InferResult]
else:
    _Future = Future


class Reading(Protocol):
    """What a future needs of its connection."""

    def wait(self, entry: Entry, timeout_s: float | None = None) -> bool:
        """Reads, or sleeps while another thread reads, until the entry is answered (True) or time is up."""

    def watch(self, future: InferFuture) -> None:
        """Somebody wants to hear of this future without reading: gives it a condition, and sees to it that someone reads."""

    def cancel(self, entry: Entry, error: BaseException) -> bool:
        """Gives up on the entry unless it is answered, and tells the broker."""

    @property
    def heard_ns(self) -> int:
        """When something was last read, on the monotonic clock."""


class FirstOf(Entry):
    """Stands for several requests that wait: answered as soon as one of them is. Never sent itself."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Collection[Entry]) -> None:
        # Not Entry.__init__, which says that there is no answer.
        self._entries = entries
        self.deadline_ns = 0
        self.waiters = None

    def __repr__(self) -> str:
        return f"<FirstOf {len(self._entries)} requests{' answered' if self.answered else ''}>"

    @property
    def answered(self) -> bool:  # type: ignore[override]  # the base class's can be set as well
        """Whether one of them has an answer."""
        return any(entry.answered for entry in self._entries)


class Release(Entry):
    """Stands for the memory of a request that failed while a worker had it: answered once it is free, or all is lost."""

    __slots__ = ("_request",)

    def __init__(self, request: Entry) -> None:
        # Not Entry.__init__, as above.
        self._request = request
        self.deadline_ns = 0
        self.waiters = None

    def __repr__(self) -> str:
        return f"<Release of {self._request!r}>"

    @property
    def answered(self) -> bool:  # type: ignore[override]  # as above
        """Whether no worker can touch it any more."""
        return self._request.state in (State.ENDED, State.LOST)


class InferFuture(Entry, _Future):
    """The result of a request that was submitted. `result()` gives an InferResult; `cancel()` cancels at whatever stage."""

    def __init__(self, reading: Reading, number: int, lease: Any, deadline_ns: int) -> None:
        # Not Future.__init__, which makes the condition.
        Entry.__init__(self, number, lease, deadline_ns)
        self._reading = reading
        self.condition: threading.Condition | None = None
        self.watched = False
        self._built: InferResult | None = None

    def __repr__(self) -> str:
        return f"<InferFuture {self.number} {self.state.value}{' answered' if self.answered else ''}>"

    # --- what concurrent.futures looks at ---------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # a type checker sees the attributes of the base class, which only reads them

        @property
        def _condition(self) -> threading.Condition:
            if self.condition is None:
                self._reading.watch(self)
            assert self.condition is not None
            return self.condition

        @property
        def _state(self) -> str:
            if not self.answered:
                return _PENDING
            return _CANCELLED if isinstance(self.error, CancelledError) else _FINISHED

    def make_condition(self) -> None:
        """Called by the connection, which serialises this with the answer."""
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], object]] = []
        self.condition = threading.Condition()

    def announce(self) -> None:
        """Tells `wait`, `as_completed` and the callbacks. Called once, after the answer, by a thread that holds no lock."""
        condition = self._condition
        with condition:
            for waiter in self._waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self.error is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]  # the base class's own: logs what a callback raises

    # --- what a user calls ------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether there is an answer. One who only asks this is not left waiting: somebody will read."""
        if not self.answered and not self.watched:
            self._reading.watch(self)
        return self.answered

    def cancelled(self) -> bool:
        """Whether `cancel` came before the answer."""
        return isinstance(self.error, CancelledError)

    def running(self) -> bool:
        """False: a request can be cancelled at every stage, so it never is what Future calls running."""
        return False

    def cancel(self) -> bool:
        """Cancels, at whatever stage the request is. False when it has been answered. Its memory is free once released."""
        return self._reading.cancel(self, CancelledError()) or self.cancelled()

    def result(self, timeout: float | None = None) -> InferResult:
        """The InferResult; waits for it. Raises its PenstockError, CancelledError, or TimeoutError after `timeout` s."""
        if not self.answered and not self._reading.wait(self, timeout):
            raise futures.TimeoutError  # the builtin one, since Python 3.11
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback holds this frame: no cycle
        if self._built is None:
            assert self.lease is not None
            self._built = self.lease.build_result(self)
        return self._built

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that `result` would raise, or None. Raises CancelledError and TimeoutError as `result` does."""
        if not self.answered and not self._reading.wait(self, timeout):
            raise futures.TimeoutError  # the builtin one, since Python 3.11
        if isinstance(self.error, CancelledError):
            raise self.error
        return self.error

    def wait_for_any(self, entries: Collection[InferFuture | Release], timeout_s: float | None = None) -> int:
        """Reads until one of these, all of this future's client, is answered; when that was read, in monotonic ns.

        Or until `timeout_s` is over (None: no limit). Those that have an answer then say so by `answered`. For the only thread
        that waits on a client: costs a fraction of concurrent.futures.wait, which has another thread read, and heeds no
        timeouts of requests.
        """
        self._reading.wait(FirstOf(entries) if len(entries) > 1 else next(iter(entries)), timeout_s)
        return self._reading.heard_ns

    def set_result(self, _result: Any) -> None:
        """Not for callers: the answer comes from the broker."""
        raise RuntimeError("an InferFuture is answered by the broker")

    def set_exception(self, _exception: BaseException | None) -> None:
        """Not for callers: the answer comes from the broker."""
        raise RuntimeError("an InferFuture is answered by the broker")
