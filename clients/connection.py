# SPDX-License-Identifier: Apache-2.0
"""One connection to a broker, shared by all threads of a client: who writes, who reads, and what becomes of each answer.

The caller writes its own message; what is queued while another thread writes goes out with that thread's next frame. The
caller then waits, and whoever waits first reads for all (turns.py). No thread of our own is on that path.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ..ipc.addresses import Address
from ..ipc.errors import BrokerError, CallerError, Code, PenstockError
from ..ipc.local import LinkClosed
from ..ipc.messages import Cancel, Goodbye, Message, Ping, Welcome
from .futures import InferFuture
from .inbox import Inbox
from .last_resort import LastResort
from .links import Link
from .outbox import Outbox
from .pending import Entry, Pending
from .turns import Turns, Waiter
from .watch import Watch

RETRY_S = 0.002
"""How soon a full socket is tried again. It is full only when the broker is stopped or far behind."""


class Connection:
    """A link that has been welcomed. Ends once, with `lost` saying why; never comes back."""

    def __init__(self, link: Link, welcome: Welcome, address: Address) -> None:
        self.welcome = welcome
        self.address = address
        self.lost: Callable[[], PenstockError] | None = None  # makes the error that calls get
        self.reads = 0  # by which the reader of last resort sees that somebody else reads
        self.watched = 0  # unanswered futures that somebody wants to hear of without reading
        self._link = link
        self._lock = threading.Lock()  # around all of the books: pending, inbox, turns, watched, lost
        self._pending = Pending()
        self._inbox = Inbox(link, self._pending)
        self._outbox = Outbox(link)
        self._turns = Turns()
        self._watch = Watch(link.fileno())
        self._last_resort = LastResort(self, welcome.lease_s / 3)
        self._closing = False
        self._forked = False

    def __repr__(self) -> str:
        state = "lost" if self.lost else "alive"
        return f"<Connection to {self.address} {state}, {self._pending!r}, {self._inbox!r}, {self._outbox!r}, {self._turns!r}>"

    def check_invariants(self) -> None:
        """Those of the parts; a lost connection keeps nobody waiting."""
        with self._lock:
            self._pending.check_invariants()
            self._turns.check_invariants()
            assert self.lost is None or not (len(self._pending) or self.watched), self

    # --- asking -----------------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._pending

    def start(self, entry: Entry, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """Sends a request; its answer comes to `entry`. Raises BrokerError, and has done nothing, on a lost connection."""
        with self._lock:
            if self.lost is not None:
                raise self.lost()
            self._pending.add(entry)
        self._outbox.put(message, fds, parts)
        self._push()

    def start_all(self, requests: Sequence[tuple[Entry, Message, Sequence[bytes]]]) -> None:
        """The same for several requests, in one frame."""
        with self._lock:
            if self.lost is not None:
                raise self.lost()
            for entry, _, _ in requests:
                self._pending.add(entry)
        self._outbox.put_all((message, (), parts) for _, message, parts in requests)
        self._push()

    def cancel(self, entry: Entry, error: BaseException) -> bool:
        """Gives up on the entry, which gets `error`, and tells the broker. False when it was answered before."""
        self._raise_if_forked()
        with self._lock:
            if not self._pending.abandon(entry, error):
                return False
            announced = self._tell([entry])
            self._wake_leader()
        if entry.lease is not None:
            self._outbox.put(Cancel(entry.number))
            self._push()
        _announce(announced)
        return True

    def watch(self, future: InferFuture) -> None:
        """Somebody wants to hear of the future without reading: sees to it that it has a condition, and a reader."""
        self._raise_if_forked()
        with self._lock:
            if future.condition is None:
                future.make_condition()
            if not future.answered and not future.watched:
                future.watched = True
                self.watched += 1
                self._wake_leader()  # should it be the reader of last resort, it learns of the deadline
                self._last_resort.need()

    def ping(self) -> None:
        """Keeps the session's lease, where it has one."""
        self._outbox.put(Ping())
        self._push()
        self.glance()

    def _push(self, patient: bool = False) -> None:
        try:
            refused = self._outbox.push(patient)
        except (LinkClosed, PenstockError) as error:
            self._lose(error)
            return
        for message, why in refused:
            with self._lock:
                entry = self._pending.get(getattr(message, "id", None))
                announced = self._tell([entry]) if entry is not None and self._pending.settle(entry, None, why) else []
            _announce(announced)
        if self._outbox.stuck:
            with self._lock:
                self._wake_leader()  # which tries again after RETRY_S

    # --- waiting ----------------------------------------------------------------------------------------------------------

    def wait(self, entry: Entry, timeout_s: float | None = None) -> bool:
        """Reads, or sleeps while another thread reads, until the entry is answered (True) or time is up (False).

        The entry's own deadline answers it, so that no call outlives a broker that is stopped.
        """
        self._raise_if_forked()
        limit_ns = 0 if timeout_s is None else time.monotonic_ns() + int(max(timeout_s, 0.0) * 1e9)
        until_ns = min(limit_ns or entry.deadline_ns, entry.deadline_ns or limit_ns)
        while not entry.answered:
            with self._lock:
                if entry.answered:
                    break
                waiter = None if self._turns.take() else self._turns.follow(entry)
                if waiter is not None and self._turns.by_last_resort:
                    self._wake_leader()
            if waiter is None or self._sleep(waiter, until_ns):
                self._lead(entry, until_ns)
            if until_ns and not entry.answered and (now_ns := time.monotonic_ns()) >= until_ns:
                self._expire(now_ns)
                if limit_ns and now_ns >= limit_ns:
                    return entry.answered
        return True

    def _sleep(self, waiter: Waiter, until_ns: int) -> bool:
        """A follower's sleep. Returns whether it has become the leader."""
        awake = False
        try:
            awake = waiter.lock.acquire(timeout=max(until_ns - time.monotonic_ns(), 0) / 1e9 if until_ns else -1)
        finally:
            if not awake:  # time is up, or the thread was interrupted
                with self._lock:
                    self._turns.leave(waiter)
        return awake and waiter.chosen

    def _expire(self, now_ns: int) -> None:
        with self._lock:
            late = self._pending.expired(now_ns)
        for entry in late:
            self.cancel(entry, _no_answer(self.address))

    # --- reading ----------------------------------------------------------------------------------------------------------

    def _lead(self, entry: Entry | None, until_ns: int) -> None:
        """The leader's time: reads until its entry is answered. None: the reader of last resort, for all watched futures."""
        announced: list[InferFuture] = []
        try:
            while not announced and self.lost is None:
                if entry.answered if entry is not None else (self._turns.wanted or not self.watched):
                    break
                if not self._read(announced):
                    self._doze(until_ns)
                    if until_ns and time.monotonic_ns() >= until_ns:
                        break
        finally:
            self._step_down()
        _announce(announced)  # with the lead passed on: a callback may call this client again

    def _read(self, announced: list[InferFuture]) -> bool:
        """Reads what is there. False when there is nothing."""
        self.reads += 1
        answered: list[Entry] = []
        try:
            messages = self._link.receive()
            if not messages:
                return False
            with self._lock:
                try:
                    self._inbox.take(messages, answered)
                finally:
                    announced += self._tell(answered)
        except (LinkClosed, PenstockError) as error:
            self._lose(error)
        return True

    def _doze(self, until_ns: int) -> None:
        """Waits for input, or for another thread to wake the leader; not past `until_ns`."""
        timeout_s = max(until_ns - time.monotonic_ns(), 0) / 1e9 if until_ns else None
        if self._outbox.stuck:
            timeout_s = RETRY_S if timeout_s is None else min(timeout_s, RETRY_S)
        self._watch.wait(timeout_s)
        if self._outbox.stuck:
            self._push()

    def _step_down(self) -> None:
        with self._lock:
            self._turns.pass_on()
            self._let_go()

    def glance(self) -> None:
        """Takes note of what has arrived, without waiting: releases, or that the broker is gone."""
        with self._lock:
            if self.lost is not None or not self._turns.take():
                return
        announced: list[InferFuture] = []
        try:
            self._read(announced)
        finally:
            self._step_down()
        _announce(announced)

    def read_as_last_resort(self) -> bool:
        """Leads for all watched futures until a caller waits. False when somebody leads already."""
        with self._lock:
            if self.lost is not None or not self._turns.take(last_resort=True):
                return False
            until_ns = self._pending.next_deadline_ns() or 0
        self._lead(None, until_ns)
        if until_ns and (now_ns := time.monotonic_ns()) >= until_ns:
            self._expire(now_ns)
        return True

    def _tell(self, answered: Sequence[Entry]) -> list[InferFuture]:
        """Wakes who sleeps for these entries; returns the futures to be announced once no lock is held. Lock held."""
        announced = []
        for entry in answered:
            if entry.waiters is not None:
                self._turns.wake(entry)
            if type(entry) is InferFuture and entry.condition is not None:
                self.watched -= entry.watched
                announced.append(entry)
        return announced

    def _wake_leader(self) -> None:
        if self._turns.taken:
            self._watch.interrupt()

    # --- the end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Says goodbye; what is in flight ends with an error. Idempotent."""
        if not self._forked:
            self._closing = True  # the broker may hang up before we do
            self._outbox.put(Goodbye())
            self._push(patient=True)
            self._lose(None)

    def _lose(self, reason: Exception | None) -> None:
        """The connection has ended. Everybody is told, at once."""
        make_error = _closed if self._closing or reason is None else _lost(self.address, reason)
        with self._lock:
            if self.lost is not None:
                return
            self.lost = make_error
            announced = self._tell(self._pending.lose(make_error))
            self._last_resort.stop()
            self._wake_leader()
            self._let_go()
        _announce(announced)

    def _let_go(self) -> None:
        """Closes what is open, once the connection has ended and nobody reads. Lock held."""
        if self.lost is not None and not self._turns.taken and not self._watch.closed:
            self._watch.close()
            self._outbox.close()
            self._link.close()

    def forked(self) -> None:
        """In a forked child: the connection is the parent's, and its locks may be held by threads that are not here."""
        self._forked = True
        self.lost = used_after_fork

    def _raise_if_forked(self) -> None:
        if self._forked:
            raise used_after_fork()


def _announce(announced: Sequence[InferFuture]) -> None:
    for future in announced:
        future.announce()


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
