# SPDX-License-Identifier: Apache-2.0
"""HTTP requests in flight: a connection for each, all read and written by the one thread that uses them.

Messages are complete requests, built beforehand: what a request costs here is a call to send it and a call or two to read its
answer. Why tritonclient's async_infer is not used: docs/decisions/0016.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....ipc.errors import BrokerError, Code
from .http_answers import HttpAnswer, HTTPParseError
from .wire import Reply

if TYPE_CHECKING:
    from _typeshed import HasFileno

CONNECT_S = 10.0
READ_BYTES = 65536
TIMED_OUT = 408
"""What some servers say of a connection that they will close because nothing has come over it."""
IDLE, SENDING, AWAITING = range(3)


class Connection:
    """To the server, with at most one request in flight."""

    def __init__(self, url: str, address: tuple[str, int]) -> None:
        self._url = url
        try:
            self.socket = socket.create_connection(address, CONNECT_S)
        except OSError as error:
            raise BrokerError(f"http://{url} cannot be reached: {error.strerror or error}") from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.number = -1  # of the request in flight
        self.state = IDLE
        self._unsent = memoryview(b"")
        self._answer = HttpAnswer()

    def __repr__(self) -> str:
        return f"<Connection to {self._url} {('idle', 'sending', 'awaiting')[self.state]}>"

    def check_invariants(self) -> None:
        """What is sending has something to be sent."""
        assert bool(self._unsent) == (self.state == SENDING), self
        self._answer.check_invariants()

    def begin(self, number: int, message: bytes) -> None:
        """Takes a request, and sends as much of it as goes at once."""
        self.number, self.state, self._unsent = number, SENDING, memoryview(message)
        self.write()

    def write(self) -> None:
        """Sends as much as goes. Where none ever will, what the server has said, or that it is gone, is found by reading."""
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self.state = AWAITING

    def read(self) -> Reply | None:
        """What there is to read; a Reply once the answer is complete, and with what goes wrong before. Raises BrokerError."""
        try:
            content = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._lost(error.strerror or str(error))
        answer = self._answer
        try:
            answer.feed(content)
        except HTTPParseError as error:
            if content:  # else the stream has ended in the middle of it
                why = f"the answer makes no sense: {error}: {content[:60]!r}"
                raise BrokerError(f"http://{self._url}: {why}", Code.INTERNAL) from None
        if answer.complete:
            return self._replied(answer)
        return None if content else self._lost("connection closed before it had answered")

    def _replied(self, answer: HttpAnswer) -> Reply:
        if self.state == IDLE:
            if answer.status_code != TIMED_OUT:
                raise BrokerError(f"http://{self._url} answered without being asked: {answer.status_code}")
            return self._lost("connection timed out")
        if answer.should_close() or self.state == SENDING:  # it would take the rest of this request for the next
            self.socket.close()
        self.state, self._unsent, self._answer = IDLE, memoryview(b""), HttpAnswer()
        return Reply(self.number, time.monotonic_ns(), answer)

    def _lost(self, why: str) -> Reply:
        """An error of the request that was in flight; of none, when the server only closed what it did not need."""
        self.socket.close()
        number = -1 if self.state == IDLE else self.number
        self.state, self._unsent = IDLE, memoryview(b"")
        return Reply(number, time.monotonic_ns(), None, BrokerError(f"http://{self._url}: {why}"))

    @property
    def closed(self) -> bool:
        """By either side."""
        return self.socket.fileno() < 0


class HttpFlights:
    """The connections of one thread to one server. Of those that are free the last one used is used next."""

    def __init__(self, url: str, address: tuple[str, int]) -> None:
        self._url = url
        self._address = address
        self._selector = selectors.EpollSelector()
        self._free: list[Connection] = []
        self._in_flight: set[Connection] = set()
        #: read while others were being sent
        self._replies: list[Reply] = []

    def __repr__(self) -> str:
        return f"<HttpFlights to {self._url}: {len(self._in_flight)} in flight, {len(self._free)} free>"

    def check_invariants(self) -> None:
        """Free connections have nothing in flight."""
        assert all(connection.state == IDLE for connection in self._free), self
        assert all(connection.state != IDLE for connection in self._in_flight), self

    def open(self, count: int) -> None:
        """Makes connections until there are so many. Raises BrokerError."""
        while len(self._free) + len(self._in_flight) < count:
            self._free.append(self._connected())

    def send(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """Returns when the last byte of the last one is with the kernel; answers that come meanwhile are read."""
        if not self._in_flight:
            self._pump(0)  # connections that the server has closed in the meantime are no use
        sending = []
        for number, message in requests:
            connection = self._begun(number, message)
            if connection.state == SENDING:
                self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
                sending.append(connection)
        while any(connection.state == SENDING for connection in sending):
            self._pump(None)

    def take(self, timeout_s: float | None) -> list[Reply]:
        """What was read while requests were sent, else what comes first."""
        if timeout_s is None and not self._in_flight and not self._replies:
            return []
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._replies:
            left = None if deadline is None else deadline - time.monotonic()
            self._pump(left if left is None else max(left, 0))
            if deadline is not None and time.monotonic() >= deadline:
                break
        replies, self._replies = self._replies, []
        return replies

    def close(self) -> None:
        """Closes every connection: the server may cancel what is in flight. Idempotent."""
        for connection in [*self._free, *self._in_flight]:
            connection.socket.close()
        self._free.clear()
        self._in_flight.clear()
        self._replies.clear()
        self._selector.close()

    def _connected(self) -> Connection:
        connection = Connection(self._url, self._address)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _begun(self, number: int, message: bytes) -> Connection:
        connection = self._free.pop() if self._free else self._connected()
        connection.begin(number, message)
        self._in_flight.add(connection)
        return connection

    def _pump(self, timeout_s: float | None) -> None:
        """Reads and writes what can be."""
        for key, events in self._selector.select(timeout_s):
            connection: Connection = key.data
            if events & selectors.EVENT_WRITE:
                self._write(connection)
            if events & selectors.EVENT_READ:
                self._read(key.fileobj, connection)

    def _write(self, connection: Connection) -> None:
        connection.write()
        if connection.state != SENDING:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, registered: HasFileno | int, connection: Connection) -> None:
        reply = connection.read()
        if reply is None:
            return
        if connection.closed:
            self._selector.unregister(registered)
        if reply.number < 0:
            self._free.remove(connection)
            return
        self._in_flight.discard(connection)
        if not connection.closed:
            self._free.append(connection)
        self._replies.append(reply)
