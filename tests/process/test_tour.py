# SPDX-License-Identifier: Apache-2.0
"""docs/tour.md is walked from top to bottom: what it says to write is written, what it says to type is run.

How the page is read:

- A block "```python NAME" or "```protobuf NAME" is the file NAME.
- In a "```console" block a line that begins with "$ " is a command, and the lines below it are all that it prints. "..." is
  anything, be it of one line or, alone in its line, several lines. Spaces and rules of tables do not count, and numbers only in
  what a program of the page prints. A command ends with 0; with 1 where "penstock: " begins what is shown.
- A command that ends with "&" goes on, once it has printed what is shown; "wait" waits for the last one.
- A "```text" block is how the last command looked in a terminal, on one machine: it said the first two words of each line that is
  not indented.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from running import START_S, eventually

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tour.md"
PORT, RUNTIME_DIR = "8002", "/tmp/penstock-1000"  # as the page has them
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]\d+)?(?: ?(?:ns|us|ms|s|B|[KMG]iB)\b|%)?")
_CURL = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[-1]).read().decode())"


class Block(NamedTuple):
    """`line`: of the page, where its text begins."""

    line: int
    kind: str
    name: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(page):
        yield Block(page.count("\n", 0, found.start(3)) + 1, found[1], found[2] or "", found[3])


def lines(text: str, *, is_exact: bool) -> str:
    """The text as it is compared."""
    kept = [" ".join(re.sub("─+", "─", line).split()) for line in text.splitlines() if line.strip()]
    joined = "".join(f"{line}\n" for line in kept)
    return joined if is_exact else _NUMBER.sub("#", joined)


def is_as_shown(shown: str, printed: str, *, is_exact: bool) -> bool:
    parts = re.split(r"^\.\.\.\n| ?\.\.\. ?", lines(shown, is_exact=is_exact), flags=re.MULTILINE)
    return re.fullmatch(".*?".join(map(re.escape, parts)), lines(printed, is_exact=is_exact), re.DOTALL) is not None


class Job(NamedTuple):
    """A command that goes on."""

    process: subprocess.Popen[bytes]
    output: Path


class Walk:
    """The page's user: a directory with the sample models, and what was started in it. A context manager."""

    def __init__(self, folder: Path, page: Path = PAGE) -> None:
        self.folder = folder
        self._page = page
        self.jobs: list[Job] = []
        self._printed = ""  # by the last command
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        self._environment = {
            **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PENSTOCK_RUNTIME_DIR": str(folder / "run"),
            "COLUMNS": "110",
        }  # fmt: skip
        self._environment.pop("PENSTOCK_ADDRESS", None)

    def __enter__(self) -> Walk:
        shutil.copytree(ROOT / "model_repository", self.folder / "model_repository")
        (self.folder / "run").mkdir(0o700)
        (self.folder / "bin").mkdir()
        self._program("python", "")
        self._program("penstock", "-m penstock.clients.cli")
        if shutil.which("curl") is None:
            self._program("curl", f"-c '{_CURL}'")
        return self

    def _program(self, name: str, arguments: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        path.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            with suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()

    def take(self, block: Block) -> None:
        """Does what the block says."""
        if block.kind == "console":
            for found in _COMMAND.finditer(block.text):
                line = block.line + block.text.count("\n", 0, found.start())
                self._type(found[1], found[2], f"{self._page.name}:{line}: {found[1]}")
        elif block.kind == "text":
            shown = {word for line in block.text.splitlines() if line[:1].strip() for word in line.split()[:2]}
            missing = shown - {"...", *self._printed.split()}
            assert not missing, f"{self._page.name}:{block.line}: {missing} not in\n{self._printed}"
        elif block.name:
            path = self.folder / block.name
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)

    def _type(self, command: str, shown: str, where: str) -> None:
        if command.endswith(" &"):
            self._begin(command.removesuffix(" &"), shown, where)
            return
        if command == "wait":
            job = self.jobs.pop()
            code, self._printed = job.process.wait(START_S), self._as_on_the_page(job.output.read_text())
        else:
            done = subprocess.run(
                self._here(command), cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=START_S,
            )  # fmt: skip
            code, self._printed = done.returncode, self._as_on_the_page(done.stdout)
        assert code == shown.startswith("penstock: "), f"{where}: exit code {code}\n{self._printed}"
        if shown:
            assert is_as_shown(shown, self._printed, is_exact=command.startswith("python ")), f"{where}\n{self._printed}"

    def _begin(self, command: str, shown: str, where: str) -> None:
        output = self.folder / f"job-{len(self.jobs)}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                self._here(command), cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.jobs.append(Job(process, output))

        def has_shown() -> bool:
            return is_as_shown(f"{shown}...\n", self._as_on_the_page(output.read_text()), is_exact=False)

        eventually(lambda: has_shown() or process.poll() is not None, START_S, where)
        assert has_shown(), f"{where}\n{output.read_text()}"

    def _here(self, command: str) -> list[str]:
        return ["bash", "-c", command.replace(PORT, self._port)]

    def _as_on_the_page(self, printed: str) -> str:
        return printed.replace(str(self.folder / "run"), RUNTIME_DIR).replace(self._port, PORT)


def test_the_tour(tmp_path: Path) -> None:
    page = list(blocks(PAGE.read_text()))
    assert sum(len(_COMMAND.findall(block.text)) for block in page if block.kind == "console") >= 30
    with Walk(tmp_path) as walk:
        for block in page:
            walk.take(block)
        assert not walk.jobs, "all that was started has been waited for"


@pytest.mark.parametrize(
    ("shown", "printed", "is_exact", "expected"),
    [
        ("a 1.5 ms\n", "a  20 us\n", False, True),  # another number, another unit, other spaces
        ("a 1\n", "a 2\n", True, False),
        ("a 1\n", "a -\n", False, False),
        ("a\n", "a\nb\n", False, False),  # cut without a word
        ("a\n...\n", "a\nb\nc\n", False, True),
        ("...\nc\n", "c\n", False, True),
        ("a (...) c\n", "a (b) c\n", False, True),
        ("a (...) c\n", "a (b) d\n", False, False),
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, is_exact: bool, expected: bool) -> None:
    assert is_as_shown(shown, printed, is_exact=is_exact) == expected
