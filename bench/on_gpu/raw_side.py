# SPDX-License-Identifier: Apache-2.0
"""The raw side as bench/gpu.py sees it: a process that is asked (raw.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import models

Row = dict[str, Any]


class Raw:
    """The raw side of one network. A context manager.

    When a question is broken off, by whatever, its answer would be taken for that to the next one: the process is ended, and
    another begins with the next question.
    """

    def __init__(self, network: models.Network, folder: Path) -> None:
        self._command = [sys.executable, str(Path(__file__).with_name("raw.py")), network.name, str(folder / network.file)]
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._is_ready = False
        self.network = network
        #: batch size -> how it is computed
        self._modes: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Raw {self.network.name}, prepared for {sorted(self._modes)}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when something was prepared by a process that is gone."""
        assert self._process is not None or not (self._is_ready or self._modes), repr(self)

    def __enter__(self) -> Raw:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def wait(self) -> Row:
        """Until it has loaded what it needs, which would disturb what is measured meanwhile."""
        if not self._is_ready:
            self._begin()
            try:
                self._read()
            except BaseException:
                self._end()
                raise
            self._is_ready = True
        return {}

    def mode(self, batch: int) -> str:
        """How a batch size is computed; "" where that is not known any more."""
        return self._modes.get(batch, "")

    def prepare(self, batch: int) -> None:
        """Makes it ready for a batch size. Raises RuntimeError when it computes something wrong."""
        if batch not in self._modes:
            said = self._ask("prepare", batch, 0)
            expected = models.expected_of(self.network, batch, self.folder)
            for number, (outputs, right) in enumerate(zip(said["outputs"], expected, strict=True)):
                if not models.is_right(np.array(outputs, np.float32), right):
                    raise RuntimeError(f"the raw loop's output {number} at batch {batch} is wrong")
            self._modes[batch] = said["mode"]

    def measure(self, word: str, batch: int, seconds: float) -> Row:
        """One batch after the other (`wait`), or two in flight (`stream`). Prepared again where it had to be ended."""
        self.prepare(batch)
        return self._ask(word, batch, seconds)

    def _begin(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, word: str, batch: int, seconds: float) -> Row:
        self.wait()
        try:
            self._write(f"{word} {batch} {seconds}\n")
            answer = self._read()
        except BaseException:
            self._end()
            raise
        if "failed" in answer:
            raise RuntimeError(f"the raw side: {answer['failed']}")
        return answer

    def _write(self, text: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> Row:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the raw side ended with exit status {self._process.wait()}; its reason is above")
        answer: Row = json.loads(line)
        return answer

    def _end(self) -> None:
        process, self._process, self._is_ready = self._process, None, False
        self._modes.clear()
        if process is not None:
            process.kill()  # nothing that it holds outlives it
            process.communicate()
