# SPDX-License-Identifier: Apache-2.0
"""Real brokers, real processes, and what /proc says of them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


from penstock.clients import Client

PROGRAMS = Path(__file__).parent / "programs"
LINKS = ("local", "zmq")
START_S = 30.0

CONFIG = """
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] }} ]
instance_group [ {{ count: {count} kind: KIND_CPU }} ]
{batching}
{parameters}
"""


def add_model(
    repository: Path, name: str, *, mode: str = "echo", max_batch_size: int = 4, count: int = 1, width: int = 2, batching: str = "",
    **parameters: object,
) -> None:  # fmt: skip
    """Writes a model of the fake backend: "x" comes back as "y", in the way `mode` says."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    lines = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in {"mode": mode, **parameters}.items()]
    text = CONFIG.format(
        name=name, backend="fake", max_batch_size=max_batch_size, count=count, width=width, batching=batching,
        parameters="\n".join(lines),
    )  # fmt: skip
    (folder / "config.pbtxt").write_text(text)


class RunningBroker:
    """`penstock serve` in a process of its own, on both links. A context manager: nothing of it is left behind."""

    def __init__(self, folder: Path, repository: Path, *options: str) -> None:
        self.folder = folder
        self.addresses = {"local": f"unix://{folder}/broker.sock", "zmq": f"ipc://{folder}/broker.zmq"}
        self._repository = repository
        self._options = options
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RunningBroker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it says that it serves. Its log goes to broker.log in its folder."""
        command = [sys.executable, "-m", "penstock.clients.cli", "serve", str(self._repository), "--json", *self._options]
        for address in self.addresses.values():
            command += ["--address", address]
        with (self.folder / "broker.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.kill()
            raise AssertionError(f"the broker did not start:\n{self.log()}")
        self.said: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "broker.log").read_text()

    def workers(self) -> list[int]:
        """The pids of its children."""
        return children_of(self.pid)

    def client(self, link: str, **options: Any) -> Client:
        """A client of this process."""
        return Client(self.addresses[link], **options)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.close()

    def close(self) -> int:
        """Reaps it."""
        assert self.process is not None and self.process.stdout is not None
        status = self.process.wait(START_S)
        self.process.stdout.close()
        return status

    def stop(self) -> int:
        """SIGTERM, if it still runs; its exit status."""
        assert self.process is not None and self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.close()


class Program:
    """A program of the programs folder, told what to do by its arguments, telling what it did line by line in JSON."""

    def __init__(self, name: str, *arguments: str) -> None:
        command = [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def say(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        assert line, f"{self.process.args!r} said nothing"
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, word: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and reaped; idempotent."""
        assert self.process.stdout is not None and self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()


class Barrier:
    """The other side of the fake backend's barrier mode: batches report here and wait to be let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.settimeout(START_S)
        self._held: list[socket.socket] = []

    def __enter__(self) -> Barrier:
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._held:
            held.close()
        self._listener.close()

    def entered(self) -> socket.socket:
        """Waits until a batch is being executed; returns what holds it."""
        held, _ = self._listener.accept()
        held.settimeout(START_S)
        assert held.recv(100).startswith(b"entered")
        self._held.append(held)
        return held

    def let_go(self, held: socket.socket) -> None:
        """Lets one batch finish."""
        held.sendall(b"x")


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Waits until something is so; returns how long that took. Fails after `within_s`."""
    start = time.monotonic()
    pause = threading.Event()
    while not condition():
        waited = time.monotonic() - start
        assert waited < within_s, f"after {waited:.2f} s still not: {what}"
        pause.wait(0.005)
    return time.monotonic() - start


def children_of(pid: int) -> list[int]:
    """The pids of a process's children, by whichever of its threads they were started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def inodes_in_use(pid: int) -> set[int]:
    """Inodes of everything a process has mapped from memory or holds a descriptor of (memfd and /dev/shm only)."""
    found: set[int] = set()
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and ("/memfd:" in fields[5] or "/dev/shm/" in fields[5]):  # noqa: S108 - as the kernel writes it
                found.add(int(fields[4]))
        for entry in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{entry}"
            try:
                target = os.readlink(path)
                if "/memfd:" in target or target.startswith("/dev/shm/"):  # noqa: S108
                    found.add(os.stat(path).st_ino)
            except FileNotFoundError:
                continue  # closed meanwhile
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped (SIGSTOP) within the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
