# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a connection, as the kernel says it.

The uid decides which memory a peer may name, the pidfd says when its process dies. Neither is taken from what the peer says
about itself.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from .processes import open_pidfd

SO_PEERPIDFD = 77  # asm-generic/socket.h, since Linux 6.5; Python does not name it
_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid
_NOT_KNOWN_HERE = (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODATA)


class Peer(NamedTuple):
    """The process at the other end. `pidfd` belongs to whoever holds the Peer, who closes it.

    `pidfd` is None when the process is dead already, or lives in a pid namespace that cannot be seen from here (`pid` is 0).
    """

    pid: int
    uid: int
    gid: int
    pidfd: int | None


def peer_of(sock: socket.socket) -> Peer:
    """The peer of a connected unix socket: its credentials when it connected (or made the pair). May raise OSError (EMFILE)."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        pidfd: int | None = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except ProcessLookupError:
        pidfd = None
    except OSError as error:
        if error.errno not in _NOT_KNOWN_HERE:
            raise
        pidfd = _pidfd_of(pid)
    return Peer(pid, uid, gid, pidfd)


def peer_from_zmq(text: str) -> Peer | None:
    """The peer that libzmq's message property Peer-Address names; None where it names a host and not a process (tcp://).

    None too for a process that cannot be watched, since over ZeroMQ nothing but its pidfd would tell of its death. On ipc://
    the property reads "localhost:UID:GID:PID" (libzmq src/stream_engine_base.cpp, from SO_PEERCRED).
    """
    host, *numbers = text.split(":")
    if host != "localhost" or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        return None
    uid, gid, pid = map(int, numbers)
    pidfd = _pidfd_of(pid)
    return None if pidfd is None else Peer(pid, uid, gid, pidfd)


def _pidfd_of(pid: int) -> int | None:
    if pid <= 0:
        return None
    try:
        return open_pidfd(pid)
    except ProcessLookupError:
        return None
