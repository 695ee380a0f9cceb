# SPDX-License-Identifier: Apache-2.0
"""The ports of gateways, which the broker opens: nobody else's, the same for all, and kept while no gateway is there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from penstock.ipc.errors import BrokerError
from penstock.runtime.gateway_ports import GatewayPorts, Place
from penstock.runtime.settings import GatewaySpec

HERE = "127.0.0.1"


@contextmanager
def opened(**spec: object) -> Iterator[GatewayPorts]:
    ports = GatewayPorts.open(GatewaySpec(**spec))  # type: ignore[arg-type]
    with closing(ports):
        yield ports


def place_of(place: Place | None) -> Place:
    assert place is not None
    return place


def accepting(ports: GatewayPorts, number: int) -> socket.socket:
    sock = socket.socket(fileno=ports.listening_fd(number))
    sock.setblocking(False)
    return sock


def test_connections_wait_for_a_gateway_that_has_not_come() -> None:
    with opened(http_port=0) as ports, socket.create_connection(place_of(ports.http)) as client:
        client.sendall(b"GET")
        sock = accepting(ports, 0)
        connection, _ = sock.accept()
        assert connection.recv(3) == b"GET"
        connection.close()
        sock.detach()


def test_each_gateway_has_a_socket_of_the_same_port() -> None:
    with opened(http_port=0, processes=3) as ports:
        found = {socket.socket(fileno=ports.listening_fd(number)) for number in range(3)}
        assert {sock.getsockname() for sock in found} == {place_of(ports.http)}
        for sock in found:
            sock.detach()


def test_where_one_protocol_is_not_served_there_is_no_place() -> None:
    with opened(grpc_port=0) as ports:
        assert (ports.http, ports.listening_fd(0)) == (None, -1)
        assert place_of(ports.grpc).port > 0


def test_connections_to_one_that_comes_no_more_go_to_the_others() -> None:
    with opened(http_port=0, processes=2) as ports:
        ports.refuse(0)
        ports.refuse(0)
        assert ports.listening_fd(0) == -1
        sock = accepting(ports, 1)
        clients = [socket.create_connection(place_of(ports.http)) for _ in range(16)]
        for client in clients:
            sock.accept()[0].close()
            client.close()
        sock.detach()
        ports.refuse(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place_of(ports.http))


def test_a_reserved_port_is_nobody_elses_and_can_be_served_by_who_shares_it() -> None:
    with opened(grpc_port=0) as ports:
        place = place_of(ports.grpc)
        with pytest.raises(ConnectionRefusedError):  # it is not listened on
            socket.create_connection(place)
        with pytest.raises(BrokerError, match="--grpc-port"):
            GatewayPorts.open(GatewaySpec(grpc_port=place.port))
        with pytest.raises(BrokerError, match="--http-port"):
            GatewayPorts.open(GatewaySpec(http_port=place.port))
        with socket.create_server(place, reuse_port=True) as served, socket.create_connection(place):
            served.accept()[0].close()


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_port_that_somebody_listens_on_is_refused_even_if_it_could_be_shared(protocol: str, shares: bool) -> None:
    with socket.create_server((HERE, 0), reuse_port=shares) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError) as raised:
            GatewayPorts.open(GatewaySpec(**{f"{protocol}_port": port}))
    named = {"http": "HTTP", "grpc": "gRPC"}[protocol]
    assert raised.value.message == (
        f"cannot serve {named} at 127.0.0.1:{port} (--{protocol}-host, --{protocol}-port): address already in use"
    )


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("shares", [False, True])
def test_connections_that_linger_of_a_server_that_has_left_are_in_nobodys_way(protocol: str, shares: bool) -> None:
    with socket.create_server((HERE, 0), reuse_port=shares) as server:
        place = Place(*server.getsockname())
        with socket.create_connection(place) as client:
            server.accept()[0].close()  # first, and so its end stays for a minute, in TIME_WAIT
            assert client.recv(1) == b""
    with opened(**{f"{protocol}_port": place.port}) as ports:
        assert place in (ports.http, ports.grpc)


def test_what_was_opened_is_given_back_when_the_other_port_is_taken() -> None:
    with opened(http_port=0) as ports:
        free = place_of(ports.http).port
    with socket.create_server((HERE, 0)) as other, pytest.raises(BrokerError):
        GatewayPorts.open(GatewaySpec(http_port=free, grpc_port=other.getsockname()[1]))
    with opened(http_port=free):
        pass


def test_hosts_have_one_address_and_unknown_ones_are_refused() -> None:
    with opened(http_host="localhost", http_port=0) as ports:
        assert place_of(ports.http).host == HERE
    for host in ("no.such.host.invalid", "a..b", "x" * 70):  # the last two are no names at all
        with pytest.raises(BrokerError, match="--http-host"):
            GatewayPorts.open(GatewaySpec(http_host=host, http_port=0))
    assert str(Place("::1", 8000)) == "[::1]:8000"
