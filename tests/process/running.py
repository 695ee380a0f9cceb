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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from penstock.clients import Client

PROGRAMS = Path(__file__).parent / "programs"
LINKS = ("local", "zmq")
START_S = 30.0

Memory = set[tuple[int, int]]
"""Objects of shared memory, as (device, inode)."""

CONFIG = """
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] }} ]
instance_group [ {{ count: {count} kind: KIND_CPU {limiter} }} ]
{batching}
{parameters}
"""


def add_model(
    repository: Path, name: str, *, mode: str = "echo", max_batch_size: int = 4, count: int = 1, width: int = 2, batching: str = "",
    limiter: str = "", **parameters: object,
) -> None:  # fmt: skip
    """Writes a model of the fake backend: "x" comes back as "y", in the way `mode` says."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    lines = [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in {"mode": mode, **parameters}.items()
    ]
    text = CONFIG.format(
        name=name, backend="fake", max_batch_size=max_batch_size, count=count, width=width, batching=batching,
        limiter=limiter, parameters="\n".join(lines),
    )  # fmt: skip
    (folder / "config.pbtxt").write_text(text)


class RunningBroker:
    """`penstock serve` in a process of its own, on both links. A context manager: nothing of it is left behind."""

    def __init__(
        self, folder: Path, repository: Path, *options: str, command: str = "serve", with_tcp: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._environment = environment  # None: that of this process
        self.addresses = {"local": f"unix://{folder}/broker.sock", "zmq": f"ipc://{folder}/broker.zmq"}
        if with_tcp:
            self.addresses["tcp"] = "tcp://127.0.0.1:0"
        self._repository = repository
        self._options = options
        self._command = command
        self.process: subprocess.Popen[str] | None = None
        self.said: dict[str, Any] = {}  # what it said when it was ready

    def __enter__(self) -> RunningBroker:
        if self.process is None:  # else it was launched before, and is waited for later
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it says that it serves. Its log goes to broker.log in its folder."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts it and does not wait."""
        command = [sys.executable, "-m", "penstock.clients.cli", self._command, str(self._repository), "--json", *self._options]
        for address in self.addresses.values():
            command += ["--address", address]
        with (self.folder / "broker.log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, env=self._environment
            )

    def wait_until_ready(self) -> None:
        """Waits until it says that every model is loaded, or has failed to be."""
        assert self.process is not None and self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.kill()
            raise AssertionError(f"the broker did not start:\n{self.log()}")
        self.said = json.loads(line)
        if "tcp" in self.addresses:  # its port is known now
            (self.addresses["tcp"],) = (address for address in self.said["addresses"] if address.startswith("tcp:"))

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

    def memory(self) -> Memory:
        """What client memory the broker, its workers and /dev/shm hold together."""
        held = [memory_of(pid) for pid in (self.pid, *self.workers())]
        return set().union(*held) | named_memory()

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

    def __init__(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)
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


class Held(NamedTuple):
    """A batch of `rows` rows that is being executed, and stays so until it is let go."""

    rows: int
    sock: socket.socket

    def let_go(self) -> None:
        """Lets it finish."""
        self.sock.sendall(b"x")


class Barrier:
    """The other side of the fake backend's barrier mode: batches report here and wait to be let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.settimeout(START_S)
        self._held: list[socket.socket] = []
        self._opener: threading.Thread | None = None
        self._closing = False

    def __enter__(self) -> Barrier:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        if self._opener is not None:
            with socket.socket(socket.AF_UNIX) as knock:  # which the opener lets through, and then ends
                knock.connect(str(self.path))
                knock.sendall(b"entered 0\n")
                self._opener.join()
        for held in self._held:
            held.close()
        self._listener.close()
        self.path.unlink()

    def entered(self) -> Held:
        """Waits until a batch is being executed; returns what holds it."""
        held, _ = self._listener.accept()
        self._held.append(held)
        held.settimeout(START_S)
        word, rows = held.recv(100).split()
        assert word == b"entered"
        return Held(int(rows), held)

    def is_somebody_there(self) -> bool:
        """Whether another batch has come that `entered` has not returned yet. Does not wait."""
        return bool(select.select([self._listener], [], [], 0)[0])

    def open(self) -> None:
        """From now on every batch passes, those held included."""
        for held in self._held:
            with suppress(OSError):  # its worker is dead
                held.sendall(b"x")
        self._opener = threading.Thread(target=self._pass_all)
        self._opener.start()

    def _pass_all(self) -> None:
        while not self._closing:
            held = self.entered()
            with suppress(OSError):
                held.let_go()


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
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile, as the helper thread does
            found += map(int, (task / "children").read_text().split())
    return found


def memory_of(pid: int) -> Memory:
    """All shared memory (memfd and /dev/shm) that a process has mapped or holds a descriptor of; nothing if it is dead."""
    found: Memory = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and _is_shared_memory(fields[5]):
                major, minor = (int(number, 16) for number in fields[3].split(":"))
                found.add((os.makedev(major, minor), int(fields[4])))
        for entry in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{entry}"
            with suppress(FileNotFoundError):  # closed meanwhile
                if _is_shared_memory(os.readlink(path)):
                    status = os.stat(path)
                    found.add((status.st_dev, status.st_ino))
    return found


def named_memory() -> Memory:
    """What /dev/shm lists."""
    found: Memory = set()
    for entry in os.scandir("/dev/shm"):
        with suppress(FileNotFoundError):
            status = entry.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def _is_shared_memory(path: str) -> bool:
    return "/memfd:" in path or path.startswith("/dev/shm/")


def resident_bytes(pid: int) -> int:
    """How much memory a process has of its own, without what it shares."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def is_alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has reaped does not."""
    try:
        return _state(Path(f"/proc/{pid}/stat")) not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def states_of(pid: int) -> list[str]:
    """The states of a living process's threads, as proc_pid_stat(5) abbreviates them."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # as above
            found.append(_state(task / "stat"))
    return found


def _state(path: Path) -> str:
    return path.read_text().rsplit(")", 1)[1].split()[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped (SIGSTOP) within the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: all(state == "T" for state in states_of(pid)), 5, "all its threads have stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def rows(*values: float) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs for one of the models above: a row for each value."""
    return {"x": np.array([[value, -value] for value in values], np.float32)}


def answer(result: Any) -> list[float]:
    """The values that `rows` was given, as they came back."""
    y = result.outputs["y"]
    assert (y[:, 1] == -y[:, 0]).all(), y
    return [float(value) for value in y[:, 0]]


def instance(client: Client, model: str) -> dict[str, Any]:
    """The model's first instance as `penstock status` shows it; empty while it has none."""
    return next((each for each in client.status()["instances"] if each["model"] == model), {})


def ready_pid(client: Client, model: str) -> int:
    """The pid of the model's instance, 0 while it has none that is ready."""
    found = instance(client, model)
    return int(found["pid"]) if found.get("state") == "ready" else 0
