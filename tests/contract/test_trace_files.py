# SPDX-License-Identifier: Apache-2.0
"""Trace files: what is added to them, by whom, and what is left when that fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.ipc.errors import BrokerError
from penstock.ipc.trace_settings import TraceSettings
from penstock.runtime.gateway import trace_files
from penstock.runtime.gateway.requests import InferRequest
from penstock.runtime.gateway.trace_files import TraceFiles, append
from penstock.runtime.gateway.traces import Trace

WRITERS, EACH = 4, 50


def test_what_is_added_is_in_the_array(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    append(str(file), [{"id": 1}, {"id": 1, "x": "y"}])
    append(str(file), [{"id": 2}])
    assert json.loads(file.read_text()) == [{"id": 1}, {"id": 1, "x": "y"}, {"id": 2}]


ADDING = """
import sys
from penstock.runtime.gateway.trace_files import append
for number in range(int(sys.argv[2])):
    append(sys.argv[1], [{"writer": int(sys.argv[3]), "number": number}])
"""


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    commands = [[sys.executable, "-c", ADDING, str(file), str(EACH), str(writer)] for writer in range(WRITERS)]
    writers = [subprocess.Popen(command) for command in commands]
    assert [writer.wait() for writer in writers] == [0] * WRITERS
    found = json.loads(file.read_text())
    assert {(entry["writer"], entry["number"]) for entry in found} == {(w, n) for w in range(WRITERS) for n in range(EACH)}
    assert len(found) == WRITERS * EACH


def test_a_disk_that_is_full_leaves_the_array_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a file, and a disk that takes a few bytes more
    file = tmp_path / "t.json"
    append(str(file), [{"id": 1}])
    real, room = os.pwrite, [4, 0]

    def full(fd: int, content: bytes, offset: int) -> int:
        if not room:
            return real(fd, content, offset)
        if taken := room.pop(0):
            return real(fd, content[:taken], offset)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    # When something is added, then that fails, and the file is what it was
    with pytest.raises(OSError, match="no space"):
        append(str(file), [{"id": 2}])
    assert json.loads(file.read_text()) == [{"id": 1}]
    append(str(file), [{"id": 3}])
    assert json.loads(file.read_text()) == [{"id": 1}, {"id": 3}]


def test_who_is_killed_while_adding_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.json"
    for already in ([], [{"id": 1}], [{"id": 1}, {"id": 1, "long": "x" * 50}]):
        for written in range(1, 20):
            # Given a file, and somebody who adds to it and gets no further than so many bytes
            file.unlink(missing_ok=True)
            for entry in already:
                append(str(file), [entry])
            with monkeypatch.context() as patch:
                patch.setattr(trace_files, "_write", lambda fd, content, at, most=written: os.pwrite(fd, content[:most], at))
                patch.setattr(os, "ftruncate", lambda _fd, _size: None)
                append(str(file), [{"number": [2]}])
            # When somebody else adds something
            append(str(file), [{"id": 3}])
            # Then all that was there is, and what was added
            found = json.loads(file.read_text())
            assert [entry for entry in found if "id" in entry] == [*already, {"id": 3}], (written, file.read_text())


class ScriptedLink:
    """A broker that grants every claim, into the part that it is told, or is gone."""

    def __init__(self) -> None:
        self.part = -1
        self.gone = False
        self.claimed = 0

    async def query(self, what: str, model: str) -> Any:
        assert (what, model) == ("trace_claim", "m")
        if self.gone:
            raise BrokerError("gone")
        self.claimed += 1
        return {"id": self.claimed, "part": self.part}


def told(link: ScriptedLink, story: Callable[[TraceFiles], Awaitable[None]]) -> None:
    async def tell() -> None:
        files = TraceFiles(link)  # type: ignore[arg-type]
        await story(files)
        await files.close()
        files.check_invariants()

    asyncio.run(tell())


def trace(path: Path) -> Trace:
    return Trace(TraceSettings(trace_level=("TIMESTAMPS",), trace_file=str(path)), InferRequest("m", -1, "", []))


def test_each_trace_goes_into_the_file_that_the_broker_says(tmp_path: Path) -> None:
    link = ScriptedLink()

    async def story(files: TraceFiles) -> None:
        files.put(trace(tmp_path / "t"))
        await files.close()
        link.part = 3
        files.put(trace(tmp_path / "t"))

    told(link, story)
    assert [entry["id"] for name in ("t", "t.3") for entry in json.loads((tmp_path / name).read_text())] == [1, 2]


def test_those_that_come_too_fast_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace_files, "MOST_WAITING", 5)
    link = ScriptedLink()

    async def story(files: TraceFiles) -> None:
        for _ in range(8):  # before the loop has run once
            files.put(trace(tmp_path / "t"))
            files.check_invariants()

    told(link, story)
    assert link.claimed == 5
    assert [record.getMessage() for record in caplog.records] == [
        "3 traces were dropped: they came faster than they can be written"
    ]


def test_without_its_broker_traces_are_lost_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = ScriptedLink()
    link.gone = True

    async def story(files: TraceFiles) -> None:
        for _ in range(2):
            files.put(trace(tmp_path / "t"))
            await files.close()

    told(link, story)
    assert [record.getMessage() for record in caplog.records] == ["traces cannot be written: UNAVAILABLE: gone"]
    assert not (tmp_path / "t").exists()
