# SPDX-License-Identifier: Apache-2.0
"""Processes that the broker spawns: watched by pidfd, their output read line by line; workers on a socketpair.

Spawned from the broker's main thread, since PR_SET_PDEATHSIG fires when the spawning thread ends; the child asks for it
itself (workers/main.py, gateway/__main__.py), because nothing may run between fork and exec.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..ipc.codec import FrameDecoder
from ..ipc.local import LocalLink
from ..ipc.messages import FromWorker
from ..ipc.peers import Peer

MAX_LINE_BYTES = 8192


class OutputReader:
    """Lines of one pipe of a process. Never blocks; an endless line is cut."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._pending = b""
        os.set_blocking(pipe.fileno(), False)

    def __repr__(self) -> str:
        return f"<OutputReader fd {self.fileno()}, {len(self._pending)} bytes of a line>"

    def fileno(self) -> int:
        """The pipe's descriptor."""
        return self._pipe.fileno()

    def read_lines(self) -> list[str] | None:
        """The lines that are complete; None at the end of the pipe, when nothing is left."""
        try:
            content = os.read(self._pipe.fileno(), 65536)
        except BlockingIOError:
            return []
        if not content and not self._pending:
            return None
        *lines, self._pending = (self._pending + content).split(b"\n")
        if not content or len(self._pending) > MAX_LINE_BYTES:
            lines.append(self._pending)
            self._pending = b""
        return [line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip() for line in lines]

    def close(self) -> None:
        """Closes the pipe; idempotent."""
        self._pipe.close()


class Child:
    """A module of ours, run in a process that the broker spawned. `environment` comes on top of the broker's own."""

    def __init__(self, name: str, command: Sequence[str], pass_fds: Sequence[int], environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=pass_fds, env={**os.environ, **environment},
        )  # fmt: skip
        self.name = name
        self.pid = self._child.pid
        self.pidfd = os.pidfd_open(self.pid)
        assert self._child.stdout is not None
        self.output: OutputReader | None = OutputReader(self._child.stdout)
        self._is_killed = False  # by the broker

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} pid {self.pid}>"

    def terminate(self) -> None:
        """SIGTERM. It cannot have been reaped by anybody else, so the pid is its own."""
        self._child.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._is_killed = True
        self._child.kill()

    def ends(self, within_s: float) -> bool:
        """Whether it is dead, or is within that time."""
        return ends(self.pidfd, within_s)

    def close(self) -> str:
        """Reaps the dead child; says how it ended."""
        status = self._child.wait()
        os.close(self.pidfd)
        if self.output is not None:
            self.output.close()
        return how_it_ended(status, self._is_killed)


class SpawnedWorker(Child):
    """A worker, on a socketpair."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = ["penstock.workers", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        with theirs:
            super().__init__(name, command, (theirs.fileno(),), environment)
        self.link: LocalLink[Any] = LocalLink(ours, FrameDecoder(FromWorker))

    def close(self) -> str:
        """Reaps the dead worker; says how it ended."""
        self.link.close()
        return super().close()


class AttachedWorker:
    """A worker that somebody started by hand and that connected to the broker's socket."""

    def __init__(self, link: LocalLink[Any], peer: Peer, pidfd: int) -> None:
        self.name = f"pid {peer.pid}"
        self.link = link
        self.pid = peer.pid
        self.pidfd = pidfd
        self.output: OutputReader | None = None

    def __repr__(self) -> str:
        return f"<AttachedWorker pid {self.pid}>"

    def kill(self) -> None:
        """SIGKILL, by pidfd: never hits another process that got the same pid."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # it is dead already, which is what was wanted

    def ends(self, within_s: float) -> bool:
        """Whether it is dead, or is within that time."""
        return ends(self.pidfd, within_s)

    def close(self) -> str:
        """Closes what the broker holds of it."""
        self.link.close()
        os.close(self.pidfd)
        return "left"


def ends(pidfd: int, within_s: float) -> bool:
    """Whether the process of a pidfd is dead, or is within that time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def how_it_ended(status: int, is_killed: bool = False) -> str:
    """A child's end in the words of the error messages: "died (signal 9)", "exited with status 1".

    `is_killed`: by the broker, which knows why.
    """
    if status >= 0:
        return f"exited with status {status}"
    hint = ", perhaps for want of memory" if -status == signal.SIGKILL and not is_killed else ""
    return f"died (signal {-status}{hint})"
