# SPDX-License-Identifier: Apache-2.0
"""What becomes of a model whose instances die, or cannot be started or loaded: another try, or none; in the end UNAVAILABLE."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..ipc.errors import ModelError, PenstockError
from .departures import Feed
from .instances import Instance
from .launches import Launches
from .models import ModelState, ServedModel
from .scheduling.events import GpuDown, ModelDown
from .scheduling.requests import NO_GPU

if TYPE_CHECKING:
    from .repository.configuration import WorkerPlan

log = logging.getLogger("penstock.fleet")


class Watcher(Protocol):
    """Who wants to know what becomes of models."""

    def model_ready(self, model: ServedModel) -> None:
        """Its first instance is up: it takes requests."""

    def model_settled(self, model: ServedModel) -> None:
        """Every instance that was awaited is up, or has been given up."""

    def model_gone(self, model: ServedModel) -> None:
        """It was retired, and nothing is left of it."""


class Losses:
    """Its state is that of the models (`lost`, `awaited`) and of the launches. `watcher` is set before anything happens."""

    def __init__(self, launches: Launches, feed: Feed, clock: Callable[[], int]) -> None:
        self._launches = launches
        self._feed = feed
        self._clock = clock
        self.watcher: Watcher

    def __repr__(self) -> str:
        return f"<Losses, {self._launches!r}>"

    def died(self, instance: Instance, reason: str) -> None:
        """A worker that was wanted is gone."""
        if instance.load_error is not None:
            self._give_up(instance.name, instance.model, instance.load_error)
        elif instance.supervised and instance.blameless:
            self._launches.again(instance.plan, instance.model, self._clock())
        elif instance.supervised:
            self.crashed(instance.plan, instance.model, ModelError(reason))
        else:
            self._perhaps_down(instance.model, reason)
            self.gpus_lost(instance.model)

    def released(self, model: ServedModel) -> None:
        """A worker that was not wanted any more is gone. With those that are wanted given up, it may have been the last."""
        if model.accepts:
            reasons = dict.fromkeys(error.message for error in model.lost.values())
            self._perhaps_down(model, "; ".join(reasons) or "no instance is left")
            self.gpus_lost(model)

    def crashed(self, plan: WorkerPlan, model: ServedModel, error: PenstockError) -> None:
        """An instance died, or its process could not be started: it is tried again, but not for ever."""
        given_up = self._launches.crashed(plan, model, self._clock())
        if given_up:
            self._give_up(plan.name, model, ModelError(f"{given_up}, last: {error.message}", error.code))

    def refused(self, names: list[str], model: ServedModel, error: PenstockError) -> None:
        """Instances that are not even tried."""
        model.lost.update(dict.fromkeys(names, error))
        self._perhaps_down(model, error.message)

    def no_longer_awaited(self, name: str, model: ServedModel) -> None:
        """The instance is up, or given up. One that waited for the first one's configuration goes with the model."""
        if not model.awaited:
            return
        model.awaited -= model.awaited if model.state is ModelState.UNAVAILABLE else {name}
        if not model.awaited:
            self.watcher.model_settled(model)

    def gone(self, model: ServedModel) -> None:
        """Nothing is left of a retired model."""
        self.watcher.model_gone(model)

    def gpus_lost(self, model: ServedModel) -> None:
        """Tells the scheduler on which GPUs the model, which is served on several devices, has no instance and gets none."""
        if not model.is_added or len(model.config.devices) < 2:  # then the model is lost, or nothing is
            return
        for gpu in model.config.devices - {instance.plan.gpu for instance in model.instances} - {NO_GPU}:
            names = {worker.name for worker in model.config.workers() if worker.gpu == gpu}
            if not self._launches.expects(model, names):
                reasons = dict.fromkeys(error.message for name, error in model.lost.items() if name in names)
                text = "; ".join(reasons) or "no instance is left"
                self._feed(GpuDown(model.number, gpu, f"it has no instance on GPU {gpu} ({model.config.uuids[gpu]}): {text}"))

    def _give_up(self, name: str, model: ServedModel, error: PenstockError) -> None:
        model.lost[name] = error
        self._perhaps_down(model, error.message)
        self.gpus_lost(model)
        self.no_longer_awaited(name, model)

    def _perhaps_down(self, model: ServedModel, reason: str) -> None:
        """The model is UNAVAILABLE when it has no instance, and none is to come."""
        if model.instances or self._launches.expects(model):
            return
        model.become(ModelState.UNAVAILABLE, reason)
        log.error("model %s is UNAVAILABLE: %s", model.label, reason)
        if model.is_added:
            self._feed(ModelDown(model.number, reason))
