# SPDX-License-Identifier: Apache-2.0
"""How much is measured, how long that may take, and what was left out for which reason."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import models

Row = dict[str, Any]
LENIENCE = 4
"""A part is broken off when it takes so many times as long as it should."""
AGAIN_S = 5.0
"""What is broken off gives back what it has, and is broken off again when that hangs too."""


class TimeIsUpError(Exception):
    """A part took too long."""


class Scale:
    """A rehearsal is as small as can be."""

    def __init__(self, is_rehearsal: bool, budget_s: float) -> None:
        self.is_rehearsal = is_rehearsal
        self.ends = time.monotonic() + budget_s
        self.rounds, self.seconds = (1, 0.02) if is_rehearsal else (3, 0.2)
        self.batches = models.BATCHES[:1] if is_rehearsal else models.BATCHES
        self.registered_bytes = (4 if is_rehearsal else 64) << 20
        #: what there was no time for, or could not be had, each with the reason
        self.left_out: list[str] = []
        self.has_failed = False
        self._is_limited = False
        signal.signal(signal.SIGALRM, self._time_is_up)

    def __repr__(self) -> str:
        return f"<Scale, {self.ends - time.monotonic():.0f} s left, {len(self.left_out)} left out>"

    def attempt(self, what: str, needed_s: float, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of one part of the whole; none where there is no time, or where it fails, which costs the others nothing."""
        left_s = self.ends - time.monotonic()
        if not self.is_rehearsal and needed_s > left_s:
            self.leave_out(what, "no time was left")
            return []
        begun = time.monotonic()
        limit_s = LENIENCE * needed_s if self.is_rehearsal else min(LENIENCE * needed_s, left_s)
        try:
            with self._limited(limit_s):
                return measure()
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self.leave_out(what, f"{type(error).__name__}: {error}")
            return []
        finally:
            print(f"({what}: {time.monotonic() - begun:.1f} s)", flush=True)

    @contextmanager
    def optional(self, what: str) -> Iterator[None]:
        """One of several sides of a part: where it fails, the others are measured without it."""
        try:
            yield
        except TimeIsUpError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self.leave_out(what, f"{type(error).__name__}: {error}")

    def leave_out(self, what: str, why: str) -> None:
        """Something that was to be had is not, and the exit status says so."""
        self.has_failed = True
        self.left_out.append(f"{what}: {why}")

    @contextmanager
    def _limited(self, limit_s: float) -> Iterator[None]:
        self._is_limited = True
        signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
        try:
            yield
        finally:
            self._is_limited = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _time_is_up(self, _number: int, _frame: object) -> None:
        if self._is_limited:
            raise TimeIsUpError("it took too long")
