# SPDX-License-Identifier: Apache-2.0
"""The whole broker in one process, over scripted links and a clock that moves when told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import CONFIG, ScriptedBroker, link_of

from penstock.ipc.messages import (
    Answer,
    BatchDone,
    Cancel,
    Done,
    Failed,
    Goodbye,
    Hello,
    Loaded,
    Query,
    Ready,
    Released,
    Result,
    Start,
    UnmapRegion,
    Unregister,
    Welcome,
)
from penstock.ipc.regions import create_memfd
from penstock.runtime.models import ModelState
from penstock.runtime.sessions import Session


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    yield made
    made.core.check_invariants()
    made.end_sessions()
    for region in list(made.core.regions):
        os.close(region.fd)


def outcomes(session: Session) -> list[tuple[int | None, str]]:
    """(id, code or "ok") of each outcome and release sent since the last time."""
    found: list[tuple[int | None, str]] = []
    for message in link_of(session).take():
        if isinstance(message, Result):
            found.append((message.id, "ok"))
        elif isinstance(message, Failed):
            found.append((message.id, message.code if message.released else message.code + " held"))
        elif isinstance(message, Released):
            found.append((message.id, "released"))
    return found


def test_a_model_becomes_ready_when_its_first_instance_is(broker: ScriptedBroker) -> None:
    model = broker.core.models.find("echo", -1)
    assert model.state is ModelState.LOADING
    broker.core.receive_from_worker(broker.instance(), [])
    broker.start()
    assert model.is_ready and model.accepts


def test_a_request_goes_to_the_worker_with_its_region_once(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    first = broker.infer(client)
    sent = broker.processes[0].link.take()
    assert [type(message).__name__ for message in sent] == ["MapRegion", "Batch"]
    broker.finish(sent[1])
    assert outcomes(client) == [(first, "ok")]
    second = broker.infer(client)
    (batch,) = broker.processes[0].link.take()  # and no MapRegion before it
    broker.finish(batch)
    assert outcomes(client) == [(second, "ok")]


def test_the_same_placement_is_checked_once_and_another_again(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    for slot in (0, 0, 1):
        broker.infer(client, slot=slot)
        broker.finish(broker.batches()[0])
    assert len(client.bindings) == 2


def test_requests_before_the_model_is_ready_are_refused_as_unavailable(broker: ScriptedBroker) -> None:
    client = broker.client()
    request = broker.infer(client)
    assert outcomes(client) == [(request, "UNAVAILABLE")]


def test_a_cancelled_request_at_a_worker_has_its_outcome_now_and_its_release_later(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    request = broker.infer(client)
    (batch,) = broker.batches()
    broker.say(client, Cancel(request))
    assert outcomes(client) == [(request, "CANCELLED held")]
    broker.finish(batch)
    assert outcomes(client) == [(request, "released")]


def test_a_deadline_ends_a_running_request_and_memory_is_held_until_the_batch_ends(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    request = broker.infer(client, deadline_us=5000)
    (batch,) = broker.batches()
    broker.wait(6)
    assert outcomes(client) == [(request, "DEADLINE_EXCEEDED held")]
    (region,) = list(client.regions)
    assert region.in_flight == 1
    broker.finish(batch)
    assert outcomes(client) == [(request, "released")]
    assert region.in_flight == 0


def test_unregistering_frees_the_name_at_once_and_the_memory_with_the_last_release(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    request = broker.infer(client)
    (batch,) = broker.batches()
    broker.say(client, Unregister(901, "r"))
    broker.register(client, "r")
    assert [type(m) for m in link_of(client).take()] == [Done, Done]
    assert len(broker.core.regions) == 2
    broker.finish(batch)
    assert outcomes(client) == [(request, "ok")]
    assert len(broker.core.regions) == 1
    assert len(broker.processes[0].link.take(UnmapRegion)) == 1


def test_a_session_that_ends_takes_queued_work_and_memory_with_it(broker: ScriptedBroker) -> None:
    broker.start()
    client, other = broker.client(), broker.client()
    broker.infer(client)
    (running,) = broker.batches()
    broker.say(client, Goodbye())
    assert broker.forgotten == [client] and link_of(client).closed
    assert [region.closing for region in broker.core.regions] == [True, False]
    broker.finish(running)
    assert [region.closing for region in broker.core.regions] == [False]
    request = broker.infer(other)
    broker.finish(broker.batches()[0])
    assert outcomes(other) == [(request, "ok")]


def test_a_dead_workers_batch_fails_and_the_worker_is_started_again_with_back_off(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    request = broker.infer(client)
    broker.die()
    (failed,) = link_of(client).take(Failed)
    assert (failed.id, failed.fault) == (request, "model") and "died (signal 9)" in failed.message
    assert len(broker.processes) == 1
    broker.wait(99)
    assert len(broker.processes) == 1
    broker.wait(2)
    assert len(broker.processes) == 2
    waiting = broker.infer(client)
    broker.start(1)
    # the model accepted the request while its worker was being started again
    broker.infer(client, slot=1)
    assert outcomes(client) == []
    assert waiting in client.in_flight


def test_after_five_crashes_the_model_is_unavailable_with_the_reason(broker: ScriptedBroker) -> None:
    broker.start()
    client = broker.client()
    for crash in range(5):
        if crash:
            broker.wait(2000)
            broker.start(crash)
        broker.die(crash)
    model = broker.core.models.find("echo", -1)
    assert model.state is ModelState.UNAVAILABLE and "crashed 5 times" in model.reason
    request = broker.infer(client)
    assert outcomes(client) == [(request, "UNAVAILABLE")]
    broker.say(client, Query(77, "ready"))
    (answer,) = link_of(client).take(Answer)
    assert answer.value["ready"] is False and "crashed 5 times" in answer.value["reason"]


def test_a_session_may_not_have_more_in_flight_than_it_was_told() -> None:
    broker = ScriptedBroker(max_in_flight=2)
    broker.start()
    client = broker.client()
    requests = [broker.infer(client, slot=slot) for slot in range(3)]
    assert outcomes(client) == [(requests[2], "OVERLOADED")]
    broker.end_sessions()
    for batch in broker.batches():
        broker.finish(batch)
    assert len(broker.core.regions) == 0


def test_a_client_that_does_not_read_is_ended_when_its_replies_pile_up() -> None:
    broker = ScriptedBroker(max_reply_backlog_bytes=1000)
    client = broker.client()
    link_of(client).has_room = False
    for _ in range(11):
        broker.infer(client)
    assert client.ended and link_of(client).closed


def test_a_client_must_say_hello_first_and_once(broker: ScriptedBroker) -> None:
    stranger = broker.core.reception.open(type(link_of(broker.client()))(), None, takes_fds=False)
    broker.say(stranger, Query(5, "status"))
    (failed,) = link_of(stranger).take(Failed)
    assert "Hello" in failed.message
    broker.say(stranger, Hello(os.urandom(16)), Hello(os.urandom(16)))
    welcome, failed = link_of(stranger).take()
    assert isinstance(welcome, Welcome) and welcome.inline_only and "already" in failed.message


def test_the_watchdog_kills_a_worker_whose_batch_runs_too_long() -> None:
    broker = ScriptedBroker(max_execution_s=0.5)
    broker.start()
    client = broker.client()
    request = broker.infer(client)
    broker.wait(499)
    assert not broker.processes[0].killed
    broker.wait(2)
    assert broker.processes[0].killed
    broker.die()
    (failed,) = link_of(client).take(Failed)
    assert failed.id == request and "500.0 ms" in failed.message
    broker.end_sessions()


def test_every_instance_of_a_model_is_started_and_told_its_spec() -> None:
    broker = ScriptedBroker(CONFIG.replace("count: 1", "count: 3"))
    assert [process.name for process in broker.processes] == ["echo_0_0", "echo_0_1", "echo_0_2"]
    for position in range(3):
        broker.core.receive_from_worker(broker.instance(position), [Loaded(pid=1)])
        broker.settle()
        assert [start.spec.name for start in broker.processes[position].link.take(Start)] == ["echo"]
    assert len(broker.core.models.find("echo", -1).instances) == 3


def test_what_a_report_out_of_order_brought_is_closed(broker: ScriptedBroker) -> None:
    # Given two batches at a worker
    broker.start()
    client = broker.client()
    broker.infer(client)
    broker.infer(client, slot=1)
    staged = broker.batches()[1]
    # When it answers the second first, with a descriptor
    fd = create_memfd("outputs", 64)
    broker.processes[0].link.fds.append(fd)
    broker.core.receive_from_worker(broker.instance(), [BatchDone(staged.batch, broker.now_ns, 10, 20, 30, fds=1)])
    # Then it is replaced, and the descriptor is closed
    assert broker.processes[0].killed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    broker.die()


@pytest.mark.parametrize("words", [[Ready()], [Loaded(pid=1), Loaded(pid=1)], [Loaded(pid=1), Ready(), Ready()]])
def test_a_worker_that_says_things_out_of_order_is_replaced(broker: ScriptedBroker, words: list[Any]) -> None:
    broker.core.receive_from_worker(broker.instance(), words)
    assert broker.processes[0].killed and "protocol" in broker.instance().verdict
