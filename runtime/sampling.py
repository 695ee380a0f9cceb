# SPDX-License-Identifier: Apache-2.0
"""Which requests gateways write traces of: Triton's trace settings, for all models and for single ones. Pure.

A gateway samples by the rate, and then claims: so that however many gateways there are, no more requests are traced than
`trace_count` says, each has an id of its own, and each file of `log_frequency` has as many as it should.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import UNSET, structs

from ..ipc.trace_settings import TraceChange, TraceSettings

ALL = ""
"""The scope of settings for all models; the others are models' names."""


class Claim(NamedTuple):
    """One trace that may be written: its id, and the number of its file (-1: the file itself)."""

    id: int
    part: int


class Sampling:
    """A setting of a model, once made, is its own until it is cleared; those that it has not made are those of all models."""

    def __init__(self, start: TraceSettings) -> None:
        self._start = start
        #: scope -> setting -> value; only what was set, and not cleared since
        self._made: dict[str, dict[str, Any]] = {ALL: {}}
        #: scope -> traces claimed since its count was set
        self._claimed: dict[str, int] = {}
        #: scope -> the file that its traces go to, and how many it has; where log_frequency says so
        self._parts: dict[str, tuple[int, int]] = {}
        self._last_id = 0
        self._next_part = 0

    def __repr__(self) -> str:
        return f"<Sampling {self.settings(ALL)!r}, of their own {sorted(self.models)}, {self._last_id} traced>"

    def check_invariants(self) -> None:
        """Nobody claimed more than there was, and models are listed for a reason."""
        for scope in self._made:
            assert scope == ALL or self._made[scope], self
            assert self.settings(scope).trace_count >= -1, self

    @property
    def models(self) -> list[str]:
        """Those that have settings of their own."""
        return [scope for scope in self._made if scope != ALL]

    def settings(self, model: str) -> TraceSettings:
        """What holds for a model, or (no name) for all that have none of their own. `trace_count` is what is left of it."""
        made = {**self._made[ALL], **self._made.get(model, {})}
        found = structs.replace(self._start, **made)
        if found.trace_count > 0:
            left = found.trace_count - self._claimed.get(self._owner(model, "trace_count"), 0)
            found = structs.replace(found, trace_count=left)
        return found

    def change(self, model: str, change: TraceChange) -> None:
        """Makes and clears settings of a model, or (no name) those of all. Raises CallerError, and has changed nothing."""
        values = {name: value for name, value in structs.asdict(change).items() if value is not UNSET}
        made = {**self._made.get(model, {}), **values}
        made = {name: value for name, value in made.items() if value is not None}
        structs.replace(self._start, **{**self._made[ALL], **made}).check()
        self._made[model] = made
        if not made and model != ALL:
            del self._made[model]
        if "trace_count" in values:
            self._claimed.pop(model, None)
        if "log_frequency" in values:
            self._parts.pop(model, None)  # what comes next goes into another file

    def claim(self, model: str) -> Claim | None:
        """One more request is traced. None: it is not, since settings have changed or the count has run out."""
        settings = self.settings(model)
        if not settings.samples:
            return None
        counted = self._owner(model, "trace_count")
        self._claimed[counted] = self._claimed.get(counted, 0) + 1
        self._last_id += 1
        return Claim(self._last_id, self._part(model, settings.log_frequency) if settings.log_frequency else -1)

    def _part(self, model: str, frequency: int) -> int:
        scope = self._owner(model, "log_frequency")
        number, traces = self._parts.get(scope, (-1, frequency))
        if traces >= frequency:
            number, traces = self._next_part, 0
            self._next_part += 1
        self._parts[scope] = (number, traces + 1)
        return number

    def _owner(self, model: str, setting: str) -> str:
        """The scope whose setting holds for a model."""
        return model if setting in self._made.get(model, {}) else ALL
