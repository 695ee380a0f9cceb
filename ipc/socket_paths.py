# SPDX-License-Identifier: Apache-2.0
"""Listening unix sockets whose path belongs to one process at a time; for the local listener and for ZeroMQ's ipc://.

The owner holds a lock (flock) on PATH.lock, in which its pid is written: so a second one is refused by name, a socket that
a killed process left is known to be stale, and nothing depends on libzmq, which takes a path that is in use without a word
(libzmq issue 2059). A file that is not a socket is never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

from .errors import CallerError, Code, MachineError, invalid
from .peers import peer_of

MAX_PATH_BYTES = 107  # sockaddr_un.sun_path is 108 bytes with its terminating zero, unix(7)
LISTEN_BACKLOG = 1024
MAX_PID_BYTES = 16


class ListeningPath:
    """A bound and listening socket at `path`, mode 0600, non-blocking. `close` removes what this object made, only that."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        _check_length(self.path)
        self._lock_fd = _lock(self.path)
        try:
            _remove_stale(self.path)
            self.sock = _listen(self.path)
            self._made = os.lstat(self.path)
        except BaseException:
            self._unlock()
            raise
        self._closed = False

    def __repr__(self) -> str:
        return f"<ListeningPath {self.path} {'closed' if self._closed else 'listening'}>"

    def check_invariants(self) -> None:
        """The lock is held exactly as long as this is open."""
        assert self._closed == (self._lock_fd < 0), self

    def close(self) -> None:
        """Stops listening; removes the socket if it still is this one, then the lock. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.sock.close()
        try:
            if os.path.samestat(os.lstat(self.path), self._made):
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # somebody cleaned up the directory: nothing of ours is left to remove
        finally:
            self._unlock()

    def _unlock(self) -> None:
        """Removes the lock file while it is still locked: whoever waits to lock it then sees that it is gone, see `_lock`."""
        try:
            os.unlink(_lock_path(self.path))
        except FileNotFoundError:
            pass  # as above
        finally:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _lock_path(path: str) -> str:
    return path + ".lock"


def _check_length(path: str) -> None:
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise invalid(f"socket path {path} is {length} bytes long, at most {MAX_PATH_BYTES} are possible")


def _lock(path: str) -> int:
    """The locked descriptor of the lock file with our pid in it."""
    while True:
        fd = _open_lock_file(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, _lock_path(path)):
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                return fd
            os.close(fd)  # the owner removed it between our open and our flock
        except BlockingIOError:
            owner = os.pread(fd, MAX_PID_BYTES, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise _in_use(path, owner) from None
        except BaseException:
            os.close(fd)
            raise


def _open_lock_file(path: str) -> int:
    lock_path = _lock_path(path)
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise MachineError(f"cannot make {lock_path}: {error.strerror}") from error
    content = os.pread(fd, MAX_PID_BYTES + 1, 0)
    if len(content) > MAX_PID_BYTES or (content and not content.strip().isdigit()):
        os.close(fd)
        raise invalid(f"{lock_path} is not a lock file of this program, and is left alone: choose another address or move it")
    return fd


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_stale(path: str) -> None:
    """Removes a socket nobody listens on. The lock is ours, so a living listener is a program that does not know of it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise invalid(f"{path} exists and is not a socket; it is left alone: choose another address or move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        outcome = probe.connect_ex(path)
        if outcome == 0:
            peer = peer_of(probe)
            if peer.pidfd is not None:
                os.close(peer.pidfd)
            raise _in_use(path, str(peer.pid))
        if outcome == errno.EAGAIN:
            raise _in_use(path, "unknown")
    Path(path).unlink(missing_ok=True)


def _listen(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(sock.fileno(), 0o600)  # bind gives the file the socket's mode: it is never open to others, not even at first
        sock.bind(path)
        sock.listen(LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        raise MachineError(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def _in_use(path: str, pid: str) -> CallerError:
    return CallerError(f"address {path} is in use by process {pid or 'unknown'}", Code.ALREADY_EXISTS)
