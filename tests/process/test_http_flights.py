# SPDX-License-Identifier: Apache-2.0
"""Requests in flight over HTTP, to a server whose every byte the test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from penstock.clients.perf.targets.http_flights import HttpFlights
from penstock.clients.perf.targets.wire import Reply
from penstock.ipc.errors import BrokerError, Code

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
LARGE = b"POST / HTTP/1.1\r\nContent-Length: 33554432\r\n\r\n" + bytes(1 << 25)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}123"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WAITS_S = 30.0
SOON_S = 0.05


class Server:
    """Its connections, in the order in which they come."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAITS_S)
        self.address = self._listener.getsockname()
        self._connections: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(WAITS_S)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in (self._listener, *self._connections):
            connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def flights(server: Server) -> Iterator[HttpFlights]:
    """With one connection."""
    found = HttpFlights("server:8000", server.address)
    found.open(1)
    yield found
    found.check_invariants()
    found.close()
    found.close()


def taken(flights: HttpFlights) -> Reply:
    (reply,) = flights.take(WAITS_S)
    flights.check_invariants()
    return reply


def asked(flights: HttpFlights, server: Server) -> socket.socket:
    """Request 7 has come over the connection that this returns."""
    flights.send([(7, REQUEST)])
    connection = server.accept()
    assert connection.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
    return connection


@pytest.mark.parametrize(
    "stream",
    [
        ANSWER,
        b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}123\r\n0\r\n\r\n",
    ],
)
def test_answers_in_pieces_over_one_connection(flights: HttpFlights, server: Server, stream: bytes) -> None:
    connection = asked(flights, server)
    for _ in range(2):
        # Given all but the last byte, nothing is taken
        connection.sendall(stream[:-1])
        assert flights.take(SOON_S) == []
        # When that comes, the answer is there, and the connection takes the next request
        connection.sendall(stream[-1:])
        reply = taken(flights)
        assert (reply.number, reply.error, reply.answer.status_code, bytes(reply.answer.body)) == (7, None, 200, b"{}123")
        flights.send([(7, REQUEST)])


def test_a_body_may_last_until_the_connection_ends(flights: HttpFlights, server: Server) -> None:
    connection = asked(flights, server)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{}123")
    connection.close()
    assert bytes(taken(flights).answer.body) == b"{}123"
    # The next request has a connection of its own
    asked(flights, server).sendall(ANSWER)
    assert taken(flights).error is None


@pytest.mark.parametrize("begun", [b"", ANSWER[:20], ANSWER[:-1], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_half_an_answer_fails_its_request_alone(flights: HttpFlights, server: Server, begun: bytes) -> None:
    connection = asked(flights, server)
    connection.sendall(begun)
    connection.close()
    reply = taken(flights)
    assert reply.number == 7 and isinstance(reply.error, BrokerError) and reply.error.code == Code.UNAVAILABLE
    assert reply.error.message == "http://server:8000: connection closed before it had answered"
    asked(flights, server).sendall(ANSWER)
    assert taken(flights).error is None


@pytest.mark.parametrize(
    "stream", [b"\x00\x00\x06\x04\x00\x00", ANSWER + ANSWER, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_answer_ends_it_with_the_address(flights: HttpFlights, server: Server, stream: bytes) -> None:
    asked(flights, server).sendall(stream)
    with pytest.raises(BrokerError, match="http://server:8000: the answer makes no sense: ") as nonsense:
        flights.take(WAITS_S)
    assert nonsense.value.code == Code.INTERNAL


def test_a_request_that_is_answered_before_all_of_it_is_sent_is_answered(flights: HttpFlights, server: Server) -> None:
    # Given a server that refuses a large request when it has seen its head
    connection = server.accept()
    refuse = threading.Thread(target=lambda: connection.recv(16) and connection.sendall(REFUSED))
    refuse.start()
    # When it is sent
    flights.send([(7, LARGE)])
    refuse.join()
    # Then that is its answer, and the rest is not sent, which would be taken for the next request
    reply = taken(flights)
    assert (reply.number, reply.answer.status_code) == (7, 413)
    asked(flights, server).sendall(ANSWER)
    assert taken(flights).error is None


def test_a_connection_that_is_closed_while_nothing_is_asked_is_replaced(flights: HttpFlights, server: Server) -> None:
    connection = server.accept()
    connection.sendall(TIMED_OUT)
    connection.close()
    assert flights.take(SOON_S) == []
    asked(flights, server).sendall(ANSWER)
    assert taken(flights).error is None


def test_an_answer_to_nothing_is_an_error(flights: HttpFlights, server: Server) -> None:
    server.accept().sendall(ANSWER)
    with pytest.raises(BrokerError, match="http://server:8000 answered without being asked: 200"):
        flights.take(WAITS_S)
