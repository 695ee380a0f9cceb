# SPDX-License-Identifier: Apache-2.0
"""What every test is wrapped in: the leak check, and the skip of GPU tests on a machine without one.

After each test nothing may be left that was not there before it: child processes (reaped ones only are gone), threads, ZeroMQ
contexts, file descriptors, entries of /dev/shm and, in the tiers that start brokers, descendants whose parent died. What ends
by itself within the deadline is no leak; what does not is named. Fixtures of a wider scope are set up before the check begins
and so may hold what they like.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from simulated.fixtures import simulated_cuda
from simulated.tensorrt_packages import simulated_tensorrt

__all__ = ["simulated_cuda", "simulated_tensorrt"]

ENDS_WITHIN_S = 3.0
RUN_VARIABLE = "PENSTOCK_TEST_RUN"
TIERS_WITH_DESCENDANTS = frozenset({"contract", "process", "gpu"})
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
DRIVERS = ("/dev/nvidia", "/dev/dxg", "/proc/driver/nvidia", "anon_inode:", "pipe:", "socket:")
"""What a GPU's driver keeps open in a process that has used it."""
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Marks this run in its environment, by which orphaned descendants are known as ours."""
    os.environ[RUN_VARIABLE] = f"{os.getpid()}-{time.monotonic_ns()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any(device.exists() for device in GPU_DEVICES):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: there is neither /dev/nvidiactl nor /dev/dxg"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves something behind. A test that failed anyway is not accused twice, only cleaned up after."""
    with_descendants = bool(TIERS_WITH_DESCENDANTS & set(request.node.path.parts))
    before = Surroundings(with_descendants, request.node.get_closest_marker("gpu") is not None)
    yield
    failed = request.node.stash.get(FAILED, False)
    if before.leaks() and (failed or not _gone_in_time(before)):
        leaks = before.leaks()
        before.kill_processes()
        if leaks and not failed:
            pytest.fail("left behind: " + "; ".join(leaks), pytrace=False)


def _gone_in_time(before: Surroundings) -> bool:
    deadline, never = time.monotonic() + ENDS_WITHIN_S, threading.Event()
    while True:
        gc.collect()  # an exception's traceback holds its frames' objects in a cycle, whose finalizers may let go of another
        if not before.leaks():
            return True
        if time.monotonic() > deadline:
            return False
        never.wait(0.01)


class Surroundings:
    """What this process and this machine held at one moment, as far as a test can leak it."""

    def __init__(self, with_descendants: bool, with_driver: bool = False) -> None:
        self.with_descendants = with_descendants
        self.with_driver = with_driver  # on a real GPU, whose driver keeps open what it likes until the process ends
        self.children = _children()
        self.threads = set(threading.enumerate())
        self.zmq_threads = _tasks()
        self.descriptors = _descriptors()
        self.shared_memory = _names("/dev/shm")
        self.processes = _names("/proc") if with_descendants else set()

    def __repr__(self) -> str:
        held = f"{len(self.children)} children, {len(self.threads)} threads, {len(self.descriptors)} descriptors"
        return f"<Surroundings: {held}>"

    def leaks(self) -> list[str]:
        """What is there now and was not then, one phrase each."""
        found = [f"child {_process(pid)}" for pid in self._new_children()]
        found += [f"orphaned {_process(pid)}" for pid in self._new_orphans()]
        found += [f"thread {thread.name!r}" for thread in threading.enumerate() if thread not in self.threads]
        found += [f"ZeroMQ context ({name})" for name in self._new_zmq_threads()]
        found += [f"descriptor {fd} ({what})" for fd, what in self._new_descriptors()]
        found += [f"/dev/shm/{name}" for name in self._new_shared_memory() if not _held_by_a_stranger(name)]
        return found

    def _new_descriptors(self) -> list[tuple[int, str]]:
        new = _descriptors().items() - self.descriptors.items()
        return [(fd, what) for fd, what in new if not (self.with_driver and what.startswith(DRIVERS))]

    def _new_shared_memory(self) -> set[str]:
        new = _names("/dev/shm") - self.shared_memory
        return {name for name in new if not (self.with_driver and name.startswith("cuda."))}

    def kill_processes(self) -> None:
        """Ends the processes that the test left, so that they disturb no other test."""
        for pid in self._new_orphans():
            _kill(pid)
        for pid in self._new_children():
            _kill(pid)
            _quietly(os.waitpid, pid, 0)

    def _new_children(self) -> set[int]:
        return _children() - self.children

    def _new_orphans(self) -> list[int]:
        if not self.with_descendants:
            return []
        mark = f"{RUN_VARIABLE}={os.environ[RUN_VARIABLE]}".encode()
        strangers = {str(pid) for pid in _children()} | {str(os.getpid())}
        new = [name for name in _names("/proc") - self.processes - strangers if name.isdigit()]
        return [int(name) for name in new if mark in _content(f"/proc/{name}/environ").split(b"\0")]

    def _new_zmq_threads(self) -> list[str]:
        names = [_content(f"/proc/self/task/{task}/comm").decode().strip() for task in _tasks() - self.zmq_threads]
        return [name for name in names if name.startswith("ZMQbg/Reaper")]


def _children() -> set[int]:
    """Children of all our threads, the dead but unreaped included; without multiprocessing's own, which lives as we do."""
    own = getattr(resource_tracker, "_resource_tracker", None)
    found: set[int] = set()
    for task in _tasks():
        found.update(map(int, _content(f"/proc/self/task/{task}/children").split()))
    return found - {getattr(own, "_pid", None)}


def _tasks() -> set[str]:
    return _names("/proc/self/task")


def _descriptors() -> dict[int, str]:
    """Open descriptors with what they refer to; without the one that lists them and multiprocessing's own."""
    own = getattr(getattr(resource_tracker, "_resource_tracker", None), "_fd", None)
    found: dict[int, str] = {}
    for name in _names("/proc/self/fd"):
        what = _quietly(os.readlink, f"/proc/self/fd/{name}")
        if what is not None and int(name) != own:
            found[int(name)] = what
    return found


def _names(directory: str) -> set[str]:
    return set(_quietly(os.listdir, directory) or ())


def _content(path: str) -> bytes:
    """A file of /proc; nothing when its process is gone, or another user's."""
    return _quietly(Path(path).read_bytes) or b""


def _process(pid: int) -> str:
    command = _content(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return f"process {pid} ({command or 'ended, but nobody waited for it'})"


def _held_by_a_stranger(name: str) -> bool:
    """Whether a living process outside this run maps or holds the segment: then it is another program's business."""
    mark, path = os.environ[RUN_VARIABLE].encode(), f"/dev/shm/{name}"
    for pid in filter(str.isdigit, _names("/proc")):
        if int(pid) == os.getpid() or mark in _content(f"/proc/{pid}/environ"):
            continue
        targets = (_quietly(os.readlink, f"/proc/{pid}/fd/{fd}") for fd in _names(f"/proc/{pid}/fd"))
        if path.encode() in _content(f"/proc/{pid}/maps") or path in targets:
            return True
    return not Path(path).exists()


def _kill(pid: int) -> None:
    _quietly(os.kill, pid, signal.SIGKILL)


def _quietly(call: Callable[..., Any], *arguments: object) -> Any:
    """The call's result, or None where the operating system says no: what is being looked at may end at any moment."""
    try:
        return call(*arguments)
    except OSError:
        return None
