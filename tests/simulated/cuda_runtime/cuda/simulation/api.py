# SPDX-License-Identifier: Apache-2.0
"""What tests, and fakes of other libraries, ask of the simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceFault
from .machine import MACHINE, ranges
from .memory import Kind
from .streams import Work

__all__ = [
    "DeviceFault", "enqueue", "fail", "hold", "is_registered", "leftovers", "pause", "pending", "release", "resume", "shut_down",
    "take_violations", "view", "violations",
]  # fmt: skip


def enqueue(stream: Any, function: Callable[[], None], touches: Sequence[tuple[int, int]] = ()) -> None:
    """A kernel: `function` runs when the stream comes to it, each time anew where it was captured in a graph.

    It works on view()s, which it takes when it runs. What it raises loses the context; DeviceFault says by which error.
    `touches`: address and byte size of the memory that it uses, so that giving this back too early is noticed.
    """
    with MACHINE.lock:
        MACHINE.put(MACHINE.stream(stream), Work(function, ranges(*touches)))


def view(address: int, byte_size: int) -> npt.NDArray[np.uint8]:
    """Memory as a kernel sees it. Out of bounds, or given back, is a violation, and DeviceFault."""
    if not byte_size:
        return np.empty(0, np.uint8)
    return MACHINE.memory.octets(address, byte_size, to_write=False)


def fail(name: str, error: str, nth: int = 1, lasts: bool = False) -> None:
    """The nth call of `name` from now on fails; with `lasts` all later ones do."""
    with MACHINE.lock:
        MACHINE.fail(name, error, nth, lasts)


def pause() -> None:
    """Nothing is executed any more in this process: queries say no, and who waits waits until resume()."""
    with MACHINE.lock:
        MACHINE.pause(True)


def resume() -> None:
    with MACHINE.lock:
        MACHINE.pause(False)


def hold(stream: Any) -> None:
    """As pause(), for one stream."""
    with MACHINE.lock:
        MACHINE.streams[int(stream)].is_held = True


def release(stream: Any) -> None:
    with MACHINE.lock:
        MACHINE.streams[int(stream)].is_held = False
        MACHINE.lock.notify_all()


def pending(stream: Any) -> int:
    """How much is still to be done in a stream."""
    with MACHINE.lock:
        return len(MACHINE.streams[int(stream)].work)


def is_registered(address: int) -> bool:
    """Whether an address lies in host memory that was registered."""
    with MACHINE.lock:
        one = MACHINE.memory.around(address)
        return one is not None and one.kind is Kind.REGISTERED


def violations() -> list[str]:
    """Wrong use so far in this process, each with where it was noticed."""
    with MACHINE.lock:
        return list(MACHINE.violations)


def take_violations() -> list[str]:
    """As violations(), for a test that expects some: they are forgotten."""
    with MACHINE.lock:
        taken, MACHINE.violations[:] = list(MACHINE.violations), []
        if MACHINE.folder is not None:
            for file in MACHINE.folder.glob("violations-*"):
                file.unlink()
        return taken


def leftovers() -> list[str]:
    """What this process made and did not give back. After a lost context nothing can be given back, and nothing is left."""
    with MACHINE.lock:
        return [] if MACHINE.lost else MACHINE.leftovers()


def shut_down() -> None:
    """The end of the process, as far as CUDA is concerned."""
    with MACHINE.lock:
        MACHINE.memory.close()
