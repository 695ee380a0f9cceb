# SPDX-License-Identifier: Apache-2.0
"""A client's standing with its broker, over as many connections as it takes: reconnecting, and the regions it has registered.

When a connection is lost, what was in flight on it has ended with an error. The next call connects again and registers all
regions again before anything else is said.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from ..ipc.addresses import Address
from ..ipc.errors import BrokerError, CallerError, Code, PenstockError
from ..ipc.messages import Message, Unregister, Welcome
from .connection import Connection, MakeStandby, used_after_fork
from .inbox import OnAdjusted, OnRefusal
from .last_resort import LastResort
from .links import Link, greet, open_link, register_again
from .pending import Entry
from .region_book import Parting, RegionBook, unregistration
from .regions import Region

log = logging.getLogger("penstock.clients")

CONTROL_TIMEOUT_S = 30.0
"""How long the broker may take to answer what is no inference."""
PARTING_TIMEOUT_S = 5.0
"""How long the end of a session waits for workers to close its CUDA memory."""
FIRST_RETRY_S, LAST_RETRY_S = 0.02, 0.25

Question = Callable[[int], tuple[Message, Sequence[int]]]
"""Makes a message of its number, and the descriptors that it brings."""


def client_name(name: str) -> str:
    """What a client is called where it does not say: after its program."""
    return (name or os.path.basename(sys.argv[0] if sys.argv else ""))[:256]


class Session:
    """Thread-safe. `on_connect` hears of every Welcome before regions are registered again. The other two: see inbox.py."""

    def __init__(
        self, address: Address, name: str, connect_timeout_s: float, on_connect: Callable[[Welcome], None],
        on_refusal: OnRefusal, make_standby: MakeStandby = LastResort, on_adjusted: OnAdjusted | None = None,
    ) -> None:  # fmt: skip
        self.address = address
        self.name = name
        self.numbers = itertools.count(1)  # ids are never reused, not even on another connection
        self._connect_timeout_s = connect_timeout_s
        self._on_connect = on_connect
        self._on_refusal = on_refusal
        self._on_adjusted = on_adjusted
        self._make_standby = make_standby
        self._connecting = threading.Lock()
        self.connection: Connection | None = None  # the latest; it may be lost
        self._closed = False
        self.is_forked = False
        self._regions = RegionBook(address)
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _tell_forked(reference))

    def __repr__(self) -> str:
        state = "closed" if self._closed else repr(self.connection)
        return f"<Session with {self.address} {state}, {self._regions!r}>"

    def check_invariants(self) -> None:
        """Those of the parts."""
        self._regions.check_invariants()
        if self.connection is not None:
            self.connection.check_invariants()

    # --- connecting -------------------------------------------------------------------------------------------------------

    def live(self) -> Connection:
        """A connection not known to be lost. Raises BrokerError when none can be had in time, CallerError when closed."""
        connection = self.connection
        if connection is not None:
            connection.look()  # the broker may have gone while nobody was looking
            if not connection.is_lost:
                return connection
        return self._reconnect()

    def _reconnect(self) -> Connection:
        if self.is_forked:
            raise used_after_fork()
        with self._connecting:
            self._raise_if_closed()
            connection = self.connection
            if connection is None or connection.is_lost:
                connection = self.connection = self._connect_in_time()
            return connection

    def _connect_in_time(self) -> Connection:
        """Tries until the time is up: a broker that is being restarted is worth waiting for."""
        deadline_s = time.monotonic() + self._connect_timeout_s
        pause_s = FIRST_RETRY_S
        while True:
            try:
                return self._connect(deadline_s)
            except BrokerError as error:
                if time.monotonic() + pause_s >= deadline_s or error.code is not Code.UNAVAILABLE:
                    raise
            self._raise_if_closed()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LAST_RETRY_S)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise CallerError("this client is closed", Code.CANCELLED)

    def _connect(self, deadline_s: float) -> Connection:
        link = open_link(self.address, max(deadline_s - time.monotonic(), 0.001))
        try:
            welcome = greet(link, self.address, self.name, max(deadline_s, time.monotonic() + 0.1))
            self._on_connect(welcome)
            self._register_again(link, max(deadline_s, time.monotonic() + 1.0))
        except BaseException:
            link.close()
            raise
        return Connection(link, welcome, self.address, self._make_standby, self._on_refusal, self._on_adjusted)

    def _register_again(self, link: Link, deadline_s: float) -> None:
        if not self.keeps_memory:
            self._regions.drop_pooled()  # their keys are unlinked
        refused = register_again(link, self.address, self._regions.all, deadline_s)
        for name, error in refused.items():
            log.warning("region '%s' could not be registered again: %s", name, error)
            self._regions.refused(name)

    @property
    def keeps_memory(self) -> bool:
        """Whether pooled regions can be registered again with the next broker: memfds can, they are handed over."""
        return self.address.kind == "local"

    # --- asking -----------------------------------------------------------------------------------------------------------

    def ask(self, make_message: Question, parts: Sequence[bytes] = (), timeout_s: float | None = CONTROL_TIMEOUT_S) -> Any:
        """Sends what `make_message` makes of a number (and the descriptors it brings), and returns the broker's answer.

        `timeout_s` None: waits as long as the connection lasts.
        """
        return self._ask(self.live(), make_message, parts, timeout_s)

    def _ask(self, connection: Connection, make_message: Question, parts: Sequence[bytes], timeout_s: float | None) -> Any:
        deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
        entry = Entry(next(self.numbers), None, deadline_ns)
        message, fds = make_message(entry.number)
        connection.start(entry, message, fds, parts)
        connection.wait(entry)
        if entry.error is not None:
            try:
                raise entry.error
            finally:
                del entry  # the traceback holds this frame: no cycle, and what the callers' frames hold is free
        return entry.message

    def register(self, region: Region, pooled: bool = False) -> None:
        """Registers a region now, and again after every loss of the connection. Raises what the broker answers."""
        self.book(self.live(), region, pooled)
        try:
            self.ask(region.registration)
        except BaseException as error:
            (self.strike if isinstance(error, Exception) else self.retract)(region)  # interrupted: the broker may have it
            raise

    def book(self, connection: Connection, region: Region, pooled: bool) -> None:
        """A region that is about to be registered, now and with every broker to come. Raises CallerError for what cannot be."""
        if connection.welcome.inline_only:
            raise CallerError(
                f"region '{region.name}': the broker at {self.address} takes tensors inline only", Code.UNSUPPORTED
            )
        self._regions.add(region, pooled)

    def strike(self, region: Region) -> None:
        """The region is not registered after all."""
        self._regions.strike(region.name)

    def unregister(self, region: Region | str) -> None:
        """Forgets one region, or (empty) all that the user registered, and waits until the broker has."""
        for each in self.taken_back(region):
            self.ask(each)

    def taken_back(self, region: Region | str) -> list[Question]:
        """Forgets one region, or all of the user's; returns what is to be asked for that."""
        return [unregistration(each) for each in self._regions.take(region)]

    def drop(self, region: Region) -> None:
        """Unregisters a pooled region without waiting. It is closed when the broker says that no worker has it open."""
        self.retract(region, Parting(region))

    def retract(self, region: Region, parting: Parting | None = None) -> None:
        """Unregisters a region without waiting."""
        self.strike(region)
        connection = self.connection
        if connection is not None and not connection.is_lost:
            number = next(self.numbers)
            try:
                connection.start(Entry(number, parting), Unregister(number, region.name))
                return
            except BrokerError:
                log.debug("region '%s' went with its connection", region.name)
        if parting is not None:
            parting.lose()

    def forked(self) -> None:
        """In a forked child: everything here is the parent's."""
        self.is_forked = True
        if self.connection is not None:
            self.connection.forked()

    # --- the end ----------------------------------------------------------------------------------------------------------

    def partings(self) -> list[Question]:
        """What is to be asked before the end: CUDA memory of the pool is given back when no worker has it open."""
        stands = self.connection is not None and not self.connection.is_lost
        return [unregistration(name) for name in self._regions.on_gpus() if stands]

    def give_up(self) -> None:
        """No connection is made any more. A thread that tries to make one ends soon, with an error."""
        self._closed = True

    def close(self) -> None:
        """Ends the session; what is in flight ends with an error. Idempotent. In a forked child: leaves the parent's alone."""
        self.give_up()
        if not self.is_forked:
            for question in self.partings():
                with suppress(PenstockError):  # the broker is gone, or a worker too busy: the memory goes all the same
                    self._ask(cast("Connection", self.connection), question, (), PARTING_TIMEOUT_S)
            self.end()

    def end(self) -> None:
        """The rest of `close`, without waiting for the broker. Idempotent."""
        self.give_up()
        with self._connecting:
            if self.connection is not None:
                self.connection.close()
        self._regions.close()


def _tell_forked(reference: weakref.ref[Session]) -> None:
    session = reference()
    if session is not None:
        session.forked()
