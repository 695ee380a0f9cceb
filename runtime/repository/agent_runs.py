# SPDX-License-Identifier: Apache-2.0
"""The agents of one load of one model, from LOAD to the end: who is called when, and in which order.

Triton's rules (TritonRepoAgentModelList in core's model_lifecycle.h, TritonRepoAgentModel in its repo_agent.cc,
CreateAgentModelListWithLoadAction in its model_repository_manager.cc):

    in the order of the configuration    LOAD, UNLOAD
    in the reverse order                 LOAD_COMPLETE, LOAD_FAIL, UNLOAD_COMPLETE

- Each agent is made, and called with LOAD, before the next one is made. The first that fails stops the load: those behind it
  are never made. It gets LOAD_FAIL itself, and then those before it do, in reverse order.
- Agents and parameters are those of the configuration as it lies in the repository; what another directory that an agent
  hands over says of agents has no effect.
- What an agent says of any other action than LOAD is logged and changes nothing. Triton then skips the agents that would have
  come next; here they are called all the same, since they may hold something.
- A second UNLOAD is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from ...ipc.errors import ModelError, PenstockError, from_wire
from .agents import Agent, AgentModel, AgentSettings, make_agent

log = logging.getLogger("penstock.repository")


class Action(Enum):
    """Triton's actions, by the method of Agent that each calls."""

    LOAD = "load"
    LOAD_COMPLETE = "load_complete"
    LOAD_FAIL = "load_fail"
    UNLOAD = "unload"
    UNLOAD_COMPLETE = "unload_complete"


REVERSED = frozenset({Action.LOAD_COMPLETE, Action.LOAD_FAIL, Action.UNLOAD_COMPLETE})
"""Actions of which the last agent is told first."""


class RunState(Enum):
    """NEW: nobody was called. LOADED: LOAD succeeded. FAILED: LOAD_FAIL. The others: the action of that name was the last."""

    NEW = "new"
    LOADED = "loaded"
    COMPLETE = "complete"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"


#: state -> states it may become. FAILED and UNLOADED are the end: every directory that an agent acquired is gone.
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.NEW: frozenset({RunState.LOADED, RunState.FAILED}),
    RunState.LOADED: frozenset({RunState.COMPLETE, RunState.FAILED}),
    RunState.COMPLETE: frozenset({RunState.UNLOADING}),
    RunState.FAILED: frozenset(),
    RunState.UNLOADING: frozenset({RunState.UNLOADED}),
    RunState.UNLOADED: frozenset(),
}


class AgentRun:
    """One load of one model. Every method blocks: call them in a helper thread, one after the other.

    An action whose state is reached already does nothing, so that whoever ends a model need not know who else did.
    """

    def __init__(self, model: str, directory: Path, settings: Sequence[AgentSettings]) -> None:
        self.model = model
        self.state = RunState.NEW
        self.location = directory  # of the model, as the agents have left it
        self._settings = tuple(settings)
        #: agents that were called with LOAD and have not had their last action, in the order of the configuration
        self._called: list[tuple[str, Agent, AgentModel]] = []

    def __repr__(self) -> str:
        return f"<AgentRun {self.model!r} {self.state.value} {[name for name, _, _ in self._called]} at {self.location}>"

    def check_invariants(self) -> None:
        """Whoever was called is told of the end."""
        assert (self.state in (RunState.LOADED, RunState.COMPLETE, RunState.UNLOADING)) or not self._called, self
        assert len(self._called) in (0, len(self._settings)), self
        for _, _, model in self._called:
            model.check_invariants()

    def load(self) -> Path:
        """LOAD. Returns where the model is to be read. Raises PenstockError, after LOAD_FAIL, naming the agent."""
        for settings in self._settings:
            try:
                self._load_one(settings)
            except PenstockError as error:
                self.fail()
                message = f"repository agent '{settings.name}': {error.message}"
                raise from_wire(error.code.value, message, error.fault) from error
            except Exception as error:
                self.fail()
                raise ModelError(f"repository agent '{settings.name}': {type(error).__name__}: {error}") from error
        self._become(RunState.LOADED)
        return self.location

    def complete(self) -> None:
        """LOAD_COMPLETE: the model's versions are READY."""
        if self._become(RunState.COMPLETE):
            self._tell(Action.LOAD_COMPLETE)

    def fail(self) -> None:
        """LOAD_FAIL: the model cannot be served."""
        if self._become(RunState.FAILED):
            self._tell(Action.LOAD_FAIL)
            self._release()

    def unload(self) -> None:
        """UNLOAD: the model takes no more requests. Nothing after UNLOAD_COMPLETE, as a model may be unloaded twice."""
        if self.state is not RunState.UNLOADED and self._become(RunState.UNLOADING):
            self._tell(Action.UNLOAD)

    def unload_complete(self) -> None:
        """UNLOAD_COMPLETE: no process uses the model any more."""
        if self._become(RunState.UNLOADED):
            self._tell(Action.UNLOAD_COMPLETE)
            self._release()

    def end(self) -> None:
        """What is missing on the way to the end, wherever it stands: as when the last of a Triton model is dropped."""
        if self.state in (RunState.NEW, RunState.LOADED):
            self.fail()
        elif self.state is not RunState.FAILED:
            self.unload()
            self.unload_complete()

    def _load_one(self, settings: AgentSettings) -> None:
        agent = make_agent(settings.name)
        model = AgentModel(self.model, self.location, settings.parameters)
        self._called.append((settings.name, agent, model))
        try:
            agent.load(model)
        finally:
            model.is_loading = False
        self.location = model.location

    def _tell(self, action: Action) -> None:
        for name, agent, model in reversed(self._called) if action in REVERSED else self._called:
            try:
                getattr(agent, action.value)(model)
            except Exception:
                log.exception("model %s: repository agent '%s' failed at %s", self.model, name, action.name)

    def _release(self) -> None:
        for name, _, model in reversed(self._called):
            try:
                model.release()
            except OSError:
                log.exception("model %s: the directory of repository agent '%s' cannot be removed", self.model, name)
        self._called.clear()

    def _become(self, state: RunState) -> bool:
        """Moves along TRANSITIONS; False where it is already. An illegal move raises with the run's story."""
        if state is self.state:
            return False
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state
        return True
