# SPDX-License-Identifier: Apache-2.0
"""What a session may do, see and hold: rights by uid, limits, and that what it was refused or leaves behind is given back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from scripted import ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import BadMessage
from penstock.ipc.messages import Answer, Done, Failed, Goodbye, Hello, Query, Register, Result, Unregister
from penstock.ipc.peers import Peer
from penstock.ipc.regions import create_memfd
from penstock.runtime import sessions
from penstock.runtime.sessions import Session


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    made.start()
    yield made
    made.end_sessions()
    assert len(made.core.regions) == 0


def another_users(broker: ScriptedBroker) -> Session:
    """A client that runs as another uid than the broker."""
    peer = Peer(os.getpid(), os.geteuid() + 1, os.getegid(), None)
    session = broker.core.reception.open(ScriptedLink(), peer, takes_fds=True)
    broker.say(session, Hello(os.urandom(16)))
    link_of(session).take()
    return session


def refusal(session: Session) -> Failed:
    """The one thing that was said since the last time, which is a refusal."""
    (failed,) = link_of(session).take()
    assert isinstance(failed, Failed)
    return failed


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- rights ------------------------------------------------------------------------------------------------------------------


def test_a_worker_of_another_user_is_refused(broker: ScriptedBroker) -> None:
    peer = Peer(os.getpid(), os.geteuid() + 1, os.getegid(), None)
    session = broker.core.reception.open(ScriptedLink(), peer, takes_fds=True)
    broker.say(session, Hello(os.urandom(16), role="worker", name="echo"))
    assert refusal(session).message == f"a worker must run as uid {os.geteuid()}, the broker's own"
    assert len(broker.core.fleet.instances) == 1


def test_another_user_may_not_stop_the_broker(broker: ScriptedBroker) -> None:
    stranger = another_users(broker)
    broker.say(stranger, Query(1, "stop"))
    failed = refusal(stranger)
    assert (failed.code, failed.fault, failed.id) == ("UNSUPPORTED", "caller", 1)
    assert not broker.core.stopping
    broker.say(broker.client(), Query(1, "stop"))
    assert broker.core.stopping


def test_another_user_sees_its_own_regions_only(broker: ScriptedBroker) -> None:
    ours, stranger = broker.client(), another_users(broker)
    broker.register(stranger, "strangers")
    seen: list[set[str]] = []
    for session in (ours, stranger):
        broker.say(session, Query(1, "regions"))
        (answer,) = link_of(session).take(Answer)
        seen.append({region["name"] for region in answer.value})
    assert seen == [{"r", "strangers"}, {"strangers"}]


def test_a_client_whose_uid_is_not_known_may_register_nothing(broker: ScriptedBroker) -> None:
    remote = broker.core.reception.open(ScriptedLink(), None, takes_fds=False)
    broker.say(remote, Hello(os.urandom(16)))
    link_of(remote).take()
    broker.register(remote, "r", 64)
    failed = refusal(remote)
    assert (failed.code, failed.fault) == ("UNSUPPORTED", "caller")
    assert failed.message == "region 'r': a client whose uid is not known may send tensors inline only"


def test_no_process_is_started_for_one_who_may_register_nothing(broker: ScriptedBroker) -> None:
    """Given CUDA memory on a GPU that is named by its number, and a broker that would have to look for GPUs first."""
    broker.core.gpu_survey.found, broker.reads = None, False
    remote = broker.core.reception.open(ScriptedLink(), None, takes_fds=False)
    broker.say(remote, Hello(os.urandom(16)))
    link_of(remote).take()
    broker.say(remote, Register(1, "r", "cuda", 64, handle=b"h" * 64, device_id=0))
    assert refusal(remote).code == "UNSUPPORTED"


# --- limits ------------------------------------------------------------------------------------------------------------------


def test_a_session_may_not_register_more_regions_than_the_limit(broker: ScriptedBroker) -> None:
    client = broker.client()
    client.regions.most = 2
    broker.register(client, "second")
    broker.register(client, "third")
    done, failed = link_of(client).take()
    assert isinstance(done, Done)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == ("OVERLOADED", "a session may register 2 regions; 'third' is one more")
    assert len(broker.core.regions) == 2


def test_a_session_remembers_a_bounded_number_of_placements(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_BINDINGS", 2)
    client = broker.client()
    for slot in (0, 1, 2, 0):
        request = broker.infer(client, slot=slot)
        (batch,) = broker.batches()
        broker.finish(batch)
        assert [result.id for result in link_of(client).take(Result)] == [request]
        assert len(client.bindings) <= 2


def test_an_id_that_is_in_flight_is_refused_without_an_outcome_for_it(broker: ScriptedBroker) -> None:
    client = broker.client()
    request = broker.infer(client)
    (batch,) = broker.batches()
    broker._ids = request - 1
    assert broker.infer(client, slot=1) == request
    failed = refusal(client)
    assert (failed.id, failed.fault) == (None, "caller")
    assert f"request id {request} is already in flight" in failed.message
    broker.finish(batch)
    (result,) = link_of(client).take()
    assert isinstance(result, Result)
    assert result.id == request


def test_a_broker_that_is_stopping_serves_what_it_has_and_takes_no_more(broker: ScriptedBroker) -> None:
    client = broker.client()
    accepted = broker.infer(client)
    (batch,) = broker.batches()
    broker.core.stopping = True
    broker.infer(client, slot=1)
    assert refusal(client).code == "UNAVAILABLE"
    assert not broker.core.is_idle()
    broker.finish(batch)
    assert [result.id for result in link_of(client).take(Result)] == [accepted]
    assert broker.core.is_idle()


# --- what is registered, and what of it is given back -------------------------------------------------------------------------


def test_a_placement_in_an_unregistered_region_is_checked_again(broker: ScriptedBroker) -> None:
    # Given a placement that was checked and served
    client = broker.client()
    broker.infer(client)
    broker.finish(broker.batches()[0])
    link_of(client).take()
    # When its region is unregistered, then the same bytes name nothing
    broker.say(client, Unregister(1, "r"))
    link_of(client).take()
    broker.infer(client)
    assert refusal(client).code == "NOT_FOUND"
    # And once another region has the name, they mean that one
    broker.register(client, "r")
    link_of(client).take()
    broker.infer(client)
    (region,) = client.regions
    assert region.in_flight == 1
    broker.finish(broker.batches()[0])
    assert region.in_flight == 0


def test_a_region_registered_again_is_another_region_to_workers(broker: ScriptedBroker) -> None:
    client = broker.client()
    (before,) = client.regions
    broker.say(client, Unregister(1, "r"))
    broker.register(client, "r")
    (after,) = client.regions
    assert after.number != before.number


def test_a_region_that_is_refused_leaves_no_descriptor_behind(broker: ScriptedBroker) -> None:
    client = broker.client()
    given = create_memfd("given", 64)
    link_of(client).fds.append(given)
    broker.say(client, Register(1, "too small", "memfd", 65, fds=1))
    assert "holds 64 bytes, 65 are needed" in refusal(client).message
    assert not is_open(given)


def test_a_message_that_cannot_be_read_leaves_no_descriptor_behind(broker: ScriptedBroker) -> None:
    client = broker.client()
    brought = [create_memfd("brought", 64) for _ in range(2)]
    link_of(client).fds += brought
    broker.say(client, BadMessage("unknown field", id=7, fds=2))
    failed = refusal(client)
    assert (failed.id, failed.code, failed.message) == (7, "INVALID_ARG", "malformed message: unknown field")
    assert not any(is_open(fd) for fd in brought)
    assert broker.core.reception.bad_messages == 1


def test_what_a_session_had_queued_is_not_executed_when_it_ends(broker: ScriptedBroker) -> None:
    # Given one request running, one staged behind it and one in the queue
    client = broker.client()
    for slot in range(3):
        broker.infer(client, slot=slot)
    running, staged = broker.batches()
    # When the session ends
    broker.say(client, Goodbye())
    # Then what the worker has is finished for nobody, and the rest is never sent
    broker.finish(running)
    broker.finish(staged)
    assert broker.batches() == []
    assert len(broker.core.regions) == 0
