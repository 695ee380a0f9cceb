# SPDX-License-Identifier: Apache-2.0
"""Whose a TCP connection is: asked of the kernel, with real sockets, in both ways that there are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from penstock.ipc.local_sockets import UNKNOWN, Address, LocalUsers, own_addresses

NOBODY = 65534
NO_IPV6 = not os.path.exists("/proc/net/if_inet6")
needs_ipv6 = pytest.mark.skipif(NO_IPV6, reason="this machine has no IPv6")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


@pytest.fixture(params=["netlink", "proc"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By netlink, or, where that is not to be had, from the list of all sockets."""
    if request.param == "proc":

        def refuse(*_: object) -> int:
            raise OSError("no netlink here")

        monkeypatch.setattr(LocalUsers, "_ask", refuse)
    return str(request.param)


def uid_of(remote: Address, local: Address) -> int:
    with closing(LocalUsers()) as users:
        return users.uid_of(remote, local)


class Connection:
    """A connection to a server of this process; `client` is its other end."""

    def __init__(self, listening: str, target: str, source: str = "") -> None:
        family = socket.AF_INET6 if ":" in listening else socket.AF_INET
        self.server = socket.socket(family)
        if family == socket.AF_INET6:
            self.server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.server.bind((listening, 0))
        self.server.listen()
        self.client = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)
        if source:
            self.client.bind((source, 0))
        self.client.connect((target, self.server.getsockname()[1]))
        self.accepted, _ = self.server.accept()
        self.remote = Address.of(*self.accepted.getpeername()[:2])
        self.local = Address.of(*self.accepted.getsockname()[:2])

    def close(self) -> None:
        for each in (self.client, self.accepted, self.server):
            each.close()


Connect = Callable[..., Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[Connection] = []

    def connect(*addresses: str) -> Connection:
        made.append(Connection(*addresses))
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(("127.0.0.1", "127.0.0.1"), id="IPv4"),
        pytest.param(("0.0.0.0", "127.0.0.2"), id="another loopback address"),
        pytest.param(("0.0.0.0", "127.0.0.1", "127.0.0.3"), id="from another loopback address"),
        pytest.param(("::1", "::1"), id="IPv6", marks=needs_ipv6),
        pytest.param(("::", "127.0.0.1"), id="IPv4 to a socket of both", marks=needs_ipv6),
        pytest.param(("127.0.0.1", "::ffff:127.0.0.1"), id="IPv6 socket to IPv4", marks=needs_ipv6),
        pytest.param(("::", "::ffff:127.0.0.1"), id="IPv4 in IPv6 at both ends", marks=needs_ipv6),
    ],
)
def test_a_connection_is_its_user_s(connect: Connect, addresses: tuple[str, ...]) -> None:
    made = connect(*addresses)
    assert uid_of(made.remote, made.local) == os.geteuid()


@pytest.mark.usefixtures("way")
def test_an_address_of_this_machine_s_own(connect: Connect) -> None:
    """Given each address of its interfaces, then who connects by it is known."""
    found = own_addresses()
    assert found[0] == "127.0.0.1" and len(set(found)) == len(found)
    for host in found:
        made = connect(host, host)
        assert (made.local.host, uid_of(made.remote, made.local)) == (host, os.geteuid())


@pytest.mark.usefixtures("way")
def test_a_socket_that_is_closed_is_nobody_s(connect: Connect) -> None:
    """Given a client that has closed its socket, whose last packets the kernel still minds, then the uid 0 it says is not said."""
    made = connect("127.0.0.1", "127.0.0.1")
    made.client.shutdown(socket.SHUT_WR)
    assert uid_of(made.remote, made.local) == os.geteuid(), "half closed is not closed"
    made.client.close()
    assert uid_of(made.remote, made.local) == UNKNOWN


@pytest.mark.usefixtures("way")
def test_a_connection_that_waits_to_be_forgotten_is_nobody_s(connect: Connect) -> None:
    made = connect("127.0.0.1", "127.0.0.1")
    made.client.shutdown(socket.SHUT_WR)
    assert made.accepted.recv(1) == b""
    made.accepted.close()
    assert made.client.recv(1) == b""
    made.client.close()
    assert uid_of(made.remote, made.local) == UNKNOWN


@pytest.mark.usefixtures("way")
def test_what_is_no_socket_of_this_machine_is_unknown(connect: Connect) -> None:
    made = connect("127.0.0.1", "127.0.0.1")
    elsewhere = Address("192.0.2.77", made.remote.port)
    assert uid_of(elsewhere, made.local) == UNKNOWN
    assert uid_of(Address("127.0.0.1", 1), made.local) == UNKNOWN
    assert uid_of(made.remote, Address("127.0.0.2", made.local.port)) == UNKNOWN, "connected to another address"
    assert uid_of(made.remote, Address("::1", made.local.port)) == UNKNOWN, "one end in IPv4, the other in IPv6"
    assert uid_of(Address("", 5), made.local) == UNKNOWN


@needs_root
@pytest.mark.usefixtures("way")
def test_another_user_is_known_as_such(connect: Connect) -> None:
    """Given a connection that a child made as nobody, then it is nobody's, and not ours who opened the server."""
    made = connect("127.0.0.1", "127.0.0.1")
    made.server.settimeout(5)
    go, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(NOBODY)
            with socket.socket() as own:
                own.connect(made.server.getsockname())
                os.read(go, 1)
        finally:
            os._exit(0)
    accepted, _ = made.server.accept()
    assert uid_of(Address.of(*accepted.getpeername()), Address.of(*accepted.getsockname())) == NOBODY
    os.write(tell, b".")
    os.waitpid(child, 0)
    accepted.close()
    os.close(go)
    os.close(tell)


def test_one_descriptor_serves_all_questions(connect: Connect) -> None:
    """Given many questions, some of them about no socket, then each has its own answer, and no descriptor is left open."""
    made = connect("127.0.0.1", "127.0.0.1")
    before = len(os.listdir("/proc/self/fd"))
    with closing(LocalUsers()) as users:
        for _ in range(3):
            assert users.uid_of(made.remote, made.local) == os.geteuid()
            assert users.uid_of(Address("127.0.0.1", 1), made.local) == UNKNOWN
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_answer_that_was_left_is_nobody_s(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the answer to an earlier question still unread, then it is not taken for that to the next, which is asked otherwise."""
    made = connect("127.0.0.1", "127.0.0.1")
    with closing(LocalUsers()) as users:
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "recv", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                users.uid_of(made.remote, made.local)
        assert users.uid_of(Address("127.0.0.1", 1), made.local) == UNKNOWN
        assert users.uid_of(made.remote, made.local) == os.geteuid()


def test_addresses_are_spelled_in_one_way() -> None:
    assert Address.of("::FFFF:127.0.0.1", 5) == Address("127.0.0.1", 5)
    assert Address.of("fe80::1%eth0", 5) == Address("fe80::1", 5)
