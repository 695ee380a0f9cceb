# SPDX-License-Identifier: Apache-2.0
"""A load or an unload of one model: what was asked, how far it is, and who is to be told of its end."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ..ipc.errors import PenstockError
from .repository.orders import Order
from .rollouts import Rollout

Tell = Callable[[PenstockError | None], None]
"""Hears of the end of a load: None, or why it failed."""


class LoadState(Enum):
    """QUEUED: behind another of its model. READING: in the helper thread. STARTING: workers load. LEAVING: they go (unload)."""

    QUEUED = "queued"
    READING = "reading"
    STARTING = "starting"
    LEAVING = "leaving"
    DONE = "done"
    FAILED = "failed"


#: state -> states it may become. A load is FAILED at any stage when its model is unloaded or the broker stops.
TRANSITIONS: dict[LoadState, frozenset[LoadState]] = {
    LoadState.QUEUED: frozenset({LoadState.READING, LoadState.LEAVING, LoadState.FAILED}),
    LoadState.READING: frozenset({LoadState.STARTING, LoadState.DONE, LoadState.FAILED}),
    LoadState.STARTING: frozenset({LoadState.DONE, LoadState.FAILED}),
    LoadState.LEAVING: frozenset({LoadState.DONE, LoadState.FAILED}),
    LoadState.DONE: frozenset(),
    LoadState.FAILED: frozenset(),
}


class Load:
    """`order` None: an unload."""

    def __init__(self, name: str, order: Order | None, tell: Tell) -> None:
        self.name = name
        self.order = order
        self.state = LoadState.QUEUED
        self.rollout: Rollout | None = None
        #: of an unload, the versions that there were when it began
        self.versions: tuple[int, ...] = ()
        self._tell = tell

    def __repr__(self) -> str:
        return f"<{'Unload' if self.order is None else 'Load'} of {self.name} {self.state.value}>"

    def check_invariants(self) -> None:
        """What starts has a rollout; an unload neither reads nor starts."""
        assert (self.state is LoadState.STARTING) <= (self.rollout is not None), self
        assert self.order is not None or self.state not in (LoadState.READING, LoadState.STARTING), self
        assert self.order is None or self.state is not LoadState.LEAVING, self
        if self.rollout is not None:
            self.rollout.check_invariants()

    def describe(self) -> dict[str, str]:
        """The load as `penstock status` shows it."""
        return {"model": self.name, "what": "unload" if self.order is None else "load", "state": self.state.value}

    def become(self, state: LoadState) -> None:
        """Moves along TRANSITIONS."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state

    def end(self, error: PenstockError | None) -> None:
        """It is over: who asked for it is told."""
        self.become(LoadState.DONE if error is None else LoadState.FAILED)
        self._tell(error)

    @property
    def is_over(self) -> bool:
        """Whether who asked for it has been told."""
        return not TRANSITIONS[self.state]
