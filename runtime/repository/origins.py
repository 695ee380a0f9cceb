# SPDX-License-Identifier: Apache-2.0
"""Where the files of one load come from, and the moments of its life that somebody may have to hear of.

    LOAD --> LOAD_COMPLETE --> UNLOAD --> UNLOAD_COMPLETE
      '----> LOAD_FAIL

They are those of Triton's repository agents (agent_runs.py), which hear of them. LOAD is what reading the model is a part of;
the others are told by the broker.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from ...ipc.errors import MachineError
from .agent_runs import AgentRun
from .directory import ModelSource
from .private_directories import PrivateDirectory
from .stamps import Stamps


class Moment(Enum):
    """The model is being loaded; a load ended, well or badly; unloading begins; nothing of the model is left."""

    LOAD = "LOAD"
    LOAD_COMPLETE = "LOAD_COMPLETE"
    LOAD_FAIL = "LOAD_FAIL"
    UNLOAD = "UNLOAD"
    UNLOAD_COMPLETE = "UNLOAD_COMPLETE"


#: moment -> moments that may follow
TRANSITIONS: dict[Moment, frozenset[Moment]] = {
    Moment.LOAD: frozenset({Moment.LOAD_COMPLETE, Moment.LOAD_FAIL}),
    Moment.LOAD_COMPLETE: frozenset({Moment.UNLOAD}),
    Moment.LOAD_FAIL: frozenset(),
    Moment.UNLOAD: frozenset({Moment.UNLOAD_COMPLETE}),
    Moment.UNLOAD_COMPLETE: frozenset(),
}


class Origin:
    """The files of one load: in a repository, or (`private`) brought by the client, and removed with the model.

    `become` says in the broker what moment it is; `tell` carries it out, in the helper thread, in the same order.
    """

    def __init__(self, name: str, private: PrivateDirectory | None = None) -> None:
        self.name = name
        self.moment = Moment.LOAD
        self.agents: AgentRun | None = None  # the model's, once their LOAD succeeded
        self._private = private

    def __repr__(self) -> str:
        return f"<Origin of {self.name}: {self.moment.value}{', private' if self._private else ''}>"

    def become(self, moment: Moment) -> None:
        """Moves along TRANSITIONS."""
        if moment not in TRANSITIONS[self.moment]:
            raise AssertionError(f"{self!r} cannot become {moment.value}")
        self.moment = moment

    def tell(self, moment: Moment) -> None:
        """Does what the moment asks for. Blocks. Raises MachineError when private files cannot be removed."""
        if self.agents is not None:
            _tell_agents(self.agents, moment)
        if self._private is not None and not TRANSITIONS[moment]:
            try:
                self._private.close()
            except OSError as error:
                raise MachineError(f"the files that came with {self.name} cannot be removed: {error}") from error


def _tell_agents(agents: AgentRun, moment: Moment) -> None:
    calls = {
        Moment.LOAD_COMPLETE: agents.complete,
        Moment.LOAD_FAIL: agents.fail,
        Moment.UNLOAD: agents.unload,
        Moment.UNLOAD_COMPLETE: agents.unload_complete,
    }
    calls[moment]()


class Opened(Struct, frozen=True):
    """A model as a load found it. `stamps` None: its files came with the load, so that no other load finds the same."""

    source: ModelSource
    origin: Origin
    stamps: Stamps | None
    override: str  # the configuration that came with the load; "" for the repository's own
