# SPDX-License-Identifier: Apache-2.0
"""What the agents of served models are told, and when: by versions, not by instances."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from scripted import CONFIG

from penstock.runtime.models import ModelState, ModelTable, ServedModel
from penstock.runtime.repository.agent_runs import AgentRun
from penstock.runtime.repository.configuration import parse_config
from penstock.runtime.running_agents import RunningAgents


class FakeRun:
    """Writes down which actions are wanted; `end` as it would be from there."""

    def __init__(self, model: str = "echo") -> None:
        self.model = model
        self.told: list[str] = []

    def __getattr__(self, action: str) -> Any:
        return lambda: self.told.append(action)


@pytest.fixture
def agents() -> Iterator[RunningAgents]:
    made = RunningAgents()
    yield made
    made.close()
    made.close()
    made.check_invariants()


@pytest.fixture
def models() -> list[ServedModel]:
    """Two versions of one model, LOADING."""
    table = ModelTable()
    config = parse_config(CONFIG, Path("config.pbtxt"), "echo")
    return [table.add(config, version, "") for version in (1, 2)]


def take(agents: RunningAgents, models: list[ServedModel]) -> FakeRun:
    run = FakeRun()
    agents.take(cast("AgentRun", run), models)
    agents.check_invariants()
    return run


def settle(agents: RunningAgents, model: ServedModel, state: ModelState) -> None:
    model.become(state, "" if state is ModelState.READY else "gave up")
    agents.settled(model)
    agents.check_invariants()


def test_a_load_is_complete_when_its_last_version_is_settled(agents: RunningAgents, models: list[ServedModel]) -> None:
    run = take(agents, models)
    settle(agents, models[0], ModelState.READY)
    assert "loading ['echo']" in repr(agents)
    settle(agents, models[1], ModelState.UNAVAILABLE)
    assert "complete ['echo']" in repr(agents)
    agents.close()
    assert run.told == ["complete", "end"]


def test_a_load_without_a_version_that_is_ready_has_failed_and_is_over(
    agents: RunningAgents, models: list[ServedModel]
) -> None:
    run = take(agents, models)
    for model in models:
        settle(agents, model, ModelState.UNAVAILABLE)
    agents.close()
    assert run.told == ["fail"]


def test_a_model_that_is_given_up_later_keeps_what_its_agents_made(agents: RunningAgents, models: list[ServedModel]) -> None:
    run = take(agents, models[:1])
    for state in (ModelState.READY, ModelState.UNAVAILABLE, ModelState.READY):
        settle(agents, models[0], state)
    agents.close()
    assert run.told == ["complete", "end"]


def test_at_the_end_models_are_unloaded_and_those_still_loading_ended(agents: RunningAgents, models: list[ServedModel]) -> None:
    ready, loading = take(agents, models[:1]), take(agents, models[1:])
    settle(agents, models[0], ModelState.READY)
    agents.unload()
    agents.close()
    assert ready.told == ["complete", "unload", "end"]
    assert loading.told == ["end"]


def test_a_model_without_agents_takes_no_thread(agents: RunningAgents, models: list[ServedModel]) -> None:
    settle(agents, models[0], ModelState.READY)
    agents.unload()
    assert agents._thread is None


def test_a_mistake_of_ours_is_logged(
    agents: RunningAgents, models: list[ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    run = take(agents, models[:1])
    run.complete = lambda: 1 / 0  # type: ignore[attr-defined]
    settle(agents, models[0], ModelState.READY)
    agents.close()
    assert caplog.records[0].levelno == logging.ERROR and "ZeroDivisionError" in caplog.text
