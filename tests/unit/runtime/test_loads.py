# SPDX-License-Identifier: Apache-2.0
"""Loads and unloads in a scripted broker: their order, what serves meanwhile, what is told of them, and how they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from scripted import CONFIG, ScriptedBroker, link_of

from penstock.ipc.errors import CallerError, Code, MachineError
from penstock.ipc.messages import Done, Failed, Load, Loaded, LoadFailed, Query, Ready, Unload
from penstock.runtime.instances import InstanceState
from penstock.runtime.loading import LoadState
from penstock.runtime.models import ModelState
from penstock.runtime.repository.origins import Moment
from penstock.runtime.sessions import Session

TWO = CONFIG.replace("count: 1", "count: 2")
OTHER = CONFIG.replace("echo", "other")
NOTHING = "dynamic_batching { }"
BOTH = CONFIG + "version_policy { all { } }"
INCOMPLETE = 'name: "echo" backend: "onnxruntime" instance_group [ { count: 2 kind: KIND_CPU } ]'


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    made.start()
    yield made
    end(made)


def end(broker: ScriptedBroker) -> None:
    broker.end_sessions()
    for region in list(broker.core.regions):  # those of requests that a worker still has
        os.close(region.fd)


def load(broker: ScriptedBroker, client: Session, number: int = 700, model: str = "echo", **fields: str) -> None:
    broker.say(client, Load(number, model, **fields))


def answers(client: Session) -> list[tuple[int | None, str]]:
    """(id, "" or the message) of each answer since the last time."""
    sent = link_of(client).take()
    return [(m.id, m.message if isinstance(m, Failed) else "") for m in sent if isinstance(m, (Done, Failed))]


def index(broker: ScriptedBroker) -> list[tuple[str, str, str, str]]:
    return [(row["name"], row["version"], row["state"], row["reason"]) for row in broker.core.models.summary()]


def must_go(broker: ScriptedBroker, position: int) -> bool:
    """Whether the worker was told to stop."""
    return broker.instance(position).state is InstanceState.STOPPING


def leave(broker: ScriptedBroker, position: int) -> None:
    """The worker was told to stop, and does."""
    assert must_go(broker, position)
    broker.core.worker_exited(broker.instance(position))
    broker.settle()


# --- loading again ---------------------------------------------------------------------------------------------------------------


def test_the_old_serves_until_all_of_the_new_is_up(broker: ScriptedBroker) -> None:
    # Given a model of which another form with two instances is being loaded
    client = broker.client()
    broker.disk.write(TWO, 1)
    load(broker, client)
    assert [process.name for process in broker.processes] == ["echo_0_0", "echo_0_0", "echo_0_1"]
    # When the first of the two is up
    broker.start(1)
    broker.infer(client)
    # Then requests still go to the old one
    (batch,) = broker.batches(0)
    assert (answers(client), index(broker)) == ([], [("echo", "1", "READY", "")])
    # When both are up
    broker.start(2)
    assert answers(client) == [(700, "")]
    # Then new requests go there, and the old one ends what it has before it leaves
    broker.infer(client)
    assert broker.batches(1) and not must_go(broker, 0)
    broker.finish(batch, 0)
    leave(broker, 0)
    assert len(list(broker.core.models)) == 1


def test_statistics_begin_anew_with_a_reload(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.infer(client)
    broker.finish(broker.batches()[0])
    assert broker.core.models.find("echo", -1).record.statistics.success_count == 1
    broker.disk.write(CONFIG, 1)
    load(broker, client)
    broker.start(1)
    assert broker.core.models.find("echo", -1).record.statistics.success_count == 0


def test_what_is_to_be_started_when_a_load_fails_is_not_started(broker: ScriptedBroker) -> None:
    # Given a load beside what is served, whose two instances fail to be started for the fourth time
    client = broker.client()
    broker.disk.write(TWO, 1)
    broker.refuses = MachineError("out of processes")
    load(broker, client)
    for _ in range(3):
        broker.wait(1000)
    assert answers(client) == []
    # When both are due at once, and one fails for good, and with it the load
    broker.wait(1000)
    # Then the other one is not waited for, nor started, and the old serves
    ((number, message),) = answers(client)
    assert number == 700 and "echo_0_0 crashed 5 times in 60 s, last: out of processes" in message
    broker.refuses = None
    broker.wait(60_000)
    assert [process.name for process in broker.processes] == ["echo_0_0"]
    broker.infer(client)
    assert broker.batches(0)


def test_a_worker_that_is_being_killed_starts_no_others() -> None:
    # Given a model whose other instance waits for what the first makes of its model file
    broker = ScriptedBroker(INCOMPLETE)
    assert [process.name for process in broker.processes] == ["echo_0_0"]
    client = broker.client()
    # When it is unloaded, and the killed worker had loaded it just before
    broker.say(client, Unload(700, "echo"))
    broker.core.receive_from_worker(broker.instance(0), [Loaded(pid=1), Ready()])
    broker.settle()
    broker.die(0)
    # Then nothing else is started, and the model is gone
    assert (len(broker.processes), answers(client)) == (1, [(700, "")])
    assert list(broker.core.models) == []
    end(broker)


def test_a_worker_that_is_being_killed_is_sent_nothing(broker: ScriptedBroker) -> None:
    # Given an instance that is not wanted any more while it loads
    client = broker.client()
    broker.disk.write(TWO)
    load(broker, client)
    broker.core.receive_from_worker(broker.instance(1), [Loaded(pid=1)])
    broker.say(client, Unload(701, "echo"))
    # When it was ready just before it was killed
    broker.core.receive_from_worker(broker.instance(1), [Ready()])
    # Then it has nothing to finish, and is not told to stop either
    assert broker.instance(1).is_loading and broker.processes[1].killed
    broker.die(1)
    leave(broker, 0)
    assert answers(client)[-1] == (701, "")


def test_a_model_whose_last_instance_is_not_wanted_any_more_is_unavailable() -> None:
    # Given a model with two instances, of which the first was given up
    broker = ScriptedBroker(TWO)
    broker.core.receive_from_worker(broker.instance(0), [LoadFailed("no such device")])
    broker.start(1)
    broker.die(0)
    client = broker.client()
    # When it is loaded again, without the second
    broker.disk.write(CONFIG)
    load(broker, client)
    broker.infer(client)
    leave(broker, 1)
    # Then nothing waits for an instance that never comes
    assert index(broker) == [("echo", "1", "UNAVAILABLE", "no such device")]
    assert [failed.code for failed in link_of(client).take(Failed)] == ["UNAVAILABLE"]
    end(broker)


def test_a_version_that_is_not_there_any_more_goes_though_another_is_unavailable() -> None:
    # Given a model of which one version is served, and the other could not be loaded
    broker = ScriptedBroker(OTHER)
    broker.start()
    client = broker.client()
    broker.disk.write(BOTH, 1, 2)
    load(broker, client)
    broker.start(1)
    broker.core.receive_from_worker(broker.instance(2), [LoadFailed("no such file")])
    broker.die(2)
    assert [row[1:3] for row in index(broker)] == [("1", "READY"), ("2", "UNAVAILABLE"), ("1", "READY")]
    # When both have given way to a third
    del broker.disk.models["echo"]
    broker.disk.write(BOTH, 3)
    load(broker, client, 701)
    broker.start(3)
    # Then there is only that one
    leave(broker, 1)
    assert [row[:3] for row in index(broker)] == [("echo", "3", "READY"), ("other", "1", "READY")]
    end(broker)


def test_a_load_of_a_model_that_there_is_not_leaves_nothing_behind(broker: ScriptedBroker) -> None:
    client = broker.client()
    load(broker, client, model="nobody")
    text = "failed to load 'nobody', failed to poll from model repository: model not found in any model repository"
    assert answers(client) == [(700, text)]
    assert index(broker) == [("echo", "1", "READY", "")]
    assert broker.core.reception.queries.answer(client, Query(1, "ready"))["ready"]


def test_a_load_that_fails_keeps_the_old(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(TWO, 1)
    load(broker, client)
    broker.start(1)
    broker.core.receive_from_worker(broker.instance(2), [LoadFailed("no such file", "caller", "NOT_FOUND")])
    broker.die(2)
    text = "load failed for model 'echo': version 1 is at UNAVAILABLE state: Not found: no such file;"
    assert answers(client) == [(700, text)]
    assert index(broker) == [("echo", "1", "READY", "")]
    leave(broker, 1)
    broker.infer(client)
    assert broker.batches(0)


def test_without_anything_to_keep_half_a_model_is_served() -> None:
    broker = ScriptedBroker(CONFIG + "version_policy { all { } }")
    broker.disk.write(CONFIG + "version_policy { all { } }", 1, 2)
    broker.core.receive_from_worker(broker.instance(0), [LoadFailed("no such file")])
    broker.die(0)
    client = broker.client()
    load(broker, client)
    broker.start(2)
    broker.core.receive_from_worker(broker.instance(1), [LoadFailed("no such file")])
    broker.die(1)
    assert [state for _, _, state, _ in index(broker)] == ["UNAVAILABLE", "READY"]
    assert broker.disk.told == [("echo", Moment.LOAD_FAIL), ("echo", Moment.LOAD_COMPLETE)]
    end(broker)


def test_what_has_not_changed_is_not_loaded_again_unless_it_was_given_up(broker: ScriptedBroker) -> None:
    client = broker.client()
    load(broker, client)
    assert (answers(client), len(broker.processes)) == ([(700, "")], 1)
    for crash in range(5):
        if crash:
            broker.wait(1000)
            broker.start(crash)
        broker.die(crash)
    assert broker.core.models.find("echo", -1).state is ModelState.UNAVAILABLE
    load(broker, client)
    broker.start(5)
    assert broker.core.models.find("echo", -1).is_ready


def test_more_instances_are_added_and_fewer_are_let_go_in_place(broker: ScriptedBroker) -> None:
    # Given one instance, of which two are wanted now
    client = broker.client()
    model = broker.core.models.find("echo", -1)
    broker.disk.write(TWO)
    load(broker, client)
    assert [process.name for process in broker.processes] == ["echo_0_0", "echo_0_1"]
    broker.start(1)
    assert answers(client) == [(700, "")] and broker.core.models.find("echo", -1) is model
    # When it is to be one again, while the second runs a batch and has one behind it
    for slot in range(4):
        broker.infer(client, slot=slot)
    first, second = broker.batches(1)
    broker.disk.write(CONFIG)
    load(broker, client, 701)
    assert answers(client) == [(701, "")]
    # Then it gets no more, ends what it has, and leaves
    broker.finish(broker.batches(0)[0], 0)
    broker.infer(client, slot=5)
    assert not broker.batches(1)
    broker.finish(first, 1)
    assert not must_go(broker, 1)
    broker.finish(second, 1)
    leave(broker, 1)
    assert [instance.name for instance in model.instances] == ["echo_0_0"]
    broker.wait(60_000)
    assert len(broker.processes) == 2, "it is not started again"


def test_an_instance_that_cannot_be_added_leaves_the_others_as_they_were(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG.replace("count: 1", "count: 3"))
    load(broker, client)
    broker.start(1)
    broker.core.receive_from_worker(broker.instance(2), [LoadFailed("no memory", "machine", "UNAVAILABLE")])
    broker.die(2)
    ((_, message),) = answers(client)
    assert message.endswith("Unavailable: no memory;")
    leave(broker, 1)
    model = broker.core.models.find("echo", -1)
    assert model.is_ready and model.config.worker_names() == ["echo_0_0"]


def test_a_changed_setting_of_an_instance_of_the_same_name_is_a_reload() -> None:
    batching = CONFIG + NOTHING
    broker = ScriptedBroker(CONFIG)
    broker.start()
    client = broker.client()
    broker.disk.write(batching)
    load(broker, client)
    assert [process.name for process in broker.processes] == ["echo_0_0", "echo_0_0"]
    end(broker)


def test_a_request_without_a_version_goes_to_one_that_comes_later() -> None:
    # Given versions 1 and 2, of which 2 takes longer
    broker = ScriptedBroker(CONFIG + "version_policy { all { } }")
    broker.disk.write(CONFIG + "version_policy { all { } }", 2)
    broker.start()
    client = broker.client()
    broker.infer(client)
    broker.finish(broker.batches(0)[0])
    # When version 2 is loaded, the same placement goes there
    load(broker, client)
    assert len(broker.processes) == 2, "version 1 has changed in nothing"
    broker.start(1)
    broker.infer(client)
    assert broker.batches(1)
    end(broker)


def test_versions_that_are_loaded_again_change_over_together() -> None:
    policy = CONFIG + "version_policy { all { } }"
    broker = ScriptedBroker(policy)
    broker.start()
    client = broker.client()
    broker.disk.write(policy, 2)
    load(broker, client, 1)
    broker.start(1)
    broker.disk.write(policy, 1, 2)
    load(broker, client, 2)
    broker.start(2)
    assert answers(client) == [(1, "")] and not must_go(broker, 0)
    broker.start(3)
    assert answers(client) == [(2, "")] and must_go(broker, 0) and must_go(broker, 1)
    end(broker)


def test_a_placement_is_forgotten_when_a_higher_version_is_up() -> None:
    # Given versions 1 and 2 with two instances each, of which only version 1 is up
    policy = TWO + "version_policy { all { } }"
    broker = ScriptedBroker()
    broker.start()
    client = broker.client()
    broker.say(client, Unload(1, "echo"))
    leave(broker, 0)
    broker.disk.write(policy, 1, 2)
    load(broker, client)
    broker.start(1, 2)
    broker.infer(client)
    broker.finish(broker.batches(1)[0], 1)
    # When the first instance of version 2 is, then the same request goes there, though the load is not over
    broker.start(3)
    broker.infer(client)
    assert broker.batches(3) and not broker.core.loads.is_idle
    end(broker)


# --- order -----------------------------------------------------------------------------------------------------------------------


def test_loads_of_one_model_wait_for_each_other_and_those_of_another_do_not() -> None:
    broker = ScriptedBroker(CONFIG, OTHER)
    broker.start()
    client = broker.client()
    for text in (CONFIG, OTHER):
        broker.disk.write(text, 1)
    load(broker, client, 1)
    broker.disk.write(TWO, 1)
    load(broker, client, 2)
    load(broker, client, 3, "other")
    assert [process.name for process in broker.processes[2:]] == ["echo_0_0", "other_0_0"]
    broker.start(3)
    broker.start(2)
    assert answers(client) == [(3, ""), (1, "")]
    assert [process.name for process in broker.processes[4:]] == ["echo_0_0", "echo_0_1"], "it is read when its turn comes"
    broker.start(4, 5)
    assert answers(client) == [(2, "")]
    end(broker)


def test_an_unload_ends_the_loads_before_it_and_their_workers(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    load(broker, client, 1)
    load(broker, client, 2)
    broker.say(client, Unload(3, "echo"))
    assert [number for number, _ in answers(client)] == [1, 2]
    assert broker.processes[1].killed and must_go(broker, 0)
    broker.die(1)
    assert answers(client) == []
    broker.core.worker_exited(broker.instance(0))
    broker.settle()
    assert answers(client) == [(3, "")]
    assert index(broker) == [("echo", "1", "UNAVAILABLE", "unloaded")]


def test_a_load_that_was_being_read_when_its_model_was_unloaded_comes_to_nothing(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    broker.reads = False
    load(broker, client, 1)
    broker.say(client, Unload(2, "echo"))
    leave(broker, 0)
    assert [number for number, _ in answers(client)] == [1, 2]
    broker.read()
    assert len(broker.processes) == 1 and broker.core.loads.is_idle
    assert broker.disk.told[-1] == ("echo", Moment.LOAD_FAIL)


def test_a_load_after_an_unload_waits_for_its_end(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.infer(client)
    broker.say(client, Unload(1, "echo"))
    load(broker, client, 2)
    assert (answers(client), len(broker.processes)) == ([], 1)
    broker.finish(broker.batches()[0])
    leave(broker, 0)
    assert answers(client) == [(1, "")] and len(broker.processes) == 2


def test_no_more_instances_load_at_once_than_are_allowed() -> None:
    broker = ScriptedBroker(CONFIG.replace("count: 1", "count: 3"), OTHER, load_threads=2)
    assert [process.name for process in broker.processes] == ["echo_0_0", "echo_0_1"]
    broker.start(0)
    assert [process.name for process in broker.processes[2:]] == ["echo_0_2"]
    broker.die(1)
    assert [process.name for process in broker.processes[3:]] == ["other_0_0"]
    broker.wait(100)
    assert [process.name for process in broker.processes[4:]] == ["echo_0_1"], "a restart does not wait for room"
    end(broker)


# --- unloading -------------------------------------------------------------------------------------------------------------------


def test_an_unload_is_over_when_the_last_worker_has_left(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.infer(client)
    broker.say(client, Unload(1, "echo"))
    (batch,) = broker.batches()
    assert index(broker) == [("echo", "1", "UNLOADING", "")] and not must_go(broker, 0)
    broker.infer(client)
    ((_, message),) = answers(client)
    assert message == "Request for unknown model: 'echo' has no available versions: it is being unloaded"
    broker.finish(batch)
    assert broker.core.models.current("echo")
    leave(broker, 0)
    assert answers(client)[-1] == (1, "")
    broker.infer(client)
    assert answers(client)[-1][1] == "Request for unknown model: 'echo' has no available versions: unloaded"
    broker.say(client, Query(9, "ready"))
    (answer,) = link_of(client).take()
    assert answer.value == {"ready": True, "reason": "", "up": True}


def test_a_worker_that_does_not_leave_in_time_is_killed(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.say(client, Unload(1, "echo"))
    broker.wait(1999)
    assert not broker.processes[0].killed
    broker.wait(1)
    assert broker.processes[0].killed and broker.instance().verdict == "did not exit in time"


def test_what_is_unknown_is_unloaded(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.say(client, Unload(1, "nobody"))
    assert answers(client) == [(1, "")]
    assert [name for name, *_ in index(broker)] == ["echo"]


def test_a_load_goes_on_without_the_client_that_asked(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    load(broker, client)
    broker.core.reception.end(client, "gone")
    broker.start(1)
    assert broker.core.loads.is_idle and broker.core.models.find("echo", -1).is_ready


def test_a_broker_that_stops_fails_what_is_under_way(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    load(broker, client, 1)
    broker.core.abandon("the broker is stopping")
    broker.settle()
    assert answers(client) == [(1, "the broker is stopping")]
    assert broker.core.loads.is_idle


# --- what cannot be read ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_told_and_listed_where_nothing_is_served(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.failures["echo"] = broker.disk.failures["new"] = CallerError("echo/config.pbtxt:1:1: no", Code.INVALID_ARG)
    load(broker, client, 1)
    load(broker, client, 2, "new")
    said = "failed to load '{}', failed to poll from model repository: echo/config.pbtxt:1:1: no"
    assert answers(client) == [(1, said.format("echo")), (2, said.format("new"))]
    assert index(broker) == [("echo", "1", "READY", ""), ("new", "", "UNAVAILABLE", "echo/config.pbtxt:1:1: no")]
    broker.disk.failures.clear()
    broker.disk.write(CONFIG.replace("echo", "new"))
    load(broker, client, 3, "new")
    assert index(broker)[1] == ("new", "1", "LOADING", "")


def test_a_machine_that_starts_no_process_is_tried_again_and_then_the_model_is_given_up() -> None:
    broker = ScriptedBroker()
    broker.start()
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    broker.refuses = MachineError("no more processes")
    load(broker, client)
    for _ in range(4):
        broker.wait(1000)
    ((_, message),) = answers(client)
    assert "Unavailable: echo_0_0 crashed 5 times in 60 s, last: no more processes" in message
    assert broker.core.models.find("echo", -1).is_ready
    end(broker)


# --- the moments of an origin ----------------------------------------------------------------------------------------------------


def test_an_origin_hears_every_moment_of_its_load_in_order(broker: ScriptedBroker) -> None:
    client = broker.client()
    assert broker.disk.told == [("echo", Moment.LOAD_COMPLETE)]
    broker.disk.told.clear()
    broker.disk.write(CONFIG, 1)
    load(broker, client)
    broker.start(1)
    assert broker.disk.told == [("echo", Moment.LOAD_COMPLETE), ("echo", Moment.UNLOAD)]
    leave(broker, 0)
    assert broker.disk.told[2:] == [("echo", Moment.UNLOAD_COMPLETE)]


def test_an_origin_hears_of_its_end_when_the_broker_leaves() -> None:
    broker = ScriptedBroker()
    broker.start()
    broker.core.loads.close()
    moments = [Moment.LOAD_COMPLETE, Moment.UNLOAD, Moment.UNLOAD_COMPLETE]
    assert broker.disk.told == [("echo", moment) for moment in moments]


def test_an_origin_is_unloaded_with_the_last_of_its_versions() -> None:
    policy = CONFIG + "version_policy { latest { num_versions: 2 } }"
    broker = ScriptedBroker()
    broker.start()
    client = broker.client()
    broker.disk.write(policy, 2)
    load(broker, client)
    broker.start(1)
    broker.disk.told.clear()
    # When version 3 comes and 1 goes, then what brought 1 is unloaded, and what brought 2 is not
    broker.disk.write(policy, 3)
    load(broker, client)
    broker.start(2)
    assert broker.disk.told == [("echo", Moment.LOAD_COMPLETE), ("echo", Moment.UNLOAD)]
    assert [version for _, version, _, _ in index(broker)] == ["1", "2", "3"]
    leave(broker, 0)
    assert [version for _, version, _, _ in index(broker)] == ["2", "3"]
    end(broker)


def test_nothing_comes_after_the_end_of_a_load(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    load(broker, client)
    (line,) = broker.core.loads._lines.values()
    (running,) = line
    broker.start(1)
    with pytest.raises(AssertionError, match="Load of echo done> cannot become failed"):
        running.become(LoadState.FAILED)


def test_words_of_a_worker_that_was_told_to_go_change_nothing(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.disk.write(CONFIG, 1)
    load(broker, client)
    broker.say(client, Unload(1, "echo"))
    broker.core.receive_from_worker(broker.instance(1), [Loaded(pid=1), Ready()])
    broker.settle()
    assert broker.core.models.current("echo")[0].state is ModelState.UNLOADING
