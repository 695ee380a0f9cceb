# SPDX-License-Identifier: Apache-2.0
"""What workers report, delivered: whose outcome, whose bytes, and what becomes of reports that do not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec import Raw, msgpack
from scripted import CONFIG, ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import encode
from penstock.ipc.local import LinkClosed
from penstock.ipc.messages import (
    Answer,
    Batch,
    Failed,
    Goodbye,
    Hello,
    Infer,
    InputTensor,
    ItemOutput,
    ItemResult,
    MapRegion,
    Message,
    OutputPlace,
    OutputTensor,
    Query,
    Result,
)
from penstock.ipc.regions import create_memfd
from penstock.runtime.sessions import Session

TOGETHER = CONFIG + "dynamic_batching { }"


class KeepingLink(ScriptedLink):
    """Reads what it is given to bring before its owner closes it; a closed one takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[bytes] = []

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        if self.closed:
            raise LinkClosed("closed")
        self.brought += [os.pread(fd, 100, 0).rstrip(b"\0") for fd in fds] + list(parts)
        super().put(message)


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(TOGETHER)
    made.start()
    yield made
    made.end_sessions()
    assert len(made.core.regions) == 0


def client_of(broker: ScriptedBroker) -> Session:
    session = broker.client()
    session.link = KeepingLink()
    return session


def brought(session: Session) -> list[bytes]:
    assert isinstance(session.link, KeepingLink)
    return session.link.brought


def ask(number: int, *places: OutputPlace, model: str = "echo") -> Infer:
    """A request of one row whose input lies at number * 64."""
    inputs = [InputTensor("x", "FP32", [1, 2], "r", number * 64, 8)]
    return Infer(number, model, Raw(encode(inputs)), Raw(encode(list(places))))


def placed(number: int) -> OutputPlace:
    return OutputPlace("y", "r", 2048 + number * 64, 8)


def output(offset: int, position: int = 0) -> ItemOutput:
    return ItemOutput(position, [1, 2], 8, offset)


def memory(content: bytes, offset: int = 0) -> int:
    fd = create_memfd("unplaced", 128)
    os.pwrite(fd, content, offset)
    return fd


def answers(session: Session) -> list[tuple[int | None, str]]:
    """(id, "ok" or what is said of the failure) of each outcome since the last time."""
    sent = link_of(session).take()
    return [(message.id, "ok" if isinstance(message, Result) else message.message) for message in sent]


def test_a_region_is_handed_to_a_worker_with_the_first_request_in_it_only(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    kinds: list[list[str]] = []
    for _ in range(2):
        broker.say(client, ask(1, placed(1)))
        sent = broker.processes[0].link.take()
        kinds.append([type(message).__name__ for message in sent])
        broker.finish(sent[-1])
    assert kinds == [[MapRegion.__name__, Batch.__name__], [Batch.__name__]]


def test_requests_that_are_read_together_are_one_batch(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)), ask(3, placed(3)))
    (batch,) = broker.batches()
    assert len(batch.items) == 3
    broker.finish(batch)
    assert answers(client) == [(1, "ok"), (2, "ok"), (3, "ok")]


def test_a_batch_that_fails_is_the_outcome_of_each_of_its_requests(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    broker.finish(broker.batches()[0], message="bad luck", code="INTERNAL", fault="model")
    assert answers(client) == [(1, "model 'echo': bad luck"), (2, "model 'echo': bad luck")]
    assert client.in_flight == {}


def test_a_request_that_fails_alone_costs_no_other(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    items = [ItemResult("INVALID_ARG", "too long", "caller"), ItemResult(outputs=[output(2048 + 128)])]
    broker.finish(broker.batches()[0], items=items)
    assert answers(client) == [(1, "too long"), (2, "ok")]
    assert client.in_flight == {}


@pytest.mark.parametrize("count", [1, 3])
def test_a_report_for_another_number_of_requests_fails_them_all(broker: ScriptedBroker, count: int) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    broker.finish(broker.batches()[0], items=[ItemResult(outputs=[output(2112)])] * count)
    said = f"model 'echo': a worker answered {count} of 2 requests"
    assert answers(client) == [(1, said), (2, said)]
    assert client.in_flight == {}


@pytest.mark.parametrize(
    ("place", "outputs"),
    [
        pytest.param(placed(1), [output(2112, 5)], id="an output that there is not"),
        pytest.param(placed(1), [], id="too few"),
        pytest.param(placed(1), [output(2112), output(2112)], id="too many"),
        pytest.param(OutputPlace("y"), [output(0)], id="unplaced, and no descriptor came"),
    ],
)
def test_outputs_that_were_not_asked_for_fail_their_request(
    broker: ScriptedBroker, place: OutputPlace, outputs: list[ItemOutput]
) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, place))
    broker.finish(broker.batches()[0], items=[ItemResult(outputs=outputs)])
    (failed,) = link_of(client).take()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.code, failed.fault) == (1, "INTERNAL", "model")
    assert failed.message.startswith("a worker answered with outputs that were not asked for")


def test_a_report_that_leaves_out_what_only_the_worker_knows_fails_those_requests() -> None:
    # Given a request that said where its output goes, and one that did not, of a model that uses the response cache
    broker = ScriptedBroker(TOGETHER + "response_cache { enable: true }", cache_size_bytes=1 << 20)
    broker.start()
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2))
    (batch,) = broker.batches()
    # When the worker says no more than that it is done
    broker.finish(batch)
    # Then the first has its promised reply, and the second fails
    assert answers(client) == [(1, "ok"), (2, "a worker did not say what the outputs are")]
    broker.core.reception.end(client, "test over")


def test_each_request_gets_the_memory_of_its_own_outputs(broker: ScriptedBroker) -> None:
    # Given a batch of which the first and the third request have no descriptor, the one failed, the other placed
    client = client_of(broker)
    places = [OutputPlace("y"), OutputPlace("y"), placed(3), OutputPlace("y")]
    broker.say(client, *(ask(number, place) for number, place in enumerate(places)))
    broker.processes[0].link.fds += [memory(b"first"), memory(b"third")]
    items = [
        ItemResult("INTERNAL", "failed"),
        ItemResult(outputs=[output(0)], fds=1),
        ItemResult(outputs=[output(2048 + 192)]),
        ItemResult(outputs=[output(0)], fds=1),
    ]
    # When the worker answers with two
    broker.finish(broker.batches()[0], items=items, fds=2)
    # Then they are those of the second and the fourth
    results = link_of(client).take(Result)
    assert [(result.id, result.fds) for result in results] == [(1, 1), (2, 0), (3, 1)]
    assert brought(client) == [b"first", b"third"]


def test_a_client_that_takes_no_descriptors_gets_unplaced_outputs_as_parts(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    client.takes_fds = False
    broker.say(client, ask(1, OutputPlace("y")))
    broker.processes[0].link.fds.append(memory(b"8 bytes!", offset=64))
    broker.finish(broker.batches()[0], items=[ItemResult(outputs=[output(64)], fds=1)], fds=1)
    (result,) = link_of(client).take(Result)
    assert (result.fds, result.parts) == (0, 1)
    assert brought(client) == [b"8 bytes!"]
    assert msgpack.decode(result.outputs, type=list[OutputTensor]) == [OutputTensor("y", "FP32", [1, 2], "", 64, 8)]


@pytest.mark.parametrize(
    "fields", [{}, {"message": "bad luck", "code": "INTERNAL"}, {"items": [ItemResult("INTERNAL", "failed")]}]
)
def test_nothing_is_said_to_a_client_that_is_gone(broker: ScriptedBroker, fields: dict[str, Any]) -> None:
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)))
    broker.say(client, Goodbye(), Query(2, "status"))
    broker.finish(broker.batches()[0], **fields)
    assert (link_of(client).queued, link_of(client).sent) == ([], [])


def test_how_a_request_was_served_is_told_on_request(broker: ScriptedBroker) -> None:
    client = client_of(broker)
    asked = Infer(*[getattr(ask(1, placed(1)), name) for name in ("id", "model", "inputs", "outputs")], explain=True)
    broker.say(client, asked, ask(2, placed(2)))
    broker.finish(broker.batches()[0])
    first, second = link_of(client).take(Result)
    assert second.explain is None
    told = first.explain
    assert (told.instance, told.batch_size, told.batch_requests, told.closed) == ("echo_0_0", 2, 2, "immediate")
    assert (told.compute_input_ns, told.compute_infer_ns, told.compute_output_ns) == (10, 20, 30)


def test_the_way_of_a_report_is_counted_for_each_request_it_answers(broker: ScriptedBroker) -> None:
    # Given two requests in a batch, whose report was made 70 ns ago, and one alone that was made 5 ns ago
    client = client_of(broker)
    broker.say(client, ask(1, placed(1)), ask(2, placed(2)))
    broker.finish(broker.batches()[0], ended_ns=broker.now_ns - 70)
    broker.say(client, ask(3, placed(1)))
    broker.finish(broker.batches()[0], ended_ns=broker.now_ns - 5)
    # And one that fails
    broker.say(client, ask(4, placed(1)))
    broker.finish(broker.batches()[0], message="bad luck", code="INTERNAL")
    # When the stages are asked for
    broker.say(client, Query(5, "stages"))
    # Then 70 count twice and 5 once, and the failure not at all
    (answer,) = link_of(client).take(Answer)
    assert answer.value[0]["returning"] == {"count": 3, "ns": 145}


def test_another_protocol_is_refused_with_both_versions(broker: ScriptedBroker) -> None:
    session = broker.core.reception.open(KeepingLink(), None, takes_fds=False)
    broker.say(session, Hello(os.urandom(16), protocol=99))
    (failed,) = link_of(session).take(Failed)
    assert failed.code == "UNSUPPORTED"
    assert "not 99" in failed.message
    assert not session.greeted


def test_a_worker_cannot_attach_where_no_descriptors_pass(broker: ScriptedBroker) -> None:
    peer = broker.client().peer
    session = broker.core.reception.open(KeepingLink(), peer, takes_fds=False)
    broker.say(session, Hello(os.urandom(16), role="worker", name="echo"))
    (failed,) = link_of(session).take(Failed)
    assert (failed.code, failed.message) == ("UNSUPPORTED", "a worker attaches over the local link only")


def test_a_queue_timeout_is_counted_as_a_failure_and_a_full_queue_is_not_counted() -> None:
    """Given a queue of one with a timeout of 10 ms, which requests may shorten, and an instance that is busy."""
    policy = "max_queue_size: 1 default_timeout_microseconds: 10000 allow_timeout_override: true"
    broker = ScriptedBroker(CONFIG + f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}")
    broker.start()
    client = broker.client()
    first = broker.infer(client)
    # When one waits for the 4 ms that it asks for, and another comes meanwhile
    late = broker.infer(client, slot=1, timeout_us=4000)
    refused = broker.infer(client, slot=2)
    broker.wait(4)
    broker.finish(broker.batches()[0])

    # Then each hears why, and only the one that waited is a failure
    outcomes = {message.id: message for message in link_of(client).take()}
    assert isinstance(outcomes[first], Result)
    assert (outcomes[refused].code, outcomes[late].code) == ("UNAVAILABLE", "UNAVAILABLE")
    said = "model 'echo': Exceeds maximum queue size: the model may have 1 requests queued, has 1"
    assert outcomes[refused].message == said
    assert outcomes[late].message == "model 'echo': Request timeout expired: it was 4.0 ms in the queue"
    statistics = broker.core.models.find("echo", -1).record.statistics
    assert (statistics.success_count, statistics.fail_count, statistics.fail_ns) == (1, 1, 4_000_000)
    broker.end_sessions()


def test_the_status_says_how_many_are_queued_at_each_level() -> None:
    levels = "priority_levels: 3 default_priority_level: 2"
    broker = ScriptedBroker(CONFIG + f"dynamic_batching {{ {levels} max_queue_delay_microseconds: 1000000 }}")
    broker.start()
    client = broker.client()
    for slot, priority in enumerate((3, 0, 3)):
        broker.infer(client, slot=slot, priority=priority)
    broker.say(client, Query(9, "status"))
    (reply,) = link_of(client).take()
    assert reply.value["queued"] == {"echo/1": 3}
    assert reply.value["queued_by_level"] == {"echo/1": {"2": 1, "3": 2}}
    broker.end_sessions()
