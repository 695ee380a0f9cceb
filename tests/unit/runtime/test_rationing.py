# SPDX-License-Identifier: Apache-2.0
"""The rate limiter from the configuration to the scheduler: who takes part, what is refused at load, what status says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted import CONFIG, ScriptedBroker, link_of

from penstock.ipc.messages import Query
from penstock.runtime.fleet import policy_of
from penstock.runtime.models import ModelState, ServedModel
from penstock.runtime.rationing import NO_EFFECT, needs_of
from penstock.runtime.repository.configuration import ModelConfig, parse_config
from penstock.runtime.scheduling.limits import GLOBAL, Needs, Pool, parse_limit
from penstock.runtime.settings import Settings

R1 = 'resources { name: "R1" count: 4 }'
R2 = 'resources { name: "R2" global: true count: 2 }'


def config(name: str, *limiters: str) -> str:
    """A model with a group for each."""
    groups = ", ".join(f"{{ count: 1 kind: KIND_CPU rate_limiter {{ {limiter} }} }}" for limiter in limiters)
    return CONFIG.replace('"echo"', f'"{name}"').replace("{ count: 1 kind: KIND_CPU }", groups)


def parsed(text: str) -> ModelConfig:
    return parse_config(text, Path("config.pbtxt"), text.split('"')[1])


@contextmanager
def serving(*configs: str, limits: tuple[str, ...] = (), **settings: Any) -> Iterator[ScriptedBroker]:
    settings = {"rate_limit": True, "resource_limits": tuple(map(parse_limit, limits)), **settings}
    broker = ScriptedBroker(*configs, **settings)
    yield broker
    broker.end_sessions()


def states(broker: ScriptedBroker) -> dict[str, tuple[str, str]]:
    return {model.name: (model.state.value, model.reason) for model in broker.core.models}


def test_what_an_instance_needs() -> None:
    found = parsed(config("m", f"{R1} {R2} priority: 3", ""))
    assert needs_of(found.worker_of("m_0_0")) == Needs(((Pool("R1", 0), 4), (Pool("R2", GLOBAL), 2)), 3)
    assert needs_of(found.worker_of("m_1_0")) == Needs()
    assert needs_of(found.worker_of("m_attached_17")) == needs_of(found.worker_of("m_0_0"))


def test_the_last_of_two_counts_is_taken_and_none_is_nothing() -> None:
    found = parsed(config("m", f'{R1} resources {{ name: "R1" count: 1 }} resources {{ name: "R9" }}'))
    assert needs_of(found.worker_of("m_0_0")) == Needs(((Pool("R1", 0), 1),))


@pytest.mark.parametrize(("limiter", "on", "staged"), [(R1, True, 1), ("priority: 2", True, 1), ("", True, 2), (R1, False, 2)])
def test_an_instance_with_resources_is_sent_one_batch_at_a_time(limiter: str, on: bool, staged: int) -> None:
    model = ServedModel(1, parsed(config("m", limiter)), 1, "/m/1")
    policy = policy_of(model, Settings(addresses=("unix:///x",), rate_limit=on))
    assert (policy.rate_limited, policy.credits) == (staged == 1, staged)


def test_a_limit_that_is_too_low_fails_the_load_of_that_model() -> None:
    with serving(config("big", R1), config("small", R2), limits=("R1:1", "R2:2")) as broker:
        said = (
            'Resource count for "R1" is limited to 1 which will prevent scheduling of one or more model instances, '
            "the minimum required count is 4"
        )
        assert states(broker) == {"big": ("UNAVAILABLE", said), "small": ("LOADING", "")}
        assert [process.name for process in broker.processes] == ["small_0_0"]


def test_a_name_of_both_kinds_fails_the_model_that_comes_second() -> None:
    with serving(config("first", R2), config("second", R2.replace("global: true", ""))) as broker:
        said = 'Resource "R2" is present as both global and device-specific resource in the model configuration.'
        assert states(broker) == {"first": ("LOADING", ""), "second": ("UNAVAILABLE", said)}


def test_off_is_said_once_and_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), serving(config("m", R1), CONFIG, limits=("R1:1",), rate_limit=False) as broker:
        broker.start()
        assert all(model.state is ModelState.READY for model in broker.core.models)
    assert [record.getMessage() for record in caplog.records] == [f"model m/1: {NO_EFFECT}"]


def test_two_models_take_turns_and_status_shows_it() -> None:
    with serving(config("a", R2), config("b", R2)) as broker:
        broker.start()
        client = broker.client()
        broker.infer(client, model="a")
        broker.infer(client, model="b", slot=1)
        (batch,) = broker.batches(0)
        assert broker.batches(1) == []
        link_of(client).take()
        broker.say(client, Query(7, "status"))
        (answer,) = link_of(client).take()
        assert answer.value["resources"] == [{"resource": "R2", "device": None, "count": 2, "used": 2, "waiting": 1}]
        broker.finish(batch)
        (batch,) = broker.batches(1)
        broker.finish(batch, 1)
        assert client.in_flight == {}
