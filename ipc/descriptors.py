# SPDX-License-Identifier: Apache-2.0
"""File descriptors in transit over a unix socket: duplicated on their way out, queued in order of arrival on their way in."""

from __future__ import annotations

import array
import mmap
import os
import socket
from collections.abc import Sequence

from .errors import CallerError, MachineError, invalid

MAX_FDS_PER_FRAME = 253  # SCM_MAX_FD of the kernel: one sendmsg takes no more, unix(7)
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FDS_PER_FRAME * 4)


class ReceivedFds:
    """The descriptors that arrived and that nobody has taken yet; it owns them until then."""

    __slots__ = ("_fds",)

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __repr__(self) -> str:
        return f"<ReceivedFds {self._fds}>"

    def __len__(self) -> int:
        return len(self._fds)

    def add(self, ancillary: Sequence[tuple[int, int, bytes]], truncated: bool) -> None:
        """Keeps what a recvmsg brought. CallerError, and all closed, when it cannot be told whose they are."""
        # Between two receives only the descriptors of one unfinished frame can be left, if every message takes its own.
        undeclared = len(self._fds) > MAX_FDS_PER_FRAME
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds += array.array("i", content[: len(content) - len(content) % 4])
        if truncated:
            self.close()
            raise CallerError("descriptors were lost on the way in (MSG_CTRUNC): too many files are open here (RLIMIT_NOFILE)")
        if undeclared:
            waiting = len(self._fds)
            self.close()
            raise invalid(f"{waiting} descriptors arrived that no message declares")

    def take(self, count: int) -> list[int]:
        """The next `count`, in order of arrival; the caller closes them. Raises CallerError when fewer arrived."""
        if count > len(self._fds):
            raise invalid(f"{count} descriptors are declared, {len(self._fds)} arrived")
        taken = self._fds[:count]
        del self._fds[:count]
        return taken

    def close(self) -> None:
        """Closes those that nobody took. Idempotent."""
        close_all(self._fds)


def duplicates(fds: Sequence[int]) -> list[int]:
    """Duplicates of the descriptors, the caller's to close. Raises CallerError for too many, MachineError when refused."""
    if len(fds) > MAX_FDS_PER_FRAME:
        raise invalid(f"a message brings {len(fds)} descriptors, at most {MAX_FDS_PER_FRAME} are possible")
    copies: list[int] = []
    for fd in fds:
        try:
            copies.append(os.dup(fd))
        except OSError as error:
            close_all(copies)
            raise MachineError(f"cannot duplicate descriptor {fd}: {error.strerror}") from error
    return copies


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data with which sendmsg passes them on; none for none."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def memory_of(fds: Sequence[int]) -> int:
    """What descriptors keep in memory for as long as they wait. They are few and dear: none counts for less than a page."""
    return sum(max(os.fstat(fd).st_size, mmap.PAGESIZE) for fd in fds)


def close_all(fds: list[int]) -> None:
    """Closes and forgets them."""
    for fd in fds:
        os.close(fd)
    fds.clear()
