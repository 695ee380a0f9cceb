# SPDX-License-Identifier: Apache-2.0
"""Regions that belong to a user: who may name, list and forget them, and how long they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Raw
from scripted import CONFIG, ROW_BYTES, ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import encode
from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import (
    Answer,
    Batch,
    Done,
    Failed,
    Hello,
    Infer,
    InputTensor,
    Loaded,
    MapRegion,
    OutputPlace,
    Query,
    Ready,
    RegionMapped,
    RegionUnmapped,
    Register,
    Result,
    UnmapRegion,
    Unregister,
)
from penstock.ipc.peers import Peer
from penstock.ipc.system_regions import create_system, unlink_system
from penstock.runtime.sessions import Session

US = os.geteuid()
SOMEBODY, OTHER = 4242, 4243
GPU = "GPU-00000000-0000-0000-0000-000000000001"
GPUS = Gpus((GpuInfo(0, GPU, "H100", 1, (9, 0), "", False, False),), "")
KEY = f"penstock-test-{os.getpid()}"


@pytest.fixture
def segment() -> Iterator[str]:
    """One of ours, of 4096 bytes."""
    os.close(create_system(KEY, 4096))
    yield KEY
    unlink_system(KEY)


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(max_shared_regions=3)
    made.start()
    yield made
    end(made)


def session_of(broker: ScriptedBroker, uid: int | None) -> Session:
    """One of a user; None: it is not known which."""
    peer = None if uid is None else Peer(os.getpid(), uid, 0, None)
    session = broker.core.reception.open(ScriptedLink(), peer, takes_fds=peer is not None)
    broker.say(session, Hello(os.urandom(16)))
    link_of(session).take()
    return session


def end(broker: ScriptedBroker) -> None:
    """Everybody leaves, and what is shared is forgotten: nothing is left."""
    last = session_of(broker, US)
    for uid in {uid for uid, _ in broker.core.shared}:
        broker.say(last, Unregister(99, "", uid))
    broker.end_sessions()
    assert not list(broker.core.shared)


@pytest.fixture
def gateway(broker: ScriptedBroker) -> Session:
    return session_of(broker, US)


def ask(broker: ScriptedBroker, session: Session, message: Any) -> Any:
    """The one answer to a message."""
    broker.say(session, message)
    (answer,) = link_of(session).take()
    return answer


def register(broker: ScriptedBroker, session: Session, name: str, uid: int = US, key: str = KEY) -> Any:
    return ask(broker, session, Register(1, name, "system", 4096, key, on_behalf=uid))


def listed(broker: ScriptedBroker, session: Session, uid: int = US) -> list[str]:
    answer = ask(broker, session, Query(2, "shared_regions", on_behalf=uid))
    assert isinstance(answer, Answer)
    return [row["name"] for row in answer.value]


def request(message_id: int, name: str, uid: int = US, offset: int = 0, byte_size: int = ROW_BYTES) -> Infer:
    inputs = [InputTensor("x", "FP32", [1, 2], name, offset, byte_size, shared=True)]
    outputs = [OutputPlace("y", name, offset + 256, ROW_BYTES, shared=True)]
    return Infer(message_id, "echo", Raw(encode(inputs)), Raw(encode(outputs)), on_behalf=uid)


def refusal(answer: Any) -> tuple[str, str]:
    assert isinstance(answer, Failed), answer
    return answer.code, answer.message


# --- how long they are there -------------------------------------------------------------------------------------------------


def test_a_region_outlives_the_gateway_that_registered_it(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    """Given a gateway that dies, then the next one lists its clients' regions, and requests in them go on."""
    assert register(broker, gateway, "r") == Done(1)
    broker.say(gateway, request(10, "r"))
    broker.core.reception.end(gateway, "it was killed")
    (batch,) = broker.batches()
    broker.finish(batch)
    next_gateway = session_of(broker, US)
    assert listed(broker, next_gateway) == ["r"]
    broker.say(next_gateway, request(10, "r"))
    (batch,) = broker.batches()
    broker.finish(batch)
    assert [type(answer) for answer in link_of(next_gateway).take()] == [Result]


def test_a_region_in_use_stays_listed_and_usable_until_its_last_request_has_ended(
    broker: ScriptedBroker, gateway: Session, segment: str
) -> None:
    """Given a request in flight, when its region is unregistered, then that is done at once, and takes effect with its end."""
    register(broker, gateway, "r")
    broker.say(gateway, request(10, "r"))
    assert ask(broker, gateway, Unregister(3, "r", US)) == Done(3)
    assert listed(broker, gateway) == ["r"]
    assert refusal(register(broker, gateway, "r")) == ("ALREADY_EXISTS", "shared memory region 'r' already in manager")
    broker.say(gateway, request(11, "r"))
    assert ask(broker, gateway, Unregister(4, "r", US)) == Done(4), "once more is as good"
    batches = broker.batches()
    for batch, message_id, left in zip(batches, (10, 11), (["r"], []), strict=True):
        broker.finish(batch)
        (answer,) = link_of(gateway).take()
        assert isinstance(answer, Result) and answer.id == message_id
        assert listed(broker, gateway) == left
    assert register(broker, gateway, "r") == Done(1), "and the name is free"


def test_no_session_remembers_a_placement_in_a_region_that_is_gone(
    broker: ScriptedBroker, gateway: Session, segment: str
) -> None:
    """Given two gateways that have used a region, when it is another one of that name, then both find that one."""
    other = session_of(broker, US)
    register(broker, gateway, "r")
    numbers = []
    for again in range(2):
        for session in (gateway, other):
            broker.say(session, request(10, "r"))
            (batch,) = broker.batches()
            numbers.append(next(iter(session.bindings.values())).regions[0].number)
            broker.finish(batch)
            assert [type(answer) for answer in link_of(session).take()] == [Result]
        if not again:
            ask(broker, other, Unregister(3, "r", US))
            assert not gateway.bindings and not other.bindings
            register(broker, gateway, "r")
    assert numbers[0] == numbers[1] < numbers[2] == numbers[3]


def test_who_names_no_shared_regions_remembers_its_own_when_one_is_gone(
    broker: ScriptedBroker, gateway: Session, segment: str
) -> None:
    client = broker.client()
    broker.infer(client)
    register(broker, gateway, "r")
    broker.say(gateway, request(10, "r"))
    for batch in broker.batches():
        broker.finish(batch)
    link_of(gateway).take()
    assert client.bindings and gateway.bindings
    ask(broker, gateway, Unregister(3, "r", US))
    assert client.bindings and not gateway.bindings


def test_unregistering_all_takes_one_kind_of_one_user(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    broker.core.gpu_survey.found = GPUS
    for name in "ab":
        register(broker, gateway, name)
    cuda = Register(1, "c", "cuda", 64, handle=b"h" * 64, uuid=GPU, on_behalf=US)
    assert ask(broker, gateway, cuda) == Done(1)
    assert ask(broker, gateway, Register(1, "o", "cuda", 64, handle=b"h" * 64, uuid=GPU, on_behalf=OTHER)) == Done(1)
    assert ask(broker, gateway, Unregister(3, "c", US, "system")) == Done(3)
    assert ask(broker, gateway, Unregister(3, "none", US)) == Done(3)
    assert listed(broker, gateway) == ["a", "b", "c"]
    ask(broker, gateway, Unregister(3, "", US, "system"))
    assert listed(broker, gateway) == ["c"]
    ask(broker, gateway, Unregister(3, "", US))
    assert listed(broker, gateway) == [] and listed(broker, gateway, OTHER) == ["o"]
    ask(broker, gateway, Unregister(3, "", OTHER, "cuda"))
    assert len(broker.core.regions) == 0


# --- whose they are ----------------------------------------------------------------------------------------------------------


def test_a_segment_must_be_the_user_s_own(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    """Given a segment of ours, then it is not registered for somebody else, though the broker itself may open it."""
    code, message = refusal(register(broker, gateway, "r", SOMEBODY))
    assert code == "INVALID_ARG" and f"does not belong to uid {SOMEBODY}" in message
    assert len(broker.core.regions) == 0 and listed(broker, gateway, SOMEBODY) == []


def test_users_have_names_of_their_own(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    """Given one user's region, then another one cannot name, see or forget it, and may have one of that name."""
    register(broker, gateway, "r")
    unknown = "NOT_FOUND", "Unable to find shared memory region: 'r'"
    assert refusal(ask(broker, gateway, request(10, "r", SOMEBODY))) == unknown
    ask(broker, gateway, Unregister(3, "r", SOMEBODY))
    assert listed(broker, gateway, SOMEBODY) == [] and listed(broker, gateway) == ["r"]


def test_a_session_s_own_regions_are_not_shared(broker: ScriptedBroker) -> None:
    """Given a client's own region "r", then a request for a shared one of that name finds none, and the other way round."""
    client = broker.client()
    unknown = "NOT_FOUND", "Unable to find shared memory region: 'r'"
    assert refusal(ask(broker, client, request(10, "r"))) == unknown
    assert listed(broker, client) == []


@pytest.mark.parametrize("uid", [OTHER, None])
def test_only_the_broker_s_own_user_speaks_for_others(broker: ScriptedBroker, uid: int | None, segment: str) -> None:
    stranger = session_of(broker, uid)
    who = "of an unknown user" if uid is None else f"uid {uid}"
    refused = "UNSUPPORTED", f"only uid {US} may speak for others, this client is {who}"
    messages: list[Any] = [
        Register(1, "r", "system", 4096, segment, on_behalf=US),
        Unregister(1, "r", US),
        Query(1, "shared_regions", on_behalf=SOMEBODY),
        request(1, "r"),
    ]
    for message in messages:
        assert refusal(ask(broker, stranger, message)) == refused
    assert len(broker.core.regions) == 0


def test_a_user_speaks_for_itself(broker: ScriptedBroker, gateway: Session) -> None:
    """Given a user's region, then its own programs see and forget it without a gateway; others do not see it."""
    broker.core.gpu_survey.found = GPUS
    theirs, stranger = session_of(broker, SOMEBODY), session_of(broker, OTHER)
    ask(broker, theirs, Register(1, "c", "cuda", 64, handle=b"h" * 64, uuid=GPU, on_behalf=SOMEBODY))
    shown = {
        uid: ask(broker, of, Query(2, "regions")).value for uid, of in ((SOMEBODY, theirs), (OTHER, stranger), (US, gateway))
    }
    assert [[(row["name"], row["uid"]) for row in rows] for rows in shown.values()] == [
        [("c", SOMEBODY)],
        [],
        [("c", SOMEBODY)],
    ]
    ask(broker, theirs, Unregister(3, "c", SOMEBODY))
    assert listed(broker, gateway, SOMEBODY) == []


def test_a_memfd_is_not_shared(broker: ScriptedBroker, gateway: Session) -> None:
    code, message = refusal(ask(broker, gateway, Register(1, "r", "memfd", 64, on_behalf=US)))
    assert code == "INVALID_ARG" and "a memfd is its session's own" in message


def test_each_user_may_have_so_many(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    for name in "abc":
        register(broker, gateway, name)
    assert refusal(register(broker, gateway, "d")) == ("OVERLOADED", "a user may register 3 regions; 'd' is one more")
    ask(broker, gateway, Unregister(3, "b", US))
    assert register(broker, gateway, "d") == Done(1)
    assert listed(broker, gateway) == ["a", "c", "d"]


# --- what Triton's clients are told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "byte_size", "message"),
    [
        (4096, 8, "Invalid offset for shared memory region: 'r'"),
        (5000, 8, "Invalid offset for shared memory region: 'r'"),
        (4092, 8, "Invalid offset + byte size for shared memory region: 'r'"),
        (0, 0, "Invalid offset + byte size for shared memory region: 'r'"),
        (0, 2**63 - 1, "Invalid offset + byte size for shared memory region: 'r'"),
        (0, 16, "input byte size mismatch for input 'x' for model 'echo'. Expected 8, got 16"),
    ],
)
def test_places_in_shared_regions_are_refused_in_triton_s_words(
    broker: ScriptedBroker, gateway: Session, segment: str, offset: int, byte_size: int, message: str
) -> None:
    register(broker, gateway, "r")
    asked = request(10, "r", offset=min(offset, 2048), byte_size=byte_size)
    if offset:
        inputs = [InputTensor("x", "FP32", [1, 2], "r", offset, byte_size, shared=True)]
        asked = Infer(10, "echo", Raw(encode(inputs)), on_behalf=US)
    assert refusal(ask(broker, gateway, asked)) == ("INVALID_ARG", message)


def test_an_output_that_is_too_small_is_told_in_triton_s_words(broker: ScriptedBroker, gateway: Session, segment: str) -> None:
    register(broker, gateway, "r")
    inputs = [InputTensor("x", "FP32", [1, 2], "r", 0, 8, shared=True)]
    outputs = [OutputPlace("y", "r", 256, 4, shared=True)]
    answer = ask(broker, gateway, Infer(10, "echo", Raw(encode(inputs)), Raw(encode(outputs)), on_behalf=US))
    assert refusal(answer) == (
        "INTERNAL",
        "shared memory size specified with the request for output 'y' (4 bytes) should be at least 8 bytes to hold the results",
    )


# --- on a GPU ----------------------------------------------------------------------------------------------------------------


class OnGpu:
    """A broker whose one instance is on a GPU and ready."""

    def __init__(self) -> None:
        config = CONFIG.replace("KIND_CPU", "KIND_GPU")
        self.broker = ScriptedBroker(config, gpus=GPUS)
        instance = self.broker.instance()
        self.broker.core.receive_from_worker(instance, [Loaded(pid=1)])
        self.broker.core.receive_from_worker(instance, [Ready()])
        self.broker.settle()
        self.broker.processes[0].link.take()
        self.gateway = session_of(self.broker, US)

    def report(self, message: Any) -> None:
        self.broker.core.receive_from_worker(self.broker.instance(), [message])
        self.broker.settle()

    def heard(self) -> list[Any]:
        return self.broker.processes[0].link.take()

    def answers(self, session: Session | None = None) -> list[Any]:
        return link_of(session or self.gateway).take()

    def register(self, **fields: Any) -> int:
        """CUDA memory, which the instance is asked to open; its number."""
        message = Register(1, "c", "cuda", 4096, handle=b"h" * 64, on_behalf=US, **fields)
        self.broker.say(self.gateway, message)
        (told,) = self.heard()
        assert isinstance(told, MapRegion) and told.pid == 0, "which process exported it is not known to a gateway"
        return told.region


@pytest.fixture
def on_gpu() -> Iterator[OnGpu]:
    made = OnGpu()
    yield made
    end(made.broker)


def test_cuda_memory_that_is_in_use_is_closed_with_its_last_request(on_gpu: OnGpu) -> None:
    """Given a request in CUDA memory, when that is unregistered, then Done comes at once, and it is closed in the end."""
    number = on_gpu.register(uuid=GPU)
    on_gpu.report(RegionMapped(number))
    on_gpu.broker.say(on_gpu.gateway, request(10, "c"))
    (batch,) = on_gpu.heard()
    on_gpu.broker.say(on_gpu.gateway, Unregister(3, "c", US))
    assert on_gpu.answers() == [Done(1), Done(3)] and on_gpu.heard() == []
    assert listed(on_gpu.broker, on_gpu.gateway) == ["c"]
    on_gpu.broker.finish(batch)
    assert on_gpu.heard() == [UnmapRegion(number, report=True)]
    assert [type(answer) for answer in on_gpu.answers()] == [Result]
    assert listed(on_gpu.broker, on_gpu.gateway) == []


def test_idle_cuda_memory_is_unregistered_when_no_instance_has_it_open(on_gpu: OnGpu) -> None:
    number = on_gpu.register(uuid=GPU)
    on_gpu.report(RegionMapped(number))
    on_gpu.broker.say(on_gpu.gateway, Unregister(3, "c", US))
    assert on_gpu.heard() == [UnmapRegion(number, report=True)] and on_gpu.answers() == [Done(1)]
    on_gpu.report(RegionUnmapped(number))
    assert on_gpu.answers() == [Done(3)]


def test_a_refused_region_is_forgotten_by_every_session(on_gpu: OnGpu) -> None:
    """Given a request of another gateway in memory that no instance has opened yet, when it cannot be, then both are told, and
    nobody remembers a place in it.
    """
    number = on_gpu.register(uuid=GPU)
    other = session_of(on_gpu.broker, US)
    on_gpu.broker.say(other, request(10, "c"))
    (batch,) = on_gpu.heard()
    assert isinstance(batch, Batch) and other.bindings
    on_gpu.report(RegionMapped(number, "INVALID_ARG", "no such memory", "caller"))
    assert not other.bindings
    assert refusal(on_gpu.answers()[0]) == ("INVALID_ARG", "region 'c': no such memory")
    on_gpu.broker.finish(batch, code="INVALID_ARG", message="no such memory", fault="caller")
    assert listed(on_gpu.broker, on_gpu.gateway) == []


@pytest.mark.parametrize("is_good", [True, False])
def test_a_gateway_that_dies_while_memory_is_opened_leaves_what_its_instance_says(on_gpu: OnGpu, is_good: bool) -> None:
    number = on_gpu.register(uuid=GPU)
    on_gpu.broker.core.reception.end(on_gpu.gateway, "it was killed")
    on_gpu.report(RegionMapped(number) if is_good else RegionMapped(number, "INVALID_ARG", "no such memory", "caller"))
    assert listed(on_gpu.broker, session_of(on_gpu.broker, US)) == (["c"] if is_good else [])


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_what_waits_for_a_survey_when_its_gateway_dies_is_not_registered(on_gpu: OnGpu, is_forgotten: bool) -> None:
    """Given memory on a GPU with a number, when the gateway dies before it is known which one that is, then nothing is left."""
    on_gpu.broker.core.gpu_survey.found, on_gpu.broker.reads = None, False
    on_gpu.broker.say(on_gpu.gateway, Register(1, "c", "cuda", 4096, handle=b"h" * 64, on_behalf=US))
    on_gpu.broker.core.reception.end(on_gpu.gateway, "it was killed")
    other = session_of(on_gpu.broker, US)
    if is_forgotten:
        assert ask(on_gpu.broker, other, Unregister(3, "c", US)) == Done(3)
    on_gpu.broker.core.gpu_survey.found, on_gpu.broker.reads = GPUS, True
    on_gpu.broker.read()
    on_gpu.broker.settle()
    assert listed(on_gpu.broker, other) == [] and len(on_gpu.broker.core.regions) == 0


def test_what_waits_for_a_survey_is_taken_back_through_any_gateway(on_gpu: OnGpu) -> None:
    """Given two users' registrations that wait, when one is taken back by another gateway, then it is answered; not the other."""
    on_gpu.broker.core.gpu_survey.found, on_gpu.broker.reads = None, False
    for message_id, uid in ((1, US), (2, OTHER)):
        on_gpu.broker.say(on_gpu.gateway, Register(message_id, "c", "cuda", 4096, handle=b"h" * 64, on_behalf=uid))
    other = session_of(on_gpu.broker, US)
    assert ask(on_gpu.broker, other, Unregister(3, "", US, "system")) == Done(3) and on_gpu.answers() == []
    assert ask(on_gpu.broker, other, Unregister(3, "c", US, "cuda")) == Done(3)
    assert on_gpu.answers() == [Done(1)]
    on_gpu.broker.core.gpu_survey.found, on_gpu.broker.reads = GPUS, True
    on_gpu.broker.read()
    on_gpu.broker.settle()
    assert listed(on_gpu.broker, other) == [] and listed(on_gpu.broker, other, OTHER) == ["c"]
    (told,) = on_gpu.heard()
    on_gpu.report(RegionMapped(told.region))
