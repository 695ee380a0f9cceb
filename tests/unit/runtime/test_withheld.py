# SPDX-License-Identifier: Apache-2.0
"""Replies that wait for their turn: what workers said is delivered complete, later; the leak check counts the descriptors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted import CONFIG, ScriptedBroker, link_of
from test_delivery import answers, ask, brought, client_of, memory, output, placed

from penstock.ipc.messages import Cancel, Failed, Goodbye, ItemResult, OutputPlace, Query, Result
from penstock.runtime.models import ModelState

ORDERED = CONFIG.replace("count: 1", "count: 2").replace("max_batch_size: 4", "max_batch_size: 1")
ORDERED += "dynamic_batching { preserve_ordering: true }"


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    """Two instances; the first request goes to the first, the second to the second."""
    made = ScriptedBroker(ORDERED)
    made.start()
    yield made
    made.end_sessions()
    assert "requests that wait: {}" in repr(made.core.delivery)


def test_a_reply_leaves_when_its_turn_has_come_with_its_own_memory(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, OutputPlace("y")), ask(2, OutputPlace("y")))
    (first,), (second,) = broker.batches(0), broker.batches(1)
    for position, batch, content in ((1, second, b"second"), (0, first, b"first")):
        assert answers(client) == []
        broker.processes[position].link.fds.append(memory(content))
        broker.finish(batch, position, items=[ItemResult(outputs=[output(0)], fds=1)], fds=1)
    assert [result.id for result in link_of(client).take(Result)] == [1, 2]
    assert brought(client) == [b"first", b"second"]
    assert client.in_flight == {}


def test_a_batch_that_fails_waits_for_its_turn_too(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    (first,), (second,) = broker.batches(0), broker.batches(1)
    broker.finish(second, 1, message="bad luck", code="INTERNAL", fault="model")
    assert answers(client) == []
    broker.finish(first)
    assert answers(client) == [(1, "ok"), (2, "model 'echo': bad luck")]


def test_success_is_counted_when_the_reply_leaves_and_lasts_until_then(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    (first,), (second,) = broker.batches(0), broker.batches(1)
    broker.wait(ms=1)
    broker.finish(second, 1)
    statistics = broker.core.models.find("echo", 1).record.statistics
    assert (statistics.execution_count, statistics.success_count) == (1, 0)
    broker.wait(ms=4)
    broker.finish(first)
    assert (statistics.execution_count, statistics.success_count, statistics.success_ns) == (2, 2, 10_000_000)
    assert statistics.queue_ns == 1_000_000 + 5_000_000


def test_a_reply_is_explained_by_an_instance_that_is_gone(broker: ScriptedBroker) -> None:
    client = broker.client()
    broker.infer(client)
    broker.infer(client, slot=1, explain=True)
    (first,), (second,) = broker.batches(0), broker.batches(1)
    broker.finish(second, 1)
    broker.die(1)
    broker.finish(first)
    explained = [result.explain for result in link_of(client).take(Result)]
    assert explained[0] is None and explained[1].instance == "echo_0_1"


def test_the_death_of_a_worker_lets_the_next_reply_go(broker: ScriptedBroker) -> None:
    client = broker.client()
    numbers = [broker.infer(client, slot=slot) for slot in range(2)]
    broker.finish(broker.batches(1)[0], 1)
    broker.die(0)
    sent = [(type(message), message.id) for message in link_of(client).take()]
    assert sent == [(Failed, numbers[0]), (Result, numbers[1])]


@pytest.mark.parametrize("how", ["cancelled", "its client leaves", "the broker stops"])
def test_what_is_kept_for_a_withheld_reply_goes_with_it(broker: ScriptedBroker, how: str) -> None:
    ahead, client = client_of(broker), client_of(broker)
    broker.say(ahead, ask(1, placed(1)))
    broker.say(client, ask(2, OutputPlace("y")))
    broker.processes[1].link.fds.append(memory(b"never asked for"))
    broker.finish(broker.batches(1)[0], 1, items=[ItemResult(outputs=[output(0)], fds=1)], fds=1)
    assert "requests that wait: {}" not in repr(broker.core.delivery)
    if how == "cancelled":
        broker.say(client, Cancel(2))
        (failed,) = link_of(client).take(Failed)
        assert (failed.id, failed.code, failed.released) == (2, "CANCELLED", True)
    elif how == "its client leaves":
        broker.say(client, Goodbye())
    else:
        broker.core.abandon("the broker is stopping")
        assert broker.core.models.find("echo", 1).state is ModelState.UNAVAILABLE
        for session in (client, ahead):
            broker.core.reception.end(session, "the broker is leaving")
    assert "requests that wait: {}" in repr(broker.core.delivery)
    assert brought(client) == []
    broker.finish(broker.batches(0)[0], 0)


def test_the_rest_of_the_broker_is_the_same_without_it() -> None:
    broker = ScriptedBroker(ORDERED.replace("true", "false"))
    broker.start()
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    broker.finish(broker.batches(1)[0], 1)
    assert answers(client) == [(2, "ok")]
    broker.say(client, Query(5, "status"))
    assert "resources" not in link_of(client).take()[0].value
    broker.finish(broker.batches(0)[0], 0)
    broker.end_sessions()
