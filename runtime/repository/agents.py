# SPDX-License-Identifier: Apache-2.0
"""The seam for repository agents: what one is, what it is told of its model, and how it is found by its name.

A model's configuration names its agents (`model_repository_agents`). Each is a subclass of Agent, published by an installed
package as an entry point of the group `penstock.repository_agents`; the shipped ones are published in the same way, by
Penstock's own pyproject.toml. When which action comes is the business of agent_runs.py.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from msgspec import Struct

from ...ipc.errors import BrokerError, CallerError, Code, ModelError, not_found
from .private_directories import PrivateDirectory

GROUP = "penstock.repository_agents"


class AgentSettings(Struct, frozen=True):
    """What a configuration says of one agent."""

    name: str
    parameters: dict[str, str]


class AgentModel:
    """One agent's view of the model that is being loaded. Triton's TRITONREPOAGENT_AgentModel.

    `location` is the model's directory as the agents before this one have left it. An agent that changes files writes into
    a directory of its own (`acquire_directory`) and hands that over (`replace_location`); the agents behind it and the
    reader of the model then see that one.
    """

    def __init__(self, name: str, location: Path, parameters: dict[str, str]) -> None:
        self.name = name
        self.location = location
        self.parameters = parameters
        self.is_loading = True  # within Agent.load
        self._directory: PrivateDirectory | None = None

    def __repr__(self) -> str:
        return f"<AgentModel {self.name!r} at {self.location}, {self._directory!r}>"

    def check_invariants(self) -> None:
        """Directories are acquired once, and are there until they are released."""
        assert self._directory is None or self._directory.path.is_dir(), self

    def acquire_directory(self, byte_size: int = 0) -> Path:
        """A private directory for at least `byte_size` bytes, in memory where there is room; the same one on every call.

        Nobody but this user can enter it. It is removed behind the agent's last action. Raises MachineError.
        """
        if self._directory is None:
            self._directory = PrivateDirectory.create(byte_size)
        return self._directory.path

    def replace_location(self, path: Path) -> None:
        """From now on the model is in another directory. Raises BrokerError outside of Agent.load, as Triton does."""
        if not self.is_loading:
            raise BrokerError(f"model '{self.name}': its location can only be updated while it is being loaded", Code.INTERNAL)
        if not path.is_dir():
            raise not_found(f"model '{self.name}': its location cannot become {path}: that is not a directory")
        self.location = path

    def release(self) -> None:
        """Removes the acquired directory. Idempotent."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None


class Agent:
    """Acts when a model is loaded or unloaded. One object per load of a model; each action is called at most once.

    The actions are called in a helper thread of the broker and may block. What `load` raises is why the model cannot be
    loaded; what the others raise is logged, as nothing depends on it. An agent overrides the actions it cares for.
    """

    def load(self, model: AgentModel) -> None:
        """The model is about to be read from `model.location`."""

    def load_complete(self, model: AgentModel) -> None:
        """The model is READY."""

    def load_fail(self, model: AgentModel) -> None:
        """The model could not be loaded, be it for this agent's own sake. The last action."""

    def unload(self, model: AgentModel) -> None:
        """The model takes no more requests; its workers may still be there."""

    def unload_complete(self, model: AgentModel) -> None:
        """Nothing of the model is left in any process. The last action."""


def make_agent(name: str) -> Agent:
    """The installed agent of this name. Raises CallerError (NOT_FOUND) that names those there are, or ModelError."""
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise not_found(f"not installed: the entry points of the group {GROUP} are {', '.join(sorted(installed)) or 'none'}")
    return _loaded(installed[name])


def _loaded(entry: EntryPoint) -> Agent:
    try:
        kind = entry.load()
        agent = kind()
    except Exception as error:
        raise ModelError(f"{entry.value} cannot be made: {error!r}") from error
    if not isinstance(agent, Agent):
        raise CallerError(f"{entry.value} makes a {type(agent).__name__}, not an Agent")
    return agent
