# SPDX-License-Identifier: Apache-2.0
"""Recording of graphs: work that is put into a stream, and into those that join it, is kept instead of done."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .errors import DeviceFault
from .streams import Range, Work
from .types import cudaStreamCaptureMode

if TYPE_CHECKING:
    from .streams import Stream


class Mark:
    """A point of a capture that an event was recorded at: how much of each stream lies before it."""

    def __init__(self, capture: Capture, before: dict[Stream, int]) -> None:
        self.capture = capture
        self.before = before


class Capture:
    """A graph in the making. It begins in one stream, and must end there with all others joined again."""

    def __init__(self, origin: Stream, mode: cudaStreamCaptureMode) -> None:
        self.origin = origin
        self.mode = mode
        self.thread = threading.get_ident()
        self.is_over = False
        self.is_invalid = False
        self.nodes: list[Work] = []
        #: of each stream in it: how much was put in
        self._counts: dict[Stream, int] = {}
        #: of each stream in it: how much of the others is known to lie before what comes next
        self._before: dict[Stream, dict[Stream, int]] = {}
        self._join(origin)

    def concerns_this_thread(self) -> bool:
        """Whether calls of this thread that act at once would disturb it."""
        if self.mode is cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed:
            return False
        is_global = self.mode is cudaStreamCaptureMode.cudaStreamCaptureModeGlobal
        return is_global or self.thread == threading.get_ident()

    def fail(self, name: str) -> DeviceFault:
        self.is_invalid = True
        return DeviceFault(name)

    def check(self) -> None:
        if self.is_invalid:
            raise DeviceFault("cudaErrorStreamCaptureInvalidated")

    def add(self, stream: Stream, work: Work) -> None:
        self.check()
        self.nodes.append(work)
        self._counts[stream] += 1

    def mark(self, stream: Stream) -> Mark:
        self.check()
        return Mark(self, {**self._before[stream], stream: self._counts[stream]})

    def wait(self, stream: Stream, mark: Work | Mark) -> None:
        """`stream`, which is captured or joins by this, waits for a point that must be of the same capture."""
        if isinstance(mark, Work):
            raise self.fail("cudaErrorStreamCaptureIsolation")
        if mark.capture is not self:
            raise self.fail("cudaErrorStreamCaptureMerge")
        self.check()
        if stream.capture is None:
            self._join(stream)
        known = self._before[stream]
        for other, count in mark.before.items():
            known[other] = max(known.get(other, 0), count)

    def end(self, stream: Stream) -> list[Work]:
        """The nodes, in an order that respects all waits. The streams are their own again, whatever becomes of it."""
        if stream is not self.origin:
            raise self.fail("cudaErrorStreamCaptureUnmatched")
        if self.mode is not cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed and self.thread != threading.get_ident():
            raise self.fail("cudaErrorStreamCaptureWrongThread")
        self.is_over = True
        for one in self._counts:
            one.capture = None
        self.check()
        known = self._before[self.origin]
        if any(known.get(one, 0) < count for one, count in self._counts.items() if one is not self.origin):
            raise DeviceFault("cudaErrorStreamCaptureUnjoined")
        return self.nodes

    def _join(self, stream: Stream) -> None:
        stream.capture = self
        self._counts[stream] = 0
        self._before[stream] = {}


class Graph:
    """What a capture recorded."""

    def __init__(self, nodes: list[Work]) -> None:
        self.nodes = nodes

    def __repr__(self) -> str:
        return f"<graph of {len(self.nodes)} nodes>"

    def launch(self) -> Work:
        """One execution of it."""
        nodes = list(self.nodes)

        def run() -> None:
            for node in nodes:
                node.run()

        touches: list[Range] = [touched for node in nodes for touched in node.touches]
        return Work(run, touches)
