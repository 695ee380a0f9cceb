# SPDX-License-Identifier: Apache-2.0
"""Loads and unloads: in order for one model, side by side for different ones.

    load     QUEUED --> READING --> STARTING --> DONE, FAILED     reading: the helper thread does; starting: the workers
    unload   QUEUED --> LEAVING --> DONE                          leaving: requests are finished, workers go

An unload does not wait for loads that were asked for before it: they end at once, as failed, and their workers with them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from ..ipc.errors import BrokerError, CallerError, Code, ModelError, PenstockError
from .fleet import Fleet
from .generations import Generations
from .host import Host
from .loading import Load, LoadState, Tell
from .models import ModelState, ModelTable, ServedModel
from .repository import jobs
from .repository.configuration import InvalidOverrideError
from .repository.directory import UnknownModelError
from .repository.orders import Order
from .repository.origins import Moment, Opened, Origin
from .rollouts import Rollout
from .settings import Settings

log = logging.getLogger("penstock.broker")


class Loads:
    """Every load of this broker. `switched` is called when requests may have to go elsewhere than before."""

    def __init__(self, settings: Settings, host: Host, models: ModelTable, fleet: Fleet, switched: Callable[[], None]) -> None:
        self._settings = settings
        self._host = host
        self._models = models
        self._fleet = fleet
        self._switched = switched
        self._generations = Generations(models, fleet, self._tell_origin)
        #: model -> what was asked of it and is not over, in order; the first is under way
        self._lines: dict[str, deque[Load]] = {}
        self._opened: dict[str, Opened] = {}  # model -> what is loaded of it, as it was found

    def __repr__(self) -> str:
        return f"<Loads {[load for line in self._lines.values() for load in line]}>"

    def check_invariants(self) -> None:
        """Only the first of a line is under way, and it is not over."""
        self._generations.check_invariants()
        for name, line in self._lines.items():
            assert line, name
            for position, load in enumerate(line):
                load.check_invariants()
                assert load.name == name and not load.is_over and (load.state is LoadState.QUEUED) == (position > 0), load

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being loaded or unloaded."""
        return not self._lines

    def describe(self) -> list[dict[str, str]]:
        """What `penstock status` shows: what is under way, or waits for its turn."""
        return [load.describe() for line in self._lines.values() for load in line]

    # --- asking ----------------------------------------------------------------------------------------------------------

    def load(self, order: Order, tell: Tell) -> None:
        """Loads a model as it is now, or as the order says. `tell` hears when all of it is up, or why it is not."""
        self._enter(Load(order.name, order, tell))

    def unload(self, name: str, tell: Tell) -> None:
        """Unloads a model; unknown ones are unloaded already. `tell` hears when its workers have left."""
        for load in list(self._lines.get(name, ())):
            if load.order is not None:
                self._abort(load, ModelError(f"failed to load '{name}', it was unloaded meanwhile", Code.UNAVAILABLE))
        self._enter(Load(name, None, tell))

    def abandon(self, why: str) -> None:
        """Everything that is under way has failed: the broker is stopping."""
        for line in list(self._lines.values()):
            for load in list(line):
                self._abort(load, BrokerError(why))

    def close(self) -> None:
        """The broker is leaving, and its workers have left."""
        self._generations.close()

    def _enter(self, load: Load) -> None:
        line = self._lines.setdefault(load.name, deque())
        line.append(load)
        if line[0] is load:
            self._begin(load)

    def _begin(self, load: Load) -> None:
        if load.order is None:
            self._begin_unload(load)
        else:
            load.become(LoadState.READING)
            self._open(load, load.order)

    def _open(self, load: Load, order: Order) -> None:
        job = jobs.OpenModel(self._settings.repositories, order, self._served(load.name), self._fleet.placing)
        self._host.run_aside(job, partial(self._read, load))

    def _end(self, load: Load, error: PenstockError | None) -> None:
        """The load is over; the next of its model begins."""
        line = self._lines[load.name]
        line.remove(load)
        load.end(error)
        if not line:
            del self._lines[load.name]
        elif line[0].state is LoadState.QUEUED:
            self._begin(line[0])

    def _abort(self, load: Load, error: PenstockError) -> None:
        """Ends a load, or one that is still to come, before its time."""
        if load.rollout is not None:
            load.rollout.withdraw()
            self._generations.ended(load.rollout.opened.origin, is_loaded=False)
        elif load.state is LoadState.QUEUED and load.order is not None:
            load.order.close()
        line = self._lines[load.name]
        line.remove(load)
        if not line:
            del self._lines[load.name]
        load.end(error)

    # --- loading ---------------------------------------------------------------------------------------------------------

    def _served(self, name: str) -> Opened | None:
        """What is loaded of a model, if all of that is being served: then what has not changed need not be loaded again."""
        current = [model for model in self._models.current(name) if model.state is not ModelState.UNLOADING]
        return self._opened.get(name) if current and all(model.accepts for model in current) else None

    def _read(self, load: Load, found: Opened | PenstockError | None) -> None:
        """The helper thread has read the model, or found it unchanged (None)."""
        if load.is_over:
            if isinstance(found, Opened):
                self._generations.ended(found.origin, is_loaded=False)
        elif isinstance(found, PenstockError):
            self._unreadable(load, found)
        elif found is not None:
            self._roll_out(load, found)
        elif self._served(load.name) is not None:
            log.info("model %s has not changed", load.name)
            self._end(load, None)
        elif load.order is not None:  # always; it has been given up meanwhile
            self._open(load, load.order)

    def _unreadable(self, load: Load, error: PenstockError) -> None:
        log.error("model %s: %s", load.name, error.message)
        if not any(model.accepts for model in self._models.current(load.name)):
            self._generations.clear(load.name)
            self._opened.pop(load.name, None)
            self._models.unloaded.pop(load.name, None)
            is_wanted = load.name in self._settings.load_models or not isinstance(error, UnknownModelError)
            if is_wanted:  # else only the name is wrong, and there is nothing to list
                self._models.failures[load.name] = error.message
        if not isinstance(error, InvalidOverrideError):
            text = f"failed to load '{load.name}', failed to poll from model repository: {error.message}"
            error = CallerError(text, Code.INTERNAL)
        self._end(load, error)

    def _roll_out(self, load: Load, opened: Opened) -> None:
        for warning in opened.source.config.warnings:
            log.warning("model %s: %s", load.name, warning)
        rollout = load.rollout = Rollout(self._models, self._fleet, self._generations, self._served(load.name), opened)
        load.become(LoadState.STARTING)
        rollout.begin(self._settings.spawn_workers)
        self._perhaps_up(load, rollout)

    def _perhaps_up(self, load: Load, rollout: Rollout) -> None:
        """Ends a load of which nothing is awaited any more."""
        if not rollout.is_settled:
            return
        problems = rollout.problems()
        is_taken = not problems or (not rollout.is_beside and rollout.is_served)
        self._generations.ended(rollout.opened.origin, is_loaded=is_taken and bool(rollout.fresh))
        if problems and rollout.is_beside:
            rollout.withdraw()
        else:
            rollout.commit()
            self._opened[load.name] = rollout.opened
            self._switched()
        self._end(load, _load_failed(load.name, problems) if problems else None)

    # --- unloading -------------------------------------------------------------------------------------------------------

    def _begin_unload(self, load: Load) -> None:
        load.become(LoadState.LEAVING)
        self._opened.pop(load.name, None)
        self._models.failures.pop(load.name, None)
        current = self._models.current(load.name)
        load.versions = tuple(model.version for model in current)
        for model in current:
            self._generations.retire(model)
        self._perhaps_left(load)

    def _perhaps_left(self, load: Load) -> None:
        """Ends an unload of whose model nothing is left."""
        if load.is_over or self._models.generations(load.name):
            return
        if load.versions:
            self._models.unloaded[load.name] = load.versions
            log.info("model %s is unloaded", load.name)
        self._end(load, None)

    # --- what the fleet reports (see fleet.Watcher) ----------------------------------------------------------------------

    def model_ready(self, _model: ServedModel) -> None:
        """Requests that ask for no version may have to go to this one."""
        self._switched()

    def model_settled(self, model: ServedModel) -> None:
        """A load may be complete."""
        line = self._lines.get(model.name)
        if line and line[0].rollout is not None:
            self._perhaps_up(line[0], line[0].rollout)

    def model_gone(self, model: ServedModel) -> None:
        """An unload may be complete."""
        self._generations.gone(model)
        line = self._lines.get(model.name)
        if line and line[0].state is LoadState.LEAVING:
            self._perhaps_left(line[0])

    def _tell_origin(self, origin: Origin, moment: Moment) -> None:
        self._host.run_aside(jobs.Tell(origin, moment), partial(_log_failure, origin, moment))


def _log_failure(origin: Origin, moment: Moment, result: object) -> None:
    if isinstance(result, PenstockError):
        log.error("model %s, %s: %s", origin.name, moment.value, result.message)


STATUS = {
    Code.INVALID_ARG: "Invalid argument",
    Code.NOT_FOUND: "Not found",
    Code.ALREADY_EXISTS: "Already exists",
    Code.UNSUPPORTED: "Unsupported",
    Code.INTERNAL: "Internal",
    Code.CANCELLED: "Cancelled",
}
"""How Triton spells its codes in sentences; the others are Unavailable there."""


def _load_failed(name: str, problems: list[tuple[ServedModel, PenstockError]]) -> ModelError:
    """Triton's sentence, with a clause for each version."""
    reasons = {model.version: error for model, error in problems}
    clauses = [
        f"version {version} is at UNAVAILABLE state: {STATUS.get(error.code, 'Unavailable')}: {error.message};"
        for version, error in sorted(reasons.items())
    ]
    return ModelError(f"load failed for model '{name}': {chr(10).join(clauses)}", Code.INVALID_ARG)
