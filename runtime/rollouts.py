# SPDX-License-Identifier: Apache-2.0
"""One change of one model, being carried out: the new beside the old, and then one or the other, whole.

Where a version is being served, it is served until all that is to take its place is up; if something of that does not come up,
nothing has changed. Where nothing is served, each version is served as soon as it can be, whatever becomes of the others.
"""

from __future__ import annotations

from ..ipc.errors import ModelError, PenstockError
from .fleet import Fleet
from .generations import Generations
from .models import ModelState, ModelTable, ServedModel
from .repository.changes import change
from .repository.configuration import ModelConfig, with_instances_of
from .repository.origins import Opened


class Rollout:
    """Begun once, then committed or withdrawn, once `is_settled`; or withdrawn before."""

    def __init__(
        self, models: ModelTable, fleet: Fleet, generations: Generations, before: Opened | None, after: Opened
    ) -> None:
        self.opened = after
        self._name = after.source.name
        self._models = models
        self._fleet = fleet
        self._generations = generations
        self._change = change(before, after)
        #: whether the model is served without any of this
        self.is_beside = any(model.accepts for model in models.current(self._name))
        #: generations that this made, from the one origin
        self.fresh: list[ServedModel] = []
        #: generations that go on with other instances -> the configuration that they had
        self._resized: dict[ServedModel, ModelConfig] = {}

    def __repr__(self) -> str:
        return f"<Rollout of {self._name}: {self._change}, {'beside' if self.is_beside else 'instead of'} what there is>"

    def check_invariants(self) -> None:
        """What it made comes from its origin; what goes on with other instances was there before."""
        assert all(model.origin is self.opened.origin for model in self.fresh), self
        assert not self._resized.keys() & set(self.fresh), self

    @property
    def is_settled(self) -> bool:
        """Whether every instance that was started is up, or has been given up."""
        return not any(model.awaited for model in (*self.fresh, *self._resized))

    @property
    def is_served(self) -> bool:
        """Whether some version of this takes requests."""
        return any(model.accepts for model in self.fresh)

    def begin(self, starts_workers: bool) -> None:
        """Makes the new generations and (unless they are started by hand) starts their workers."""
        self.fresh = [self._generations.make(self.opened, version) for version in self._change.fresh]
        if not self.is_beside:
            self._generations.clear(self._name)
            for model in self.fresh:
                self._models.put_forward(model)
        if not starts_workers:
            return
        for model in self.fresh:
            self._fleet.serve(model)
        if self._change.is_resized:
            self._resized = {model: model.config for model in self._kept()}
            for model, config in self._resized.items():
                self._fleet.resize(model, with_instances_of(config, self.opened.source.config))

    def problems(self) -> list[tuple[ServedModel, PenstockError]]:
        """What did not come up, and why. Beside what is served, half a model will not do."""
        found: list[tuple[ServedModel, PenstockError]] = [
            (model, next(iter(model.lost.values()), ModelError(model.reason)))
            for model in self.fresh
            if model.state is ModelState.UNAVAILABLE or (self.is_beside and model.lost)
        ]
        for model, config in self._resized.items():
            found += [(model, error) for name, error in model.lost.items() if name not in config.worker_names()]
        return found

    def commit(self) -> None:
        """From now on requests go to the new generations; what they replace finishes what it has."""
        if self.is_beside:
            for model in self.fresh:
                replaced = self._models.put_forward(model)
                if replaced is not None:
                    self._generations.retire(replaced)
        for model in self._models.current(self._name):
            if model.version not in self.opened.source.versions:
                self._generations.retire(model)
        for model, config in self._resized.items():
            self._fleet.departures.release(model, set(config.worker_names()) - set(model.config.worker_names()))

    def withdraw(self) -> None:
        """Undoes all of it."""
        for model in self.fresh:
            self._generations.retire(model)
        for model, config in self._resized.items():
            added = set(model.config.worker_names()) - set(config.worker_names())
            model.configure(config)
            self._fleet.departures.release(model, added)

    def _kept(self) -> list[ServedModel]:
        return [model for model in self._models.current(self._name) if model.version in self._change.kept]
