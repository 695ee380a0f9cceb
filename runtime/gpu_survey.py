# SPDX-License-Identifier: Apache-2.0
"""Which GPUs there are, asked once, and only when a configuration, a region or somebody who asks for it needs to know.

The broker never loads CUDA: a program does (workers/survey.py), which the helper thread runs and waits for. What the broker's
environment hides from CUDA (CUDA_VISIBLE_DEVICES) is hidden here too; ordinals count what is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from ..ipc.gpus import Gpus, decode_gpus
from .processes import how_it_ended

if TYPE_CHECKING:
    from .host import Host

LIMIT_S = 60.0
"""CUDA starts in well under a second per GPU; with many GPUs, without the persistence daemon, it may take tens of seconds."""
PROGRAM = (sys.executable, "-m", "penstock.workers.survey")

Then = Callable[[Gpus], None]
"""Gets what was found, in the loop."""


class GpuSurvey:
    """`found` is None until somebody needed it and the answer came. `look` runs in the helper thread, the rest in the loop."""

    def __init__(
        self, program: Sequence[str] = PROGRAM, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._program = program
        self._limit_s = limit_s
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._is_abandoned = False
        #: what went wrong the last time, and until when that is the answer
        self._failure = Gpus()
        self._failure_until = 0.0
        self.found: Gpus | None = None

    def __repr__(self) -> str:
        return f"<GpuSurvey {'not made' if self.found is None else self.found.listed()}>"

    def check_invariants(self) -> None:
        """No program runs on when the answer is known."""
        assert self.found is None or self._child is None, self

    def look(self) -> Gpus:
        """What there is. Blocks the first time.

        A program that fails is not the last word, but stands for as long as it took: where a driver hangs, loads do not wait
        for it one after the other.
        """
        if self.found is not None:
            return self.found
        if find_spec("cuda") is None:
            self.found = Gpus(reason="cuda-python is not installed: pip install 'penstock[gpu]'")
            return self.found
        began = self._clock()
        if began < self._failure_until and not self._is_abandoned:
            return self._failure
        try:
            gpus = self._run()
        except (OSError, ValueError) as error:
            self._failure = Gpus(reason=f"GPUs could not be looked for: {error}")
            self._failure_until = 2 * self._clock() - began
            return self._failure
        self.found = gpus
        return gpus

    def ask(self, host: Host, then: Then) -> None:
        """Has the GPUs looked for, if that has not been done; `then` is called at once where they are known."""
        if self.found is not None:
            then(self.found)
        else:
            host.run_aside(LookForGpus(self), then)

    def abandon(self) -> None:
        """The broker is leaving, and waits for no driver."""
        self._is_abandoned = True
        child = self._child
        if child is not None:
            child.send_signal(signal.SIGKILL)  # does nothing to one that has been waited for

    def _run(self) -> Gpus:
        """Raises OSError, ValueError with what went wrong."""
        if self._is_abandoned:
            raise ValueError("the broker is stopping")
        child = subprocess.Popen(self._program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._child = child
        if self._is_abandoned:  # while it was being started
            child.kill()
        try:
            output, errors = child.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise ValueError(f"the survey took longer than {self._limit_s:g} s") from None
        finally:
            self._child = None
        if child.returncode:
            last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ValueError(f"the survey {how_it_ended(child.returncode)}{': ' if last else ''}{last}")
        return decode_gpus(output.strip().rpartition(b"\n")[2])


class LookForGpus(NamedTuple):
    """The job of the helper thread."""

    survey: GpuSurvey

    def run(self) -> Gpus:
        """Never raises: what goes wrong is the reason why there is none."""
        return self.survey.look()
