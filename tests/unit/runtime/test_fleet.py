# SPDX-License-Identifier: Apache-2.0
"""Instances: who is started again and who is not, when a model is given up, and workers that do not keep to the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Raw
from scripted import CONFIG, ScriptedBroker, ScriptedProcess, link_of

from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    Failed,
    Infer,
    InputTensor,
    Loaded,
    LoadFailed,
    OutputPlace,
    Ping,
    Ready,
    Result,
    Signature,
    Start,
    Stop,
    TensorSpec,
)
from penstock.runtime.fleet import policy_of
from penstock.runtime.models import ModelState, ModelTable
from penstock.runtime.repository.configuration import ModelConfig, parse_config
from penstock.runtime.scheduling.policy import QueuePolicy, TimeoutAction
from penstock.runtime.settings import Settings

TWO = CONFIG.replace("count: 1", "count: 2")


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    yield made
    made.end_sessions()


@pytest.fixture
def two() -> Iterator[ScriptedBroker]:
    """A model with two instances, both ready."""
    made = ScriptedBroker(TWO)
    made.start()
    yield made
    made.end_sessions()


def crash_repeatedly(broker: ScriptedBroker, position: int, times: int) -> None:
    """The instance dies, and again whenever it has been started again."""
    for crash in range(times):
        if crash:
            broker.wait(1000)
            position = len(broker.processes) - 1
            broker.start(position)
        broker.die(position)


# --- the end of an instance ----------------------------------------------------------------------------------------------------


def test_a_request_read_just_before_its_worker_died_goes_to_another(two: ScriptedBroker) -> None:
    # Given a request that was read in the same turn of the loop in which a worker's death is seen, before it
    client = two.client()
    inputs, outputs = [InputTensor("x", "FP32", [1, 2], "r", 0, 8)], [OutputPlace("y", "r", 256, 8)]
    two.core.reception.receive(client, [Infer(7, "echo", Raw(encode(inputs)), Raw(encode(outputs)))])
    # When the core hears of the death
    two.die(0)
    # Then the other worker has the request
    (batch,) = two.batches(1)
    two.finish(batch, 1)
    (result,) = link_of(client).take(Result)
    assert result.id == 7


# --- restarts ----------------------------------------------------------------------------------------------------------------


def test_a_restart_waits_for_its_time_whatever_else_is_due(broker: ScriptedBroker) -> None:
    broker.start()
    broker.die()
    broker.core.tick(broker.now_ns)
    assert len(broker.processes) == 1
    broker.wait(100)
    assert len(broker.processes) == 2


def test_an_instance_that_is_given_up_does_not_take_the_others_along(two: ScriptedBroker) -> None:
    crash_repeatedly(two, 0, 5)
    model = two.core.models.find("echo", -1)
    assert model.is_ready
    client = two.client()
    request = two.infer(client)
    (batch,) = two.batches(1)
    two.finish(batch, 1)
    assert [result.id for result in link_of(client).take(Result)] == [request]


def test_a_model_is_not_given_up_while_an_instance_is_to_be_started_again(two: ScriptedBroker) -> None:
    # Given one instance that crashed for the last but one time
    crash_repeatedly(two, 0, 4)
    two.wait(1000)
    last = len(two.processes) - 1
    two.start(last)
    # When the other one dies, and then that one, too
    two.die(1)
    two.die(last)
    # Then the other one's restart decides
    model = two.core.models.find("echo", -1)
    assert model.state is ModelState.READY
    two.wait(100)
    two.start(len(two.processes) - 1)
    assert model.is_ready


def test_a_model_that_cannot_be_loaded_is_not_tried_again(broker: ScriptedBroker) -> None:
    broker.core.receive_from_worker(broker.instance(), [LoadFailed("no such file")])
    assert broker.processes[0].killed
    broker.die()
    model = broker.core.models.find("echo", -1)
    assert (model.state, model.reason) == (ModelState.UNAVAILABLE, "no such file")
    broker.wait(60_000)
    assert len(broker.processes) == 1


def test_a_worker_that_was_started_by_hand_is_not_started_again(broker: ScriptedBroker) -> None:
    broker.start()
    model = broker.core.models.find("echo", -1)
    attached = broker.core.fleet.attach(ScriptedProcess("by hand", {}), model)
    broker.core.receive_from_worker(attached, [Loaded(pid=1)])
    broker.core.receive_from_worker(attached, [Ready()])
    broker.settle()
    broker.core.worker_exited(attached)
    broker.wait(60_000)
    assert len(broker.processes) == 1
    assert model.is_ready


def test_a_model_that_could_not_be_loaded_is_served_by_a_worker_started_by_hand(broker: ScriptedBroker) -> None:
    # Given a model of which no instance has ever been ready
    broker.core.receive_from_worker(broker.instance(), [LoadFailed("no such file")])
    broker.die()
    # When somebody starts a worker that can load it
    broker.processes.append(ScriptedProcess("by hand", {}))
    broker.core.fleet.attach(broker.processes[1], broker.core.models.find("echo", -1))
    broker.start(1)
    # Then requests go there
    client = broker.client()
    request = broker.infer(client)
    (batch,) = broker.batches(1)
    broker.finish(batch, 1)
    assert [result.id for result in link_of(client).take(Result)] == [request]


def test_what_a_dead_worker_had_mapped_is_forgotten(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    broker.infer(client)
    broker.finish(broker.batches()[0])
    (region,) = client.regions
    assert region.describe()["mapped_by"] == ["echo_0_0"]
    broker.die()
    assert region.describe()["mapped_by"] == []


# --- the protocol of workers ---------------------------------------------------------------------------------------------------


def test_a_model_that_contradicts_its_configuration_is_not_served(broker: ScriptedBroker) -> None:
    found = Signature([TensorSpec("x", "FP32", [-1, 3])], [TensorSpec("y", "FP32", [-1, 2])])
    broker.core.receive_from_worker(broker.instance(), [Loaded(1, found)])
    assert not broker.processes[0].link.take(Start)
    assert broker.processes[0].killed
    broker.die()
    model = broker.core.models.find("echo", -1)
    assert model.state is ModelState.UNAVAILABLE
    assert "tensor 'x'" in model.reason


def test_a_worker_that_says_what_no_worker_says_is_replaced(broker: ScriptedBroker) -> None:
    broker.start()
    broker.core.receive_from_worker(broker.instance(), [Ping()])
    assert broker.processes[0].killed
    assert broker.instance().verdict == "worker broke the protocol: Ping()"


def test_a_worker_that_hangs_up_and_lives_on_is_killed_unless_it_was_told_to_go(two: ScriptedBroker) -> None:
    two.instance(0).hung_up()
    assert (two.processes[0].killed, two.processes[1].killed) == (True, False)
    two.core.fleet.stop()
    two.instance(1).hung_up()
    assert not two.processes[1].killed


def test_stopping_tells_every_worker_once_and_starts_none_again(two: ScriptedBroker) -> None:
    two.die(0)
    for _ in range(2):
        two.core.fleet.stop()
    two.settle()
    assert len(two.processes[1].link.take(Stop)) == 1
    two.core.worker_exited(two.instance(1))
    two.wait(60_000)
    assert len(two.processes) == 2


def test_what_waits_for_an_instance_fails_when_the_broker_gives_up_waiting(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    broker.die()
    request = broker.infer(client)
    assert link_of(client).take() == []
    broker.core.abandon("the broker is stopping")
    broker.settle()
    (failed,) = link_of(client).take(Failed)
    assert (failed.id, failed.code, failed.message) == (request, "UNAVAILABLE", "model 'echo': the broker is stopping")
    assert client.in_flight == {}


# --- what the scheduler is told of a model ---------------------------------------------------------------------------------------


def parsed(more: str = "") -> ModelConfig:
    return parse_config(CONFIG + more, Path("config.pbtxt"), "echo")


def test_a_policy_is_the_configuration_in_the_schedulers_units() -> None:
    table, settings = ModelTable(), Settings(addresses=("unix:///x",), max_execution_s=1.5, max_queued_per_principal=7)
    plain = policy_of(table.add(parsed(), 1, "/m/1"), settings)
    assert (plain.max_batch_size, plain.dynamic, plain.batches) == (4, False, False)
    assert (plain.max_execution_ns, plain.max_queued_per_principal) == (1_500_000_000, 7)
    batching = "dynamic_batching { preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 300 }"
    limit = 'parameters { key: "max_execution_s" value { string_value: "0.25" } }'
    full = policy_of(table.add(parsed(batching + limit), 2, "/m/2"), settings)
    assert (full.batches, full.preferred_batch_sizes, full.max_queue_delay_ns) == (True, (2,), 300_000)
    assert full.max_execution_ns == 250_000_000


def test_a_policy_has_the_levels_and_queue_policies_of_the_configuration() -> None:
    text = """dynamic_batching {
        priority_levels: 3 default_priority_level: 2
        default_queue_policy { max_queue_size: 9 }
        priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 500 allow_timeout_override: true } }
    }"""
    settings = Settings(addresses=("unix:///x",))
    policy = policy_of(ModelTable().add(parsed(text), 1, "/m/1"), settings)
    assert (policy.priority_levels, policy.default_priority_level, policy.has_levels) == (3, 2, True)
    assert policy.default_queue_policy == QueuePolicy(max_queue_size=9)
    assert policy.priority_queue_policies == {1: QueuePolicy(0, TimeoutAction.DELAY, 500_000, True)}
    assert not policy_of(ModelTable().add(parsed("dynamic_batching { }"), 1, "/m/1"), settings).has_levels


def test_without_a_version_the_highest_that_accepts_requests_is_meant() -> None:
    table = ModelTable()
    models = [table.add(parsed(), version, f"/m/{version}") for version in (1, 2, 3)]
    for model in models:
        table.put_forward(model)
    assert table.find("echo", -1) is models[2]
    for model in models[:2]:
        model.become(ModelState.READY)
    assert table.find("echo", -1) is models[1]
    assert table.find("echo", 1) is models[0]
    models[1].become(ModelState.UNAVAILABLE, "gone")
    models[2].become(ModelState.UNLOADING)
    models[0].become(ModelState.UNLOADING)
    assert table.find("echo", -1) is models[1], "what leaves is nothing that a worker may be attached to"
    table.check_invariants()
