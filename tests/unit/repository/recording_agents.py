# SPDX-License-Identifier: Apache-2.0
"""Agents that write down what they are called with, installed for one test under names of its choice."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from penstock.runtime.repository import agents
from penstock.runtime.repository.agents import Agent, AgentModel, AgentSettings

#: "agent action" of every call since `install`
CALLS: list[str] = []


class Recorder(Agent):
    """Says what it is called; its parameters say where it fails, and what it hands over.

    `fail`: the action that raises. `write`: a file's content, handed over in a directory of its own.
    """

    def load(self, model: AgentModel) -> None:
        self._act("load", model)
        if "write" in model.parameters:
            directory = model.acquire_directory()
            (directory / "config.pbtxt").write_text(model.parameters["write"])
            (directory / "1").mkdir()
            model.replace_location(directory)

    def load_complete(self, model: AgentModel) -> None:
        self._act("load_complete", model)

    def load_fail(self, model: AgentModel) -> None:
        self._act("load_fail", model)

    def unload(self, model: AgentModel) -> None:
        self._act("unload", model)

    def unload_complete(self, model: AgentModel) -> None:
        self._act("unload_complete", model)

    def _act(self, action: str, model: AgentModel) -> None:
        CALLS.append(f"{model.parameters['as']} {action}")
        if model.parameters.get("fail") == action:
            raise ValueError(f"{model.parameters['as']} does not like {model.location.name}")


class NotAnAgent:
    """Is published as one by mistake."""


class Unmakeable(Agent):
    """Needs what is not there."""

    def __init__(self) -> None:
        raise ImportError("No module named 'nowhere'")


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes `recorder`, `stranger` and `unmakeable` the installed agents; returns the list of calls to come."""
    here = "recording_agents"
    kinds = {"recorder": "Recorder", "stranger": "NotAnAgent", "unmakeable": "Unmakeable"}
    found = [EntryPoint(name, f"{here}:{kind}", agents.GROUP) for name, kind in kinds.items()]

    def entry_points(**asked: Any) -> list[EntryPoint]:
        assert asked == {"group": "penstock.repository_agents"}
        return found

    monkeypatch.setattr(agents, "entry_points", entry_points)
    CALLS.clear()
    return CALLS


def recorder(name: str, **parameters: str) -> AgentSettings:
    """The settings of a Recorder that calls itself so."""
    return AgentSettings("recorder", {"as": name, **parameters})
