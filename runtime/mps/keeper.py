# SPDX-License-Identifier: Apache-2.0
"""The keeper of an MPS daemon: a process between the broker and NVIDIA's programs, so that none of them outlives the broker.

    broker --- stdin ---> keeper ---> nvidia-cuda-mps-control -f ---> nvidia-cuda-mps-server
           <-- stdout ---            (stays in the foreground)       (started for the first worker)

NVIDIA's programs cannot be made to die with the broker, and a server outlives the daemon that started it. The keeper adopts
what is orphaned below it (PR_SET_CHILD_SUBREAPER), and ends everything when its standard input ends, which it does when the
broker says so by closing it, and when the broker is dead.

On standard output it says `ready` when the daemon answers, or `failed REASON`; what the daemon says goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...ipc.addresses import ensure_runtime_dir
from ...ipc.errors import PenstockError
from ...ipc.processes import adopt_orphans, children
from .places import environment_of

PROGRAM = "nvidia-cuda-mps-control"
READY, FAILED = "ready", "failed"

EXIT_TOLD = 0  # the broker closed standard input, or is gone
EXIT_NOT_STARTED = 1  # `failed REASON` says why
EXIT_DAEMON_DIED = 3

START_S = 10.0
"""How long the daemon may take until it answers; it takes milliseconds, where it starts at all."""
ASK_S = 2.0
"""How long one command to it may take."""
QUIT_S = 2.0
"""How long it may take to go once it is told to; its clients are gone by then."""
RETRY_MS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser("penstock.runtime.mps.keeper", description="Keeps an MPS daemon; started by the broker.")
    parser.add_argument("directory", type=Path, help="made for the daemon's pipes and logs, and removed at the end")
    directory = parser.parse_args(arguments).directory
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group or service: the broker decides what it means
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    keeper = Keeper(directory)
    try:
        return keeper.run(sys.stdin.fileno())
    finally:
        keeper.close()


class Keeper:
    """One daemon, from its start to the end of all that it started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._control: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Keeper of {self._directory}, {'no daemon' if self._control is None else f'daemon {self._control.pid}'}>"

    def run(self, told: int) -> int:
        """Starts the daemon and stays until `told`, a descriptor, ends, or the daemon does. Returns the exit status."""
        try:
            control = self._start()
        except OSError as error:
            return _failed(f"{error.filename or PROGRAM}: {error.strerror}")
        except PenstockError as error:
            return _failed(error.message)
        died = os.pidfd_open(control.pid)
        try:
            poll = select.poll()
            poll.register(told, select.POLLIN)
            poll.register(died, select.POLLIN)
            if not self._answers_in_time(poll):
                return EXIT_TOLD if _has_ended(told) else _failed(self._why_not(control))
            _say(READY)
            poll.poll()
            return EXIT_TOLD if _has_ended(told) else EXIT_DAEMON_DIED
        finally:
            os.close(died)

    def close(self) -> None:
        """Asks the daemon to quit, ends whatever is left below this process, and removes the directory. Idempotent."""
        control = self._control
        if control is not None and control.poll() is None:
            self._ask("quit")
            try:
                control.wait(QUIT_S)
            except subprocess.TimeoutExpired:
                control.kill()
        _end_descendants()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        """Starts it. Its environment has no CUDA_VISIBLE_DEVICES, which would number the GPUs anew for the workers."""
        ensure_runtime_dir()  # whose owner and mode are right: only then is anything in it touched
        shutil.rmtree(self._directory, ignore_errors=True)  # of a keeper that was killed, and had the same number
        for directory in (self._directory, *map(Path, environment_of(self._directory).values())):
            directory.mkdir(0o700)
        self._control = subprocess.Popen([PROGRAM, "-f"], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=self._environment())
        return self._control

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return kept | environment_of(self._directory)

    def _answers_in_time(self, poll: select.poll) -> bool:
        """Asks until there is an answer. False when there is none, or no more need of one."""
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            if self._ask("get_server_list"):
                return True
            if poll.poll(RETRY_MS):
                return False
        return False

    def _ask(self, command: str) -> bool:
        """Gives the daemon a command; whether it took it."""
        try:
            asked = subprocess.run(
                [PROGRAM], input=f"{command}\n".encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=self._environment(), timeout=ASK_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return asked.returncode == 0

    def _why_not(self, control: subprocess.Popen[bytes]) -> str:
        status = control.poll()
        if status is None:
            return f"{PROGRAM} does not answer within {START_S:g} s"
        return f"{PROGRAM} exited with status {status}" if status >= 0 else f"{PROGRAM} died (signal {-status})"


def _end_descendants() -> None:
    """SIGKILL for every child, adopted ones included, until none is left."""
    while found := children(os.getpid()):
        for pid in found:
            os.kill(pid, signal.SIGKILL)  # it is ours and not reaped: the number is its own
            os.waitpid(pid, 0)


def _has_ended(fd: int) -> bool:
    """Whether the pipe is at its end; nothing is ever written to it."""
    return bool(select.select([fd], [], [], 0)[0])


def _failed(reason: str) -> int:
    _say(f"{FAILED} {reason}")
    return EXIT_NOT_STARTED


def _say(words: str) -> None:
    try:
        os.write(sys.stdout.fileno(), f"{words}\n".encode())
    except BrokenPipeError:
        return  # the broker is dead, which standard input says too


if __name__ == "__main__":
    sys.exit(main())
