# SPDX-License-Identifier: Apache-2.0
"""Whose the other end of a TCP connection is, where that is a socket of this machine.

The kernel knows the user of each of its sockets: asked for one connection it answers in a few microseconds by netlink
(sock_diag(7)), and where that is not to be had it lists all of them in /proc/net/tcp and tcp6 (proc(5)). A connection from
elsewhere, another network namespace included, has no socket here: its user is not known.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to its id
_PORTS = struct.Struct("!HH")
_COOKIE = struct.Struct("=III")  # any interface, and INET_DIAG_NOCOOKIE twice
_ANSWER = struct.Struct("=BBBB48xIIIII")  # struct inet_diag_msg
_ALL_STATES = 0xFFFFFFFF
_MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address in IPv6 begins with
SIOCGIFADDR = 0x8915  # linux/sockios.h
_GLOBAL, _HOST = "00", "10"  # scopes in /proc/net/if_inet6
UNKNOWN = -1


class Address(NamedTuple):
    """One end of a TCP connection."""

    host: str  # an IPv4 or IPv6 address; of an IPv4 address in IPv6 the IPv4 address
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Spelled as the kernel spells it: ::ffff:127.0.0.1 is a socket of IPv4."""
        return cls(host.lower().removeprefix("::ffff:").split("%")[0], port)


def authority(host: str, port: int) -> str:
    """HOST:PORT as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class LocalUsers:
    """Tells whose a connection's other end is. For one thread; `close` it.

    Its question is answered before it has been sent: the kernel does that at once, so nothing here waits.
    """

    def __init__(self) -> None:
        self._link: socket.socket | None = None  # netlink's; opened when it is first needed
        self._asked = 0

    def __repr__(self) -> str:
        return f"<LocalUsers {self._asked} asked{', by netlink' if self._link else ''}>"

    def uid_of(self, remote: Address, local: Address) -> int:
        """The user whose socket is at `remote`, connected to `local`; UNKNOWN where this machine has no such socket."""
        family = socket.AF_INET6 if ":" in remote.host else socket.AF_INET
        try:
            source, target = socket.inet_pton(family, remote.host), socket.inet_pton(family, local.host)
        except OSError:  # one end in IPv4, the other in IPv6, or no address at all
            return UNKNOWN
        try:
            return self._ask(family, source, target, remote.port, local.port)
        except OSError:  # no netlink here, or no memory for its answer
            self.close()
            return _search(family, source, target, remote.port, local.port)

    def _ask(self, family: int, source: bytes, target: bytes, source_port: int, target_port: int) -> int:
        if self._link is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._link = socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)
        self._asked = number = (self._asked + 1) % 2**32
        identity = _PORTS.pack(source_port, target_port) + source.ljust(16, b"\0") + target.ljust(16, b"\0")
        content = (
            _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + identity + _COOKIE.pack(0, 2**32 - 1, 2**32 - 1)
        )
        self._link.send(_HEADER.pack(_HEADER.size + len(content), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, number, 0) + content)
        answer = self._link.recv(4096)
        _, kind, _, answered, _ = _HEADER.unpack_from(answer)
        if answered != number:
            raise OSError("netlink answers something else")
        if kind != SOCK_DIAG_BY_FAMILY:  # NLMSG_ERROR, usually ENOENT: no such socket
            return UNKNOWN
        *_, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
        return uid if inode else UNKNOWN  # without an inode no process has it any more, and the uid says 0

    def close(self) -> None:
        """Gives back its descriptor. Idempotent; asked again, it opens another."""
        if self._link is not None:
            self._link.close()
            self._link = None


def own_addresses() -> list[str]:
    """The loopback addresses of this machine and the first IPv4 address and all IPv6 addresses of each of its interfaces."""
    found = ["127.0.0.1", *_first_of_interfaces()]
    for address, *_, scope, _flags, _name in _listed("/proc/net/if_inet6", heading=False):
        if scope in (_GLOBAL, _HOST):
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)))
    return list(dict.fromkeys(found))


def _first_of_interfaces() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(asking, SIOCGIFADDR, name.encode().ljust(40, b"\0"))  # struct ifreq, see netdevice(7)
                yield socket.inet_ntop(socket.AF_INET, answer[20:24])


def _search(family: int, source: bytes, target: bytes, source_port: int, target_port: int) -> int:
    if family == socket.AF_INET:
        found = _find("/proc/net/tcp", source, target, source_port, target_port)
        if found != UNKNOWN:
            return found
        source, target = _MAPPED + source, _MAPPED + target  # an IPv6 socket that is connected to an IPv4 address
    return _find("/proc/net/tcp6", source, target, source_port, target_port)


def _find(path: str, source: bytes, target: bytes, source_port: int, target_port: int) -> int:
    wanted = (_hex(source, source_port), _hex(target, target_port))
    for fields in _listed(path):
        if (fields[1], fields[2]) == wanted and fields[9] != "0":
            return int(fields[7])
    return UNKNOWN


def _listed(path: str, heading: bool = True) -> Iterator[list[str]]:
    with suppress(OSError), open(path, encoding="ascii") as lines:
        if heading:
            next(lines, "")
        for line in lines:
            yield line.split()


def _hex(host: bytes, port: int) -> str:
    """An end as /proc/net/tcp spells it: the address as words of the machine, then the port."""
    words = struct.unpack(f"={len(host) // 4}I", host)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
