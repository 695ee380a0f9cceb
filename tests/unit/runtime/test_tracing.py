# SPDX-License-Identifier: Apache-2.0
"""Recorders: who may watch what, how much is kept, and that it ends with its session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted import ScriptedBroker, link_of

from penstock.ipc.codec import MAX_FRAME_BYTES, encode
from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Answer, BatchDone, Cancel, Failed, Query
from penstock.runtime import tracing
from penstock.runtime.scheduling.requests import Batch, Closed, Request
from penstock.runtime.tracing import Recorder, Traces


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    made.start()
    yield made
    made.end_sessions()
    assert not made.core.traces.recorders


def test_a_recorder_keeps_the_newest_and_counts_what_it_dropped(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for ten requests
    monkeypatch.setattr(tracing, "KEPT_REQUESTS", 10)
    recorder = Recorder(broker.client(), "")
    # When batches of four end, four of them
    for number in range(4):
        recorder.keep(4, {"batch": number})
        recorder.check_invariants()
    # Then the first two are gone, which is told once
    assert recorder.take() == {"records": [{"batch": 2}, {"batch": 3}], "dropped": 8, "more": False}
    assert recorder.take() == {"records": [], "dropped": 0, "more": False}


def test_a_recorder_keeps_no_more_records_than_it_may(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "KEPT_RECORDS", 3)
    recorder = Recorder(broker.client(), "")
    for number in range(5):
        recorder.keep(1, {"batch": number})
        recorder.check_invariants()
    assert recorder.take() == {"records": [{"batch": 2}, {"batch": 3}, {"batch": 4}], "dropped": 2, "more": False}


def test_an_answer_has_a_bounded_size(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "TAKEN_REQUESTS", 4)
    recorder = Recorder(broker.client(), "")
    for number in range(3):
        recorder.keep(3, {"batch": number})
    assert [recorder.take()["more"], recorder.take()["more"]] == [True, False]


def test_an_answer_fits_a_frame_whatever_was_recorded(broker: ScriptedBroker) -> None:
    # Given a full recorder of batches of one request, with the longest names there are, all of which failed with a long story
    session, name = broker.client(), "m" * 255
    traces = broker.core.traces
    traces.start(session, "")
    now_ns = 2**60
    for number in range(tracing.TAKEN_REQUESTS):
        request = Request(number, session.number, "ann", 1, 1, None, None, now_ns)
        batch = Batch(number, 1, 1, [request], 1, Closed.SINGLE, now_ns)
        traces.batch_ended(batch, name, 1, f"{name}_0_0", BatchDone(number, now_ns, 10, 20, 30, message="no " * 1000), now_ns)
    # When the watcher asks until there is no more
    sizes, more = [], True
    while more:
        broker.say(session, Query(1, "trace"))
        (answer,) = link_of(session).take(Answer)
        sizes.append(len(encode(answer)))
        more = answer.value["more"]
    # Then each answer can be sent
    assert len(sizes) == 10 and max(sizes) < MAX_FRAME_BYTES / 2


def test_a_session_watches_once_and_only_after_it_asked(broker: ScriptedBroker) -> None:
    traces, session = Traces(), broker.client()
    with pytest.raises(CallerError, match="records no trace"):
        traces.take(session)
    traces.start(session, "")
    with pytest.raises(CallerError, match="records a trace already"):
        traces.start(session, "")
    traces.check_invariants()
    traces.stop(session)
    with pytest.raises(CallerError, match="records no trace"):
        traces.stop(session)


def test_the_end_of_a_session_ends_its_recording(broker: ScriptedBroker) -> None:
    session = broker.client()
    broker.core.traces.start(session, "")
    broker.core.reception.end(session, "gone")
    assert broker.core.traces.recorders == []


def test_what_happened_to_each_request_is_recorded(broker: ScriptedBroker) -> None:
    # Given a client that watches, and another one that sends a request and cancels a second
    watcher, client = broker.client(), broker.client()
    broker.say(watcher, Query(1, "trace_start", "echo"))
    broker.wait(2)
    first = broker.infer(client)
    broker.infer(client, slot=1)
    broker.infer(client, slot=2)
    last = broker.infer(client, slot=3)
    broker.say(client, Cancel(last))
    batch, staged = broker.batches()
    broker.wait(5)
    broker.finish(batch)
    # When the watcher takes what there is
    broker.say(watcher, Query(2, "trace"))
    (answer,) = [message for message in link_of(watcher).take(Answer) if message.id == 2]
    cancelled, ended = answer.value["records"]
    # Then both are there, with their times
    assert (cancelled["code"], cancelled["rows"], "batch" in cancelled) == ("CANCELLED", 1, False)
    assert (ended["model"], ended["version"], ended["instance"], ended["closed"]) == ("echo", 1, "echo_0_0", "single")
    assert (ended["started_ns"], ended["input_ns"], ended["infer_ns"], ended["output_ns"]) == (broker.now_ns, 10, 20, 30)
    assert ended["sent_ns"] == ended["requests"][0][2] == broker.now_ns - 5_000_000
    assert [rows for _, rows, _ in ended["requests"]] == [1]
    assert ended["requests"][0][0] == first
    broker.finish(staged)
    broker.finish(broker.batches()[0])


def test_only_the_model_asked_for_is_recorded_and_an_unknown_one_is_refused(broker: ScriptedBroker) -> None:
    watcher, client = broker.client(), broker.client()
    broker.say(watcher, Query(1, "trace_start", "nobody"))
    (refused,) = link_of(watcher).take(Failed)
    assert refused.code == "NOT_FOUND"
    broker.core.traces.start(watcher, "other")
    broker.infer(client)
    broker.finish(broker.batches()[0])
    assert broker.core.traces.take(watcher)["records"] == []
