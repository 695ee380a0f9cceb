# SPDX-License-Identifier: Apache-2.0
"""One connection to a broker, shared by all threads of a client: who writes, who reads, and what becomes of each answer.

The caller writes its own message; what is queued while another thread writes goes out with that thread's next frame. The
caller then waits, and whoever waits first reads for all (turns.py). No thread of our own is on that path.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..ipc.addresses import Address
from ..ipc.errors import BrokerError, CallerError, Code, PenstockError
from ..ipc.local import LinkClosed
from ..ipc.messages import Cancel, Goodbye, Message, Ping, Welcome
from .books import Books
from .futures import InferFuture
from .inbox import OnAdjusted, OnRefusal
from .leading import Leading, announce
from .links import Link
from .outbox import Outbox
from .pending import Entry
from .watch import Watch


class Standby(Protocol):
    """Who reads and sends when no caller does: last_resort.py with a thread of its own, loop_reader.py on an event loop."""

    @property
    def push_later(self) -> Callable[[], None] | None:
        """Sends what was put, soon, together with what is put until then. None: every caller sends its own."""

    def need(self) -> None:
        """There is a future to be watched, or something to be sent that the socket did not take."""

    def stop(self) -> None:
        """The connection has ended, and its descriptors are about to be closed."""


MakeStandby = Callable[["Connection", Leading, Books, float], Standby]
"""Of the connection, who reads, the books, and how often a Ping is due, in seconds (0: never)."""


class Connection:
    """A link that has been welcomed. Ends once; `is_lost` from then on."""

    def __init__(
        self, link: Link, welcome: Welcome, address: Address, make_standby: MakeStandby, on_refusal: OnRefusal,
        on_adjusted: OnAdjusted | None = None,
    ) -> None:  # fmt: skip
        self.welcome = welcome
        self.address = address
        self._link = link
        self._input = Watch(link.fileno())
        self._books = Books(link, self._input, on_refusal, on_adjusted)
        self._outbox = Outbox(link)
        self._leading = Leading(self, link, self._books, self._input)
        self._standby = make_standby(self, self._leading, self._books, welcome.lease_s / 3)
        self._send = self._standby.push_later or self.push
        self._letting_go = threading.Lock()
        self._closing = False
        self._forked = False

    def __repr__(self) -> str:
        return f"<Connection to {self.address} {self._books!r}, {self._outbox!r}>"

    def check_invariants(self) -> None:
        """Those of the books."""
        self._books.check_invariants()

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, or belongs to the process that this one was forked from."""
        return self._forked or self._books.lost is not None

    @property
    def takes_inline_only(self) -> bool:
        """Whether tensors travel beside the messages: broker and client share no memory."""
        return self.address.is_tcp or self.welcome.inline_only

    def fileno(self) -> int:
        """The link's descriptor, to be polled for input only."""
        return self._link.fileno()

    @property
    def stuck(self) -> bool:
        """Whether something is to be sent that the socket did not take."""
        return self._outbox.stuck

    @property
    def heard_ns(self) -> int:
        """When something of the broker was last read, on the monotonic clock."""
        return self._leading.heard_ns

    # --- asking -----------------------------------------------------------------------------------------------------------

    def start(self, entry: Entry, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """Sends a request; its answer comes to `entry`. Raises BrokerError, and has done nothing, on a lost connection."""
        self._books.add((entry,))
        self._outbox.put(message, fds, parts)
        self._send()

    def start_all(self, requests: Sequence[tuple[Entry, Message, Sequence[bytes]]]) -> None:
        """The same for several requests, in one frame."""
        self._books.add([entry for entry, _, _ in requests])
        self._outbox.put_all((message, (), parts) for _, message, parts in requests)
        self.push()

    def cancel(self, entry: Entry, error: BaseException) -> bool:
        """Gives up on the entry, which gets `error`, and tells the broker. False when it was answered before."""
        self._raise_if_forked()
        announced = self._books.abandon(entry, error)
        if announced is None:
            return False
        if entry.lease is not None:
            self._outbox.put(Cancel(entry.number))
            self.push()
        announce(announced)
        return True

    def watch(self, future: InferFuture) -> None:
        """Somebody wants to hear of the future without reading: sees to it that it has a condition, and a reader."""
        self._raise_if_forked()
        if self._books.watch(future):
            self._standby.need()

    def ping(self) -> None:
        """Keeps the session's lease, where it has one."""
        self._outbox.put(Ping())
        self.push()
        self.glance()

    def push(self, patient: bool = False) -> None:
        """Sends what waits to be sent, as far as the socket takes it."""
        try:
            refused = self._outbox.push(patient)
        except (LinkClosed, PenstockError) as error:
            self.lose(error)
            return
        for message, why in refused:
            announce(self._books.refuse(message, why))
        if self._outbox.stuck:
            self._books.wake_leader()  # which tries again soon
            self._standby.need()  # where nobody leads, since nobody waits

    # --- waiting ----------------------------------------------------------------------------------------------------------

    def wait(self, entry: Entry, timeout_s: float | None = None) -> bool:
        """Reads, or sleeps while another thread reads, until the entry is answered (True) or time is up (False).

        The entry's own deadline answers it, so that no call outlives a broker that is stopped.
        """
        self._raise_if_forked()
        limit_ns = 0 if timeout_s is None else time.monotonic_ns() + int(max(timeout_s, 0.0) * 1e9)
        until_ns = min(limit_ns or entry.deadline_ns, entry.deadline_ns or limit_ns)
        while not entry.answered:
            waiter = self._books.queue(entry)
            if waiter is None or self._books.sleep(waiter, until_ns):
                self._leading.lead(entry, until_ns)
            if until_ns and not entry.answered and (now_ns := time.monotonic_ns()) >= until_ns:
                self._expire(now_ns)
                if limit_ns and now_ns >= limit_ns:
                    return entry.answered
        return True

    def expire(self) -> int:
        """Answers what is overdue. Returns when the next deadline is over (0: there is none)."""
        self._expire(time.monotonic_ns())
        return self._books.next_deadline_ns()

    def _expire(self, now_ns: int) -> None:
        for entry in self._books.expired(now_ns):
            self.cancel(entry, _no_answer(self.address))

    def look(self) -> None:
        """Glances, unless something is in flight (somebody reads then) or the broker was heard of a moment ago."""
        if self._books.is_idle and not self._leading.is_fresh:
            self.glance()

    def glance(self) -> None:
        """Takes note of what has arrived, without waiting: releases, or that the broker is gone."""
        if self._books.take_lead():
            self._leading.glance()

    def read_as_last_resort(self) -> bool:
        """Leads for all watched futures until a caller waits. False when somebody leads already."""
        until_ns = self._books.take_lead_as_last_resort()
        if until_ns is None:
            return False
        self._leading.lead(None, until_ns)
        if until_ns and (now_ns := time.monotonic_ns()) >= until_ns:
            self._expire(now_ns)
        return True

    # --- the end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Says goodbye; what is in flight ends with an error. Idempotent."""
        if not (self._forked or self._closing):
            self._closing = True  # the broker may hang up before we do
            self._outbox.put(Goodbye())
            self.push(patient=True)
            self.lose(None)

    def lose(self, reason: Exception | None) -> None:
        """The connection has ended. Everybody is told, at once."""
        announced = self._books.lose(_closed if self._closing or reason is None else _lost(self.address, reason))
        if announced is None:
            return
        self._standby.stop()
        if self._books.nobody_leads:  # else the leader lets go when it steps down
            self.let_go()
        announce(announced)

    def let_go(self) -> None:
        """Closes what is open: the connection has ended, and nobody reads, now or later."""
        with self._letting_go:
            self._outbox.close()
            self._link.close()
            self._input.close()

    def forked(self) -> None:
        """In a forked child: the connection is the parent's, and its locks may be held by threads that are not here."""
        self._forked = True

    def _raise_if_forked(self) -> None:
        if self._forked:
            raise used_after_fork()


def used_after_fork() -> PenstockError:
    """What a forked child gets that uses its parent's client."""
    return CallerError("this client was made before a fork, and belongs to the parent process: make one of your own")


def _lost(address: Address, reason: Exception) -> Callable[[], PenstockError]:
    why = reason.message if isinstance(reason, PenstockError) else str(reason)
    text = f"connection to the broker at {address} was lost ({why}); the request may or may not have run"
    return lambda: BrokerError(text)  # holds the text only: an exception holds its frames, and they hold slots


def _closed() -> PenstockError:
    return CallerError("this client is closed", Code.CANCELLED)


def _no_answer(address: Address) -> PenstockError:
    return BrokerError(f"no answer within the timeout: the broker at {address} may be stopped", Code.DEADLINE_EXCEEDED)
