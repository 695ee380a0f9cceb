# SPDX-License-Identifier: Apache-2.0
"""Generations of model versions, from their start until nothing is left of them, and what their origins are told."""

from __future__ import annotations

from collections.abc import Callable

from .fleet import Fleet
from .models import ModelState, ModelTable, ServedModel
from .repository.origins import Moment, Opened, Origin

Tell = Callable[[Origin, Moment], None]
"""Has an origin told of a moment, in the helper thread."""


class Generations:
    """Brings generations into the table and out of it. An origin hears UNLOAD when the last generation of it is retired."""

    def __init__(self, models: ModelTable, fleet: Fleet, tell: Tell) -> None:
        self._models = models
        self._fleet = fleet
        self._tell = tell

    def __repr__(self) -> str:
        return f"<Generations of {self._models!r}>"

    def check_invariants(self) -> None:
        """An origin is in use from its LOAD to its UNLOAD_COMPLETE."""
        for model in self._models:
            assert model.origin is None or model.origin.moment is not Moment.UNLOAD_COMPLETE, model

    def make(self, opened: Opened, version: int) -> ServedModel:
        """A new generation; its workers are not started."""
        source = opened.source
        return self._models.add(source.config, version, str(source.location / str(version)), opened.origin)

    def ended(self, origin: Origin, is_loaded: bool) -> None:
        """The load of an origin ended."""
        self._become(origin, Moment.LOAD_COMPLETE if is_loaded else Moment.LOAD_FAIL)

    def retire(self, model: ServedModel) -> None:
        """The generation takes no more requests, and goes when those that it has are finished."""
        origin = model.origin
        serving = [other for other in self._made_of(origin) if other.state is not ModelState.UNLOADING]
        if origin is not None and origin.moment is Moment.LOAD_COMPLETE and serving == [model]:
            self._become(origin, Moment.UNLOAD)
        self._fleet.departures.retire(model)

    def clear(self, name: str) -> None:
        """Nothing of this model is current any more; what there is, is retired."""
        for model in self._models.current(name):
            self._models.take_back(model)
            self.retire(model)

    def gone(self, model: ServedModel) -> None:
        """Nothing is left of a retired generation."""
        self._models.forget(model)
        origin = model.origin
        if origin is not None and origin.moment is Moment.UNLOAD and not self._made_of(origin):
            self._become(origin, Moment.UNLOAD_COMPLETE)

    def close(self) -> None:
        """The broker is leaving, and its workers have left: no origin is in use any more."""
        for origin in {model.origin for model in self._models if model.origin is not None}:
            if origin.moment is Moment.LOAD_COMPLETE:
                self._become(origin, Moment.UNLOAD)
            if origin.moment is Moment.UNLOAD:
                self._become(origin, Moment.UNLOAD_COMPLETE)

    def _made_of(self, origin: Origin | None) -> list[ServedModel]:
        return [model for model in self._models if model.origin is origin]

    def _become(self, origin: Origin, moment: Moment) -> None:
        origin.become(moment)
        self._tell(origin, moment)
