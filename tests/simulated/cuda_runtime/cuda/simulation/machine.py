# SPDX-License-Identifier: Apache-2.0
"""The state of the simulation in this process, behind one lock, and what all calls have in common."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .captures import Capture, Graph
from .errors import STICKY, DeviceFault, cudaError_t
from .memory import Memory
from .streams import Event, Executor, Range, Stream, Work

SUCCESS = cudaError_t.cudaSuccess
FIRST_HANDLE = 0x5EED_0000_0000


class Failure(NamedTuple):
    """A call that is to fail: the nth from now on, and those after it where `lasts`."""

    nth: int
    lasts: bool
    code: cudaError_t


class Simulated(NamedTuple):
    """One device."""

    octets: bytes
    index: int

    @property
    def uuid(self) -> str:
        text = self.octets.hex()
        return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Machine:
    """One process's CUDA."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.lock = threading.Condition(threading.Lock())
        self.thread = threading.local()
        self.folder = Path(environment["SIMULATED_CUDA_DIR"]) if environment.get("SIMULATED_CUDA_DIR") else None
        self.devices = _visible(int(environment.get("SIMULATED_CUDA_GPUS", "1")), environment.get("CUDA_VISIBLE_DEVICES"))
        self.total_bytes = int(environment.get("SIMULATED_CUDA_MEMORY", 8 << 30))
        self.pinned_limit = int(environment.get("SIMULATED_CUDA_PINNED", 1 << 62))
        self.is_mig, self.has_mps, self.has_no_ipc = (
            environment.get(f"SIMULATED_CUDA_{name}", "0") == "1" for name in ("MIG", "MPS", "NO_IPC")
        )
        # as the driver finds a daemon, and does without a word where there is none
        self.has_mps |= Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or "/nowhere", "control").exists()
        self.without = frozenset(filter(None, environment.get("SIMULATED_CUDA_WITHOUT", "").split(",")))
        self.memory = Memory(self.violate)
        self.executor = Executor(self.lock, self._is_paused, self._failed)
        self.handles = itertools.count(FIRST_HANDLE, 16)
        self.serials = itertools.count(1)
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, Graph] = {}
        self.executables: dict[int, Graph] = {}
        self.captures: list[Capture] = []
        #: devices whose context exists, with its flags
        self.contexts: dict[int, int] = {}
        self.violations: list[str] = []
        #: the error that every call returns from now on
        self.lost: cudaError_t | None = None
        self._paused = False
        self._failures: dict[str, Failure] = {}
        self._counts: dict[str, int] = {}
        for injected in filter(None, environment.get("SIMULATED_CUDA_FAIL", "").split(",")):
            name, nth, code = injected.split(":")
            self.fail(name, code, int(nth.rstrip("+")), nth.endswith("+"))

    def violate(self, text: str) -> None:
        """Records wrong use; its place is told by the stack, which is of the call or of what waited for the work."""
        place = "".join(traceback.format_stack(limit=12)[:-2])
        self.violations.append(f"{text}\n{place}")
        if self.folder is not None:
            with (self.folder / f"violations-{os.getpid()}").open("a", encoding="utf-8") as file:
                file.write(f"{text}\n{place}\n")

    def fail(self, name: str, code: str, nth: int, lasts: bool) -> None:
        self._counts[name] = 0
        self._failures[name] = Failure(nth, lasts, cudaError_t[code])

    def pause(self, yes: bool) -> None:
        self._paused = yes
        self.lock.notify_all()

    def enter(self, name: str) -> None:
        """What each call begins with. Raises DeviceFault when it is to fail."""
        failure = self._failures.get(name)
        if failure is not None:
            self._counts[name] += 1
            if self._counts[name] == failure.nth or (failure.lasts and self._counts[name] > failure.nth):
                if failure.code in STICKY:
                    self.lose(failure.code)
                raise DeviceFault(failure.code.name)
        if self.lost is not None:
            raise DeviceFault(self.lost.name)

    def lose(self, code: cudaError_t) -> None:
        """The context is lost: nothing that was put in is done any more."""
        self.lost = code
        for stream in self.streams.values():
            for work in stream.work:
                work.done_ns = work.done_ns or 1
            stream.work.clear()

    def context(self) -> int:
        """The calling thread's device, with its context. Raises DeviceFault where there is none."""
        if not self.devices:
            raise DeviceFault("cudaErrorNoDevice")
        ordinal: int = getattr(self.thread, "ordinal", 0)
        self.contexts.setdefault(ordinal, 0)
        return ordinal

    def device(self, ordinal: int) -> Simulated:
        if not self.devices:
            raise DeviceFault("cudaErrorNoDevice")
        if not 0 <= ordinal < len(self.devices):
            raise DeviceFault("cudaErrorInvalidDevice")
        return self.devices[ordinal]

    def stream(self, handle: Any) -> Stream | None:
        """The stream of a handle; None for the default one."""
        address = 0 if handle is None else int(handle)
        if address in (0, 1):
            return None
        return found(self.streams, address)

    def put(self, stream: Stream | None, work: Work) -> None:
        """Puts work into a stream, or into the graph that is captured from it. The default stream does it at once."""
        if stream is None:
            self.guard("cudaErrorStreamCaptureImplicit")
            self.drain_blocking()
            stream = Stream(0, 0, is_blocking=True, priority=0)
            self._append(stream, work)
            self.executor.complete(work)
            self.enter("")
        elif stream.capture is not None:
            stream.capture.add(stream, work)
        else:
            self._append(stream, work)

    def _append(self, stream: Stream, work: Work) -> None:
        work.stream = stream
        stream.work.append(work)

    def drain_blocking(self) -> None:
        for stream in list(self.streams.values()):
            if stream.is_blocking:
                self.executor.drain(stream)

    def drain_all(self) -> None:
        for stream in list(self.streams.values()):
            self.executor.drain(stream)

    def guard(self, name: str = "cudaErrorStreamCaptureUnsupported") -> None:
        """What acts at once cannot be captured, and spoils the captures that concern this thread."""
        for capture in self.captures:
            if not capture.is_over and capture.concerns_this_thread():
                raise capture.fail(name)

    def users(self, address: int, byte_size: int) -> list[Work]:
        """What is still to be done, or being done, with some memory."""
        waiting = [work for stream in self.streams.values() for work in stream.work]
        return [work for work in waiting if any(touched.meets(address, byte_size) for touched in work.touches)]

    def leftovers(self) -> list[str]:
        """What was made and not given back."""
        held: list[object] = [*self.memory.living(), *self.streams.values(), *self.events.values()]
        return [repr(one) for one in (*held, *self.graphs.values(), *self.executables.values())]

    def _is_paused(self) -> bool:
        return self._paused or (self.folder is not None and (self.folder / "paused").exists())

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DeviceFault):
            self.lose(error.code)
        else:
            self.violate(f"a kernel raised {error!r}: {''.join(traceback.format_exception(error))}")
            self.lose(cudaError_t.cudaErrorLaunchFailure)


def found(held: dict[int, Any], handle: Any) -> Any:
    """What a handle stands for."""
    one = held.get(int(handle))
    if one is None:
        raise DeviceFault("cudaErrorInvalidResourceHandle")
    return one


def ranges(*pairs: tuple[int, int]) -> Sequence[Range]:
    return [Range(*pair) for pair in pairs]


def _visible(count: int, wanted: str | None) -> list[Simulated]:
    there = [Simulated(f"simulated-gpu-{index:02d}".encode(), index) for index in range(count)]
    if wanted is None:
        return there
    visible = []
    for word in filter(None, (word.strip() for word in wanted.split(","))):
        chosen = [
            one
            for one in there
            if word == str(one.index) or (word[:4] in ("GPU-", "MIG-") and one.uuid[4:].startswith(word[4:]))
        ]
        if not chosen:
            break  # what follows an unknown device is not visible either
        visible += chosen
    return visible


MACHINE = Machine(dict(os.environ))


def call(results: int = 0, survives: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A call of the runtime: (error, *results), one thread at a time. `survives`: it works though the context is lost."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*arguments: Any) -> tuple[Any, ...]:
            with MACHINE.lock:
                try:
                    if not survives:
                        MACHINE.enter(function.__name__)
                    value = function(*arguments)
                    if MACHINE.lost is not None and not survives:
                        raise DeviceFault(MACHINE.lost.name)
                except DeviceFault as error:
                    if error.code is not cudaError_t.cudaErrorNotReady:
                        MACHINE.thread.last = error.code
                    return (error.code, *[None] * results)
            return (SUCCESS,) if not results else (SUCCESS, value) if results == 1 else (SUCCESS, *value)

        return called

    return decorate
