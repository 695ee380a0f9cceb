# SPDX-License-Identifier: Apache-2.0
"""Child processes that end with the block that started them, and with this process even if it is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import final

from .failures import CommandFailed

TERMINATES_WITHIN_S = 10.0
"""More than a broker needs to drain and to wait for its workers (serve --drain-s and --kill-s)."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Child = subprocess.Popen[str]


@final
class Children:
    """Modules of ours running as processes, each told by --parent whom to die with. A context manager."""

    def __init__(self) -> None:
        #: in the order they were started; they are ended in the reverse of it
        self._started: list[Child] = []

    def __repr__(self) -> str:
        return f"<Children {[child.pid for child in self._started if child.poll() is None]} run>"

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self, module: str, *arguments: str) -> Child:
        """Runs `python -m module`. Ctrl-C does not reach it: this process decides when it ends."""
        command = [sys.executable, "-m", module, *arguments, "--parent", str(os.getpid())]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._started.append(child)
        return child

    def close(self) -> None:
        """Ends and reaps those that still run, the last started first. Idempotent."""
        for child in reversed(self._started):
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(TERMINATES_WITHIN_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what it was to be told does not matter any more; the descriptor is closed all the same


def say(child: Child, word: str) -> None:
    """Writes a line to its standard input. Raises CommandFailed when it is dead."""
    assert child.stdin is not None
    try:
        child.stdin.write(word + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        raise CommandFailed(f"{_what(child)} ended early") from None


def hear(child: Child, within_s: float) -> str:
    """The next line of its standard output. Raises CommandFailed when it ends or stays silent instead."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], within_s)
    if not readable:
        raise CommandFailed(f"{_what(child)} said nothing for {within_s:g} s")
    line = child.stdout.readline()
    if not line:
        raise CommandFailed(f"{_what(child)} ended early, with exit code {child.wait()}")
    return line


def _what(child: Child) -> str:
    assert isinstance(child.args, list)
    return f"process {child.pid} (python {' '.join(str(word) for word in child.args[1:4])} ...)"


@contextmanager
def interrupted_once() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP within the block raises KeyboardInterrupt; later ones leave the cleaning up alone."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Interrupts that arrive within the block act after it: for imports of native code, which turn an exception into a mess.

    Held by handlers and not by a signal mask, which would leave them to the threads that numpy's libraries have started.
    """
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
