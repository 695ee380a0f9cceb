# SPDX-License-Identifier: Apache-2.0
"""Looking at the repositories: once, for what to load at the start, and with `--control-mode poll` again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..ipc.errors import BrokerError, PenstockError
from .host import Host
from .loads import Loads
from .models import ModelTable
from .repository.changes import NOWHERE, Places
from .repository.jobs import Found, Survey, Sweep
from .repository.orders import Order
from .settings import ALL_MODELS, ControlMode, Settings

log = logging.getLogger("penstock.broker")


class Surveys:
    """Turns what is found into loads and unloads. One survey is under way at most, or the time of the next is known."""

    def __init__(self, settings: Settings, host: Host, models: ModelTable, loads: Loads, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._host = host
        self._models = models
        self._loads = loads
        self._clock = clock
        self._polls = settings.control_mode == ControlMode.POLL
        self.has_begun = False  # whether the repositories have been looked at, and what is to be loaded is known
        self._is_over = False
        self._places: Places = NOWHERE
        self.due_ns: int | None = None  # when the next survey is due, in the clock's ns

    def __repr__(self) -> str:
        return f"<Surveys {'begun' if self.has_begun else 'not begun'}, {len(self._places)} models are watched>"

    def check_invariants(self) -> None:
        """Only a broker that polls, and is not leaving, has something due."""
        assert self.due_ns is None or (self._polls and self.has_begun and not self._is_over), self

    def start(self) -> None:
        """Looks at the repositories, and has loaded what is to be loaded at the start."""
        self._host.run_aside(Sweep(), _swept)
        self._look(self._begin)

    def tick(self, now_ns: int) -> None:
        """Looks again, if it is time."""
        if self.due_ns is not None and self.due_ns <= now_ns:
            self.due_ns = None
            self._look(self._polled)

    def abandon(self) -> None:
        """The broker is stopping: nothing is loaded any more, whatever a survey under way finds."""
        self._is_over = True
        self.due_ns = None

    def _look(self, then: Callable[[Found | PenstockError], None]) -> None:
        self._host.run_aside(Survey(self._settings.repositories, self._places if self._polls else None), then)

    def _begin(self, found: Found | PenstockError) -> None:
        if self._is_over:
            return
        if isinstance(found, PenstockError):
            raise BrokerError(found.message, found.code) from found
        self.has_begun = True
        chosen: Sequence[str] = sorted(found.names)
        if self._settings.control_mode == ControlMode.EXPLICIT and ALL_MODELS not in self._settings.load_models:
            chosen = list(dict.fromkeys(self._settings.load_models))
        for name in chosen:
            self._loads.load(Order(name), _ignore)
        self._note(found)

    def _polled(self, found: Found | PenstockError) -> None:
        if self._is_over:
            return
        if isinstance(found, PenstockError):
            log.warning("the repositories cannot be polled: %s", found.message)
            self._wait()
            return
        for name in found.gone:
            log.info("model %s is not in its repository any more", name)
            self._loads.unload(name, _ignore)
        for name in found.changed:
            log.info("model %s is new or has changed", name)
            self._loads.load(Order(name), _ignore)
        self._note(found)

    def _note(self, found: Found) -> None:
        self._models.known = found.names
        self._places = found.places
        self._wait()

    def _wait(self) -> None:
        if self._polls:
            self.due_ns = self._clock() + int(self._settings.poll_interval_s * 1e9)


def _ignore(_error: PenstockError | None) -> None:
    """Nobody waits for the end of this load; a failure is logged, and in the index."""


def _swept(result: object) -> None:
    if isinstance(result, PenstockError):
        log.warning("files that another broker left cannot be removed: %s", result.message)
