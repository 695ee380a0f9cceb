# SPDX-License-Identifier: Apache-2.0
"""Trace files: JSON arrays to which every gateway of a broker adds.

A file is locked while something is added, which overwrites the bracket at its end and writes another: it is valid JSON whenever
nobody holds the lock, or empty before the first is written. Each addition is a line of its own. A gateway that is killed in the
midst of one leaves a file that does not end in a line with nothing but a bracket; who adds next begins where that line does.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from ...ipc.errors import PenstockError
from .link import BrokerLink
from .traces import Trace

log = logging.getLogger("penstock.gateway")

MOST_WAITING = 1000
"""Traces that have not been written yet; beyond that they are dropped, and their number logged."""


_END = b"\n]"


def append(path: str, entries: Iterable[dict[str, Any]]) -> None:
    """Adds entries to a file's array. Raises OSError, and the array is as it was."""
    added = b",".join(map(msgspec.json.encode, entries))
    with _locked(path) as fd:
        begin = _end_of_lines(fd)
        try:
            _write(fd, (b"," if begin else b"[") + added + _END, begin)
        except OSError:
            os.ftruncate(fd, begin + 1 if begin else 0)  # its last byte is kept, for which there is room
            if begin:
                _write(fd, b"]", begin)
            raise
        os.ftruncate(fd, begin + len(added) + 1 + len(_END))  # what was left there may have been longer


def _end_of_lines(fd: int) -> int:
    """Where the array's closing bracket is, or would be, had nobody been killed while adding; 0: it has no entries."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, len(_END), max(size - len(_END), 0)) == _END:
        return max(size - 1, 0)
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as content:
        return content.rfind(b"\n") + 1


@contextmanager
def _locked(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)  # and with it the lock


def _write(fd: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


class TraceFiles:
    """Belongs to one event loop, which never waits for a file: a thread writes."""

    def __init__(self, link: BrokerLink) -> None:
        self._link = link
        self._waiting: list[Trace] = []
        self._writing: asyncio.Task[None] | None = None
        self._dropped = 0
        self._refused = ""  # the error of the last writing, if it was one

    def __repr__(self) -> str:
        return f"<TraceFiles {len(self._waiting)} traces waiting, {self._dropped} dropped>"

    def check_invariants(self) -> None:
        """What waits is being written, and is bounded."""
        assert len(self._waiting) <= MOST_WAITING, self
        assert not self._waiting or self._writing is not None, self

    def put(self, trace: Trace) -> None:
        """A trace is complete."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(trace)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())

    async def close(self) -> None:
        """Writes what waits."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                traces, self._waiting = self._waiting, []
                await self._write(traces)
        finally:
            self._writing = None
            if self._dropped:
                log.warning("%d traces were dropped: they came faster than they can be written", self._dropped)
                self._dropped = 0

    async def _write(self, traces: Sequence[Trace]) -> None:
        """Those that the broker grants, each into the file that it says."""
        error: Exception | None = None
        try:
            by_path: dict[str, list[tuple[Trace, int]]] = {}
            for trace in traces:
                claim = await self._link.query("trace_claim", trace.model)
                if claim is not None:
                    path = trace.file if claim["part"] < 0 else f"{trace.file}.{claim['part']}"
                    by_path.setdefault(path, []).append((trace, claim["id"]))
            for path, claimed in by_path.items():
                await asyncio.to_thread(append, path, (entry for trace, number in claimed for entry in trace.entries(number)))
        except (OSError, PenstockError) as refused:
            error = refused
        text = "" if error is None else str(error)
        if text and text != self._refused:  # once, however often
            log.error("traces cannot be written: %s", text)
        self._refused = text
