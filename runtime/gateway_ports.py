# SPDX-License-Identifier: Apache-2.0
"""The ports that gateways serve: the broker's for as long as it runs, whatever becomes of a gateway.

For HTTP there is a listening socket per gateway, which it gets by descriptor: connections that are made while it is started
again wait in the socket's backlog. gRPC opens its own with SO_REUSEPORT: here its port is bound, and never listened on, so that
nobody else gets it between one gateway and the next.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from ..ipc.errors import BrokerError
from ..ipc.local_sockets import authority
from .settings import GatewaySpec

BACKLOG = 1024
"""Connections that wait to be accepted; the kernel's own limit (net.core.somaxconn) may be lower."""


class Place(NamedTuple):
    """Where one protocol is served. `host` is an address, whatever the option named."""

    host: str
    port: int

    def __str__(self) -> str:
        return authority(self.host, self.port)


class GatewayPorts:
    """`http` and `grpc`: None: not served."""

    def __init__(
        self, http: Place | None, listening: list[socket.socket | None], grpc: Place | None, reserved: socket.socket | None
    ) -> None:
        self.http = http
        self.grpc = grpc
        #: a listening socket for each gateway; None where there is no HTTP, or that gateway comes no more
        self._listening = listening
        self._reserved = reserved

    def __repr__(self) -> str:
        return f"<GatewayPorts http {self.http}, grpc {self.grpc}>"

    @classmethod
    def open(cls, spec: GatewaySpec) -> GatewayPorts:
        """Raises BrokerError that names the option where an address cannot be had."""
        http = grpc = None
        listening: list[socket.socket] = []
        with ExitStack() as opened:
            if spec.http_port >= 0:
                with _failing_as_error("HTTP", "http", spec.http_host, spec.http_port):
                    http = _free_place(spec.http_host, spec.http_port)
                    for _ in range(spec.processes):
                        sock = opened.enter_context(_bound(http, socket.SO_REUSEPORT, socket.SO_REUSEADDR))
                        http = Place(http.host, sock.getsockname()[1])
                        sock.listen(BACKLOG)
                        listening.append(sock)
            reserved = None
            if spec.grpc_port >= 0:
                with _failing_as_error("gRPC", "grpc", spec.grpc_host, spec.grpc_port):
                    grpc = _free_place(spec.grpc_host, spec.grpc_port)
                    reserved = opened.enter_context(_reserved(grpc))
                    grpc = Place(grpc.host, reserved.getsockname()[1])
            opened.pop_all()
        return cls(http, [*listening] or [None] * spec.processes, grpc, reserved)

    def listening_fd(self, number: int) -> int:
        """The descriptor that a gateway accepts HTTP connections from; -1: none."""
        sock = self._listening[number]
        return -1 if sock is None else sock.fileno()

    def refuse(self, number: int) -> None:
        """A gateway comes no more: connections that wait for it are refused, and new ones go to the others. Idempotent."""
        sock, self._listening[number] = self._listening[number], None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Gives the ports up. Idempotent."""
        for number in range(len(self._listening)):
            self.refuse(number)
        if self._reserved is not None:
            self._reserved.close()


@contextmanager
def _failing_as_error(protocol: str, option: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (
            os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror
        )  # or a name's that is not known
        place = Place(host, port)
        raise BrokerError(f"cannot serve {protocol} at {place} (--{option}-host, --{option}-port): {reason}") from error


def _free_place(host: str, port: int) -> Place:
    """Raises OSError where somebody has the port: one with SO_REUSEPORT would be bound beside another's."""
    place = Place(_address_of(host), port)
    if port:
        check_free(place)
    return place


def check_free(place: Place) -> None:
    """Raises OSError where somebody has the port. Connections that have ended stand in nobody's way."""
    _bound(place, socket.SO_REUSEADDR).close()


def _address_of(host: str) -> str:
    """That in IPv4 where there are several. Raises OSError where there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
    return str(min(found, key=lambda info: info[0] != socket.AF_INET)[4][0])


def _reserved(place: Place) -> socket.socket:
    """Without SO_REUSEADDR nobody's check finds the port free; with it, where connections of another server's linger there."""
    try:
        return _bound(place, socket.SO_REUSEPORT)
    except OSError:
        return _bound(place, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def _bound(place: Place, *options: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(place)
    except BaseException:
        sock.close()
        raise
    return sock
