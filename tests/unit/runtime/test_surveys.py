# SPDX-License-Identifier: Apache-2.0
"""What is loaded at the start, what a poll makes of changes, and who may load and unload by hand."""

from __future__ import annotations

import os

import pytest
from scripted import CONFIG, ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.errors import CallerError, Code, MachineError
from penstock.ipc.messages import Failed, Hello, Load, Unload
from penstock.ipc.peers import Peer
from penstock.runtime.settings import ControlMode, Settings

OTHER = CONFIG.replace("echo", "other")
INTERVAL_MS = 15_000


def polling(*configs: str) -> ScriptedBroker:
    broker = ScriptedBroker(*configs, control_mode=ControlMode.POLL)
    broker.start()
    return broker


def states(broker: ScriptedBroker) -> dict[str, str]:
    return {row["name"]: row["state"] or "never loaded" for row in broker.core.models.summary()}


# --- the start -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [ControlMode.OPEN, ControlMode.NONE, ControlMode.POLL])
def test_everything_is_loaded_at_the_start(mode: ControlMode) -> None:
    broker = ScriptedBroker(CONFIG, OTHER, control_mode=mode)
    assert not broker.core.is_settled()
    broker.start()
    assert broker.core.is_settled() and states(broker) == {"echo": "READY", "other": "READY"}


def test_explicit_loads_what_it_is_told_and_lists_the_rest() -> None:
    broker = ScriptedBroker(CONFIG, OTHER, control_mode=ControlMode.EXPLICIT, load_models=("other", "nobody"))
    broker.start()
    assert states(broker) == {"echo": "never loaded", "nobody": "UNAVAILABLE", "other": "READY"}


def test_explicit_loads_everything_for_a_star() -> None:
    broker = ScriptedBroker(CONFIG, OTHER, control_mode=ControlMode.EXPLICIT, load_models=("*",))
    broker.start()
    assert states(broker) == {"echo": "READY", "other": "READY"}


def test_models_to_load_need_the_mode_that_loads_them() -> None:
    with pytest.raises(CallerError, match="load_models is for control mode explicit, and this one is poll"):
        Settings(addresses=("unix:///x",), control_mode=ControlMode.POLL, load_models=("echo",))


# --- polling ---------------------------------------------------------------------------------------------------------------------


def test_a_poll_loads_what_is_new_or_changed_and_unloads_what_is_gone() -> None:
    broker = polling(CONFIG, OTHER)
    broker.disk.write(CONFIG, 1)
    broker.disk.write(CONFIG.replace("echo", "new"))
    del broker.disk.models["other"]
    broker.wait(INTERVAL_MS - 1)
    assert len(broker.processes) == 2
    broker.wait(1)
    assert [process.name for process in broker.processes[2:]] == ["echo_0_0", "new_0_0"]
    broker.start(2, 3)
    broker.core.worker_exited(broker.instance(1))
    broker.settle()
    assert states(broker) == {"echo": "READY", "new": "READY", "other": "UNAVAILABLE"}


def test_a_poll_that_finds_nothing_new_does_nothing_however_often() -> None:
    broker = polling()
    for _ in range(3):
        broker.wait(INTERVAL_MS)
        assert broker.core.loads.is_idle and len(broker.processes) == 1


def test_what_failed_is_tried_again_when_it_has_changed_and_not_before() -> None:
    broker = polling()
    broker.disk.failures["echo"] = CallerError("no")
    broker.disk.write(CONFIG, 1)
    broker.wait(INTERVAL_MS)
    broker.disk.failures.clear()
    broker.wait(INTERVAL_MS)
    assert len(broker.processes) == 1
    broker.disk.write(CONFIG, 1)
    broker.wait(INTERVAL_MS)
    assert len(broker.processes) == 2


def test_repositories_that_cannot_be_read_for_a_while_change_nothing() -> None:
    broker = polling()
    broker.disk.unreadable = MachineError("no such device")
    broker.disk.write(CONFIG, 1)
    broker.wait(INTERVAL_MS)
    assert states(broker) == {"echo": "READY"} and len(broker.processes) == 1
    broker.disk.unreadable = None
    broker.wait(INTERVAL_MS)
    assert len(broker.processes) == 2


def test_what_a_survey_finds_while_the_broker_stops_is_not_loaded() -> None:
    # Given a survey that is under way, and would find something new
    broker = polling()
    broker.reads = False
    broker.disk.write(CONFIG.replace("echo", "new"))
    broker.wait(INTERVAL_MS)
    assert len(broker.jobs) == 1
    # When the broker tells its workers to go, and then hears of what was found
    broker.core.abandon("the broker is stopping")
    broker.core.fleet.stop()
    broker.read()
    broker.wait(10 * INTERVAL_MS)
    # Then it starts none that nobody would tell to go, and does not look again
    assert (len(broker.processes), broker.jobs, broker.core.loads.is_idle) == (1, [], True)


def test_a_broker_that_stops_before_it_has_looked_loads_nothing() -> None:
    broker = ScriptedBroker()
    broker.reads = False
    broker.core.surveys.start()
    broker.core.abandon("the broker is stopping")
    broker.read()
    assert len(broker.processes) == 1


# --- who may load by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [ControlMode.NONE, ControlMode.POLL])
def test_without_explicit_control_nobody_loads_by_hand(mode: ControlMode) -> None:
    broker = ScriptedBroker(control_mode=mode)
    client = broker.client()
    for message in (Load(1, "echo"), Unload(2, "echo")):
        broker.say(client, message)
        (failed,) = link_of(client).take(Failed)
        assert failed.message == "explicit model load / unload is not allowed if polling is enabled"
        assert failed.code == Code.UNAVAILABLE.value
    broker.end_sessions()


@pytest.mark.parametrize("uid", [os.getuid() + 1, None])
def test_nobody_but_the_brokers_own_user_loads_or_unloads(uid: int | None) -> None:
    broker = ScriptedBroker()
    peer = None if uid is None else Peer(os.getpid(), uid, os.getgid(), None)
    session = broker.core.reception.open(ScriptedLink(), peer, takes_fds=True)
    broker.say(session, Hello(os.urandom(16)))
    for message in (Load(1, "echo"), Unload(2, "echo")):
        broker.say(session, message)
        (failed,) = link_of(session).take(Failed)
        assert (failed.code, failed.message) == ("UNSUPPORTED", f"only uid {os.geteuid()} may load and unload models")


def test_files_that_are_named_and_files_that_came_must_be_as_many() -> None:
    broker = ScriptedBroker()
    client = broker.client()
    link_of(client).fds.append(os.memfd_create("one"))
    broker.say(client, Load(1, "echo", "backend: 'identity'", ["file:1/a", "file:1/b"], fds=1))
    (failed,) = link_of(client).take(Failed)
    assert failed.message == "2 files are named, but 1 descriptors and 0 parts came"
    reading, writing = os.pipe()
    os.close(writing)
    link_of(client).fds.append(reading)
    broker.say(client, Load(2, "echo", "backend: 'identity'", ["file:1/a"], fds=1))
    (failed,) = link_of(client).take(Failed)
    assert failed.message == "the content of 'file:1/a' must come as a memfd or a regular file"
    broker.end_sessions()
