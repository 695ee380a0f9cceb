# SPDX-License-Identifier: Apache-2.0
"""Programs beside us: each in a process group of its own, which ends with the block that started it, whatever happens there.

Even where this process is killed: watcher.py, one for each program, ends the group then.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from measurement import children_of, cpu_ns

from .environments import UnavailableError

STOP_S = 10.0
WATCHER = Path(__file__).resolve().with_name("watcher.py")
POLL_S = 0.05
SAMPLE_S = 0.2
WORKING = 0.2
"""Of the most that the server uses: with more it is under load."""


class CommandError(Exception):
    """A load generator that failed or did not end in time, with what it said last."""


@contextmanager
def running(
    command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None, signal_number: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A program until the block ends: asked to end by the signal, and after STOP_S killed, its whole group with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, _watcher() as watcher:
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _tell(watcher, process.pid)
            yield process
        finally:
            _end(process, signal_number)
            _tell(watcher, "ended")


def _watcher() -> subprocess.Popen[str]:
    """It ends with its standard input, whatever it was told."""
    command = [sys.executable, "-I", "-S", str(WATCHER), str(STOP_S)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def _tell(watcher: subprocess.Popen[str], word: object) -> None:
    with suppress(BrokenPipeError):  # somebody has ended it
        print(word, file=watcher.stdin, flush=True)


def _end(process: subprocess.Popen[bytes], signal_number: int) -> None:
    if process.poll() is None:
        process.send_signal(signal_number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
    """Raises UnavailableError, with the program's last lines, where it ends or the time passes before it is ready."""
    deadline = time.monotonic() + limit_s
    while not ready():
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            why = f"ended with {code}" if code is not None else f"was not ready after {limit_s:g} s"
            raise UnavailableError(f"{process.args[0]} {why}: {last_lines(log)}")  # type: ignore[index]  # it is a list here
        time.sleep(POLL_S)


def last_lines(log: Path, count: int = 3) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-count:])


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it; none where it has ended."""
    try:
        below = children_of(pid)
    except OSError:
        return []
    return [pid, *(each for child in below for each in tree_of(child))]


def tree_cpu_ns(pid: int) -> dict[int, int]:
    """CPU time so far of each process of a tree."""
    found: dict[int, int] = {}
    for each in tree_of(pid):
        with suppress(OSError):  # ended meanwhile
            found[each] = cpu_ns(each)
    return found


def cores_used(before: Mapping[int, int], after: Mapping[int, int], elapsed_ns: int) -> float:
    """Cores that the processes of both readings used between them."""
    return sum(after[pid] - before[pid] for pid in before.keys() & after.keys()) / elapsed_ns


class Usage(NamedTuple):
    """Cores that a server and its client used."""

    server_cores: float
    client_cores: float


def under_load(samples: Sequence[Usage]) -> Usage:
    """The medians of the samples in which the server worked: a client that starts up or ends uses cores, and loads nobody."""
    peak = max((sample.server_cores for sample in samples), default=0.0)
    working = [sample for sample in samples if sample.server_cores > WORKING * peak] or [Usage(0.0, 0.0)]
    return Usage(*(round(statistics.median(values), 3) for values in zip(*working, strict=True)))


def loaded(
    command: Sequence[str], log: Path, server_pid: int, limit_s: float, variables: Mapping[str, str] | None = None
) -> Usage:
    """Runs a load generator to its end, and watches what server and client use. Raises CommandError."""
    samples: list[Usage] = []
    with running(command, log, variables, signal.SIGINT) as process:
        deadline = time.monotonic() + limit_s
        now, of_server, of_client = time.monotonic_ns(), tree_cpu_ns(server_pid), tree_cpu_ns(process.pid)
        while _still_runs(process, SAMPLE_S):
            if time.monotonic() > deadline:
                raise CommandError(f"{Path(command[0]).name} did not end within {limit_s:.0f} s: {last_lines(log)}")
            then, server_then, client_then = now, of_server, of_client
            now, of_server, of_client = time.monotonic_ns(), tree_cpu_ns(server_pid), tree_cpu_ns(process.pid)
            elapsed = now - then
            samples.append(Usage(cores_used(server_then, of_server, elapsed), cores_used(client_then, of_client, elapsed)))
    if process.returncode:
        raise CommandError(f"{Path(command[0]).name} ended with {process.returncode}: {last_lines(log)}")
    return under_load(samples)


def _still_runs(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return True
    return False
