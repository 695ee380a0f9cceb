# SPDX-License-Identifier: Apache-2.0
"""The repository agents of the models that are served: told in a helper thread what becomes of their model.

Their LOAD came when the model was read (repository/directory.py). The loop never waits for an agent but at its own end, when
nothing uses the models any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from .models import ModelState, ServedModel
from .repository.agent_runs import AgentRun

log = logging.getLogger("penstock.repository")


class _Load(NamedTuple):
    run: AgentRun
    models: tuple[ServedModel, ...]  # its versions


class RunningAgents:
    """One run of agents per load of a model that has any. The helper thread begins with the first thing to be told."""

    def __init__(self) -> None:
        #: generation of a model version -> the load it came with, until all versions of that are READY or given up
        self._loading: dict[int, _Load] = {}
        #: runs whose agents were told LOAD_COMPLETE
        self._complete: list[AgentRun] = []
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        loading = sorted({load.run.model for load in self._loading.values()})
        return f"<RunningAgents loading {loading}, complete {sorted(run.model for run in self._complete)}>"

    def check_invariants(self) -> None:
        """Every version of a load leads to it, and no load is listed twice."""
        assert all(self._loading[model.number] is load for load in self._loading.values() for model in load.models), self
        assert not [load for load in self._loading.values() if load.run in self._complete], self

    def take(self, run: AgentRun, models: Sequence[ServedModel]) -> None:
        """Takes charge of agents whose LOAD succeeded, and which belong to these versions."""
        load = _Load(run, tuple(models))
        for model in models:
            self._loading[model.number] = load

    def settled(self, model: ServedModel) -> None:
        """A version became READY or was given up: once all are that came with it, the agents learn whether any is READY."""
        load = self._loading.get(model.number)
        if load is None or any(other.state is ModelState.LOADING for other in load.models):
            return
        for other in load.models:
            del self._loading[other.number]
        if any(other.accepts for other in load.models):
            self._complete.append(load.run)
            self._call(load.run.complete)
        else:
            self._call(load.run.fail)

    def unload(self) -> None:
        """The models take no more requests."""
        for run in self._complete:
            self._call(run.unload)

    def close(self) -> None:
        """No process uses the models any more: brings every run to its end, and waits for that. Idempotent."""
        loading = {id(load.run): load.run for load in self._loading.values()}
        for run in [*self._complete, *loading.values()]:
            self._call(run.end)
        self._complete.clear()
        self._loading.clear()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _call(self, action: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "repository-agents")
        self._thread.submit(action).add_done_callback(_report)


def _report(call: Future[object]) -> None:
    """Agents' own errors are dealt with where they are called; this is a mistake of ours."""
    error = call.exception()
    if error is not None:
        log.error("repository agents: %r", error, exc_info=error)
