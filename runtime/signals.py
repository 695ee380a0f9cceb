# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT as events of the loop: a handler only notes the signal, the loop acts."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from .event_loop import EventLoop

log = logging.getLogger("penstock.broker")

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Calls `stop` from the loop for each SIGTERM or SIGINT, while entered. Main thread only."""

    def __init__(self, loop: EventLoop, stop: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = stop
        self._reader, self._writer = socket.socketpair()
        self._before: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"<StopSignals {'armed' if self._before else 'idle'}>"

    def __enter__(self) -> StopSignals:
        self._writer.setblocking(False)
        self._reader.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOPPING:
            self._before[number] = signal.signal(number, _note)
        self._loop.add(self._reader.fileno(), self._readable)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._reader.close()
        self._writer.close()

    def _readable(self, _events: int) -> None:
        for number in self._reader.recv(64):
            log.info("Signal (%d) received.", number)
            self._stop()


def _note(_number: int, _frame: FrameType | None) -> None:
    """Python writes the signal's number to the wake-up descriptor before it gets here."""
