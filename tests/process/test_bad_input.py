# SPDX-License-Identifier: Apache-2.0
"""Bad input at a living broker: each mistake gets a typed error that names it, costs its sender no more than it must, and others
nothing. Whatever was said, afterwards nothing is held and a good request is served."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from running import Barrier, RunningBroker, add_model, eventually
from speaking import REGION_BYTES, Speaker

from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    BatchDone,
    Cancel,
    Done,
    Failed,
    Goodbye,
    Hello,
    Infer,
    InputTensor,
    Loaded,
    LoadFailed,
    Message,
    OutputPlace,
    Pong,
    Query,
    Ready,
    Register,
    Result,
    Unregister,
    Welcome,
)
from penstock.ipc.regions import create_memfd
from penstock.ipc.system_regions import create_system, unlink_system

LARGEST = 2**63 - 1
MILLION = 1_000_000
X = InputTensor("x", "FP32", [2, 2], "r", 0, 16)
Y = OutputPlace("y", "r", 2048, 16)
but = msgspec.structs.replace


class Broker(NamedTuple):
    running: RunningBroker
    gate: Barrier


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all of it: every test begins with what the others left."""
    folder = tmp_path_factory.mktemp("run")
    repository = folder / "models"
    add_model(repository, "echo")
    with Barrier(folder / "gate") as gate:
        add_model(repository, "gate", mode="barrier", barrier_path=gate.path)
        with RunningBroker(folder, repository) as running:
            yield Broker(running, gate)
        assert "Traceback" not in running.log(), running.log()


@pytest.fixture
def address(broker: Broker, link: str) -> str:
    return broker.running.addresses[link]


@pytest.fixture(autouse=True)
def nothing_is_left(broker: Broker, link: str) -> Iterator[None]:
    """After each test: no region, no request, no session but the one that looks; and a new session is served."""
    yield
    with Speaker(broker.running.addresses[link]) as looking:

        def is_clean() -> bool:
            status = looking.query("status")
            return status["regions"] == 0 and len(status["sessions"]) == 1 and not any(status["queued"].values())

        eventually(is_clean, 5, "only this session is left, with nothing")
        assert looking.is_served()


@pytest.fixture
def speaker(address: str) -> Iterator[Speaker]:
    """A session with a region "r"."""
    with Speaker(address) as made:
        made.register("r")
        yield made


def refused(speaker: Speaker, message: Message, **beside: Any) -> Failed:
    """The error that answers it, by its id."""
    failed: Failed = speaker.ask(message, Failed, **beside)
    assert failed.id == getattr(message, "id", None)
    assert failed.released
    return failed


def infer(inputs: object = (X,), outputs: object = (Y,), model: str = "echo", **fields: Any) -> Infer:
    encoded = [value if isinstance(value, bytes) else encode(value) for value in (inputs, outputs)]
    return Infer(7, model, msgspec.Raw(encoded[0]), msgspec.Raw(encoded[1]), **fields)


REQUESTS: dict[str, tuple[Infer, str, str]] = {
    "no name": (infer(model=""), "NOT_FOUND", "Request for unknown model: '' is not found; known are echo, gate"),
    "model": (infer(model="digit"), "NOT_FOUND", "Request for unknown model: 'digit' is not found; known are echo, gate"),
    "version": (infer(version=9), "NOT_FOUND", "Request for unknown model: 'echo' version 9 is not found; it has 1"),
    "largest version": (infer(version=LARGEST), "NOT_FOUND", f"'echo' version {LARGEST} is not found"),
    "input": (infer([X, but(X, name="w")]), "INVALID_ARG", "unexpected inference input 'w' for model 'echo'; its inputs are 'x'"),
    "no input": (infer([]), "INVALID_ARG", "expected 1 inputs but got 0 inputs for model 'echo'"),
    "input twice": (infer([X, X]), "INVALID_ARG", "input 'x' already exists in request for model 'echo'"),
    "output": (infer(outputs=[but(Y, name="w")]), "INVALID_ARG", "unexpected inference output 'w' for model 'echo'; its outputs are 'y'"),
    "datatype": (infer([but(X, datatype="INT8")]), "INVALID_ARG", "input 'x' data-type is 'INT8', but model 'echo' expects 'FP32'"),
    "shape": (infer([but(X, shape=[2, 3])]), "INVALID_ARG", "input 'x' for model 'echo'. Expected [-1,2], got [2,3]."),
    "batch size": (infer([but(X, shape=[5, 2])]), "INVALID_ARG", "batch-size must be <= 4 and >= 1 for 'echo', got 5"),
    "byte size": (infer([but(X, byte_size=20)]), "INVALID_ARG", "for input 'x' for model 'echo'. Expected 16, got 20"),
    "offset": (infer([but(X, offset=5000)]), "INVALID_ARG", "input 'x' of model 'echo': Invalid offset for shared memory region: 'r' has 4096 bytes, offset is 5000"),
    "end": (infer([but(X, offset=4090)]), "INVALID_ARG", "'r' has 4096 bytes, offset 4090 + byte size 16 is 4106"),
    "overflowing offset": (infer([but(X, offset=LARGEST)]), "INVALID_ARG", f"'r' has 4096 bytes, offset is {LARGEST}"),
    "offset over 63 bits": (infer([but(X, offset=2**63)]), "INVALID_ARG", "model 'echo': malformed inputs: Expected `int` <= "),
    "overflowing shape": (infer([but(X, shape=[2, LARGEST])]), "INVALID_ARG", f"Expected [-1,2], got [2,{LARGEST}]"),
    "region": (infer([but(X, region="q")]), "NOT_FOUND", "input 'x' of model 'echo': Unable to find shared memory region: 'q'"),
    "output region": (infer(outputs=[but(Y, region="q")]), "NOT_FOUND", "output 'y' of model 'echo': Unable to find shared memory region: 'q'"),
    "small output": (infer(outputs=[but(Y, byte_size=8)]), "INVALID_ARG", "for output 'y' of model 'echo' (8 bytes) should be at least 16 bytes"),
    "overlap": (infer(outputs=[but(Y, offset=8)]), "INVALID_ARG", "model 'echo': output 'y' overlaps 'x' in memory (bytes 8 to 24 and 0 to 16)"),
    "inputs a million long": (infer(b"\xdd" + struct.pack(">I", MILLION) + b"\x00" * MILLION), "INVALID_ARG", "model 'echo': malformed inputs"),
    "outputs ten thousand long": (infer(outputs=[Y] * 10_000), "INVALID_ARG", "model 'echo': at most 256 outputs per request, got 10000"),
    "shape a million long": (infer([but(X, shape=[1] * MILLION)]), "INVALID_ARG", "model 'echo': malformed inputs: Expected `array` of length <= 32"),
    "inputs that are none": (infer(b"\xc0"), "INVALID_ARG", "model 'echo': malformed inputs: Expected `array`"),
    "no parts": (infer([but(X, region="")]), "INVALID_ARG", "model 'echo': 1 inputs have no region (x), but 0 inline parts came"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REQUESTS)
def test_a_request_with_a_mistake(speaker: Speaker, mistake: str) -> None:
    """Then the error says where it is, and the next request of the session is served."""
    message, code, text = REQUESTS[mistake]
    failed = refused(speaker, message)
    assert text in failed.message
    assert (failed.code, failed.fault) == (code, "caller")
    assert speaker.is_served()


def test_a_region_of_another_session(speaker: Speaker, address: str) -> None:
    """Then it does not exist."""
    with Speaker(address) as other:
        other.register("theirs")
        failed = refused(speaker, infer([but(X, region="theirs")]))
        assert (failed.code, failed.message) == (
            "NOT_FOUND",
            "input 'x' of model 'echo': Unable to find shared memory region: 'theirs'",
        )
        assert speaker.is_served() and other.is_served()


def test_an_overlap_through_two_names_of_one_memory(speaker: Speaker) -> None:
    """Given one segment registered twice, when input and output name the same bytes of it, then that is refused."""
    key = f"penstock-twice-{os.getpid()}"
    os.close(create_system(key, REGION_BYTES))
    try:
        speaker.ask(Register(1, "one", "system", REGION_BYTES, key), Done)
        speaker.ask(Register(2, "two", "system", 64, key, offset=8), Done)
    finally:
        unlink_system(key)
    failed = refused(speaker, infer([but(X, region="one")], [but(Y, region="two", offset=0)]))
    assert failed.message == "model 'echo': output 'y' overlaps 'x' in memory (bytes 8 to 24 and 0 to 16)"
    assert speaker.is_served()


def test_an_id_that_is_in_flight(broker: Broker, speaker: Speaker) -> None:
    """Then the second request is refused without an id, since its id is the first one's, who gets its answer."""
    speaker.submit(5, model="gate")
    held = broker.gate.entered()
    try:
        speaker.say(speaker.request(5))
        failed = speaker.hear()
        assert (failed.id, failed.message) == (None, "request id 5 is already in flight in this session")
        for mistake in (but(infer(), id=5, parts=1), {"type": "infer", "id": 5}, Query(5, "nonsense")):
            speaker.say_frame(encode([mistake]))
            failed = speaker.hear()
            assert (type(failed), failed.id, failed.code) == (Failed, None, "INVALID_ARG")
    finally:
        held.let_go()
        held.sock.close()
    assert speaker.outcomes(1) == {5: "ok"}
    assert speaker.is_right(5)
    assert speaker.is_served(5)


# --- regions ---------------------------------------------------------------------------------------------------------------


KEYS = {
    "": "invalid shared memory key ''",
    "/": "invalid shared memory key '/'",
    "..": "invalid shared memory key '..'",
    "/..": "invalid shared memory key '/..'",
    "../etc/passwd": "invalid shared memory key '../etc/passwd'",
    "a/b": "invalid shared memory key 'a/b'",
    "nul\0": "invalid shared memory key 'nul\\x00'",
    "sem.x": "shared memory key 'sem.x' has the reserved prefix 'sem.'",
    "/triton_python_backend_shm_region_1": "reserved prefix 'triton_python_backend_shm_region_'",
    "penstock-no-such-key": "'penstock-no-such-key'",
    "k" * 255: "255 bytes, at most 254",
    "k" * 256: "Expected `str` of length <= 255",
    "\N{SNOWMAN}" * 100: "300 bytes, at most 254",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_none(speaker: Speaker, key: str) -> None:
    failed = refused(speaker, Register(3, "new", "system", 64, key))
    assert KEYS[key] in failed.message
    assert failed.fault == "caller"
    assert speaker.is_served()


@pytest.mark.parametrize(("byte_size", "offset", "text"), [
    (0, 0, "0 bytes"),
    (REGION_BYTES + 1, 0, "holds 4096 bytes, 4097 at offset 0 need more"),
    (1, REGION_BYTES, "holds 4096 bytes, 1 at offset 4096 need more"),
    (LARGEST, LARGEST, f"holds 4096 bytes, {LARGEST} at offset {LARGEST} need more"),
])  # fmt: skip
def test_a_segment_that_is_too_small(speaker: Speaker, byte_size: int, offset: int, text: str) -> None:
    key = f"penstock-small-{os.getpid()}"
    os.close(create_system(key, REGION_BYTES))
    try:
        failed = refused(speaker, Register(3, "new", "system", byte_size, key, offset))
    finally:
        unlink_system(key)
    assert text in failed.message and key in failed.message and "'new'" in failed.message
    assert speaker.is_served()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a segment to another user")
def test_another_users_segment(speaker: Speaker) -> None:
    """Given a segment that the broker could open, when it is not the client's, then the client may not have it."""
    key = f"penstock-others-{os.getpid()}"
    fd = create_system(key, 64)
    try:
        os.fchown(fd, 12345, 12345)
        failed = refused(speaker, Register(3, "new", "system", 64, key))
    finally:
        os.close(fd)
        unlink_system(key)
    assert f"shared memory key '{key}' does not belong to uid 0" in failed.message
    assert speaker.is_served()


def test_a_name_that_is_taken(speaker: Speaker) -> None:
    """Then the first region keeps it, and the second can have it when it is free again."""
    key = f"penstock-again-{os.getpid()}"
    os.close(create_system(key, 64))
    try:
        failed = refused(speaker, Register(3, "r", "system", 64, key))
        assert (failed.code, failed.message) == (
            "ALREADY_EXISTS",
            "shared memory region 'r' already registered by this session",
        )
        assert speaker.is_served()
        speaker.ask(Unregister(4, "r"), Done)
        speaker.ask(Register(5, "r", "system", 64, key), Done)
    finally:
        unlink_system(key)
    assert "'r' has 64 bytes" in refused(speaker, infer()).message


def test_a_name_that_is_none_or_nobodys(speaker: Speaker) -> None:
    assert "a region needs a name" in refused(speaker, Register(3, "", "system", 64, "k")).message
    assert speaker.ask(Unregister(4, "nobody"), Done).id == 4, "unregister always succeeds"
    assert "length <= 256" in refused(speaker, Unregister(5, "n" * 257)).message
    assert speaker.is_served()


def unsealed() -> int:
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, 64)
    return fd


def not_sealed_to_the_end() -> int:
    fd = unsealed()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def unreserved() -> int:
    fd = os.memfd_create("unreserved", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 40)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def read_only() -> int:
    fd = create_memfd("read-only", 64)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    finally:
        os.close(fd)


DESCRIPTORS: dict[str, tuple[Callable[[], int], int, str]] = {
    "unsealed": (unsealed, 64, "the memfd lacks the seals F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL"),
    "not sealed to the end": (not_sealed_to_the_end, 64, "the memfd lacks the seals F_SEAL_SEAL"),
    "too small": (lambda: create_memfd("small", 64), 65, "the memfd holds 64 bytes, 65 are needed"),
    "far too small": (lambda: create_memfd("small", 64), LARGEST, f"the memfd holds 64 bytes, {LARGEST} are needed"),
    "not reserved": (unreserved, 1 << 40, f"the memfd has 0 of {1 << 40} bytes reserved"),
    "not to be written": (read_only, 64, "the memfd cannot be written"),
    "no memory at all": (lambda: os.open("/dev/null", os.O_RDWR), 64, "the descriptor is not a memfd"),
    "a directory": (lambda: os.open("/", os.O_RDONLY), 64, "the descriptor is not a memfd"),
}


@pytest.mark.parametrize("mistake", DESCRIPTORS)
def test_a_descriptor_that_will_not_do(broker: Broker, mistake: str) -> None:
    """On the link that carries descriptors."""
    make, byte_size, text = DESCRIPTORS[mistake]
    fd = make()
    try:
        with Speaker(broker.running.addresses["local"]) as speaker:
            failed = refused(speaker, Register(3, "new", "memfd", byte_size, fds=1), fds=(fd,))
            assert text in failed.message and "'new'" in failed.message
            assert (failed.code, failed.fault) == ("INVALID_ARG", "caller")
            assert speaker.is_served()
    finally:
        os.close(fd)


def test_a_memfd_without_a_descriptor(speaker: Speaker) -> None:
    failed = refused(speaker, Register(3, "new", "memfd", 64))
    assert failed.message == "region 'new': a memfd region brings one descriptor over the local link, got 0"
    failed = refused(speaker, Register(3, "new", "memfd", 64, fds=1))
    assert "1 descriptors are declared" in failed.message
    assert speaker.is_served()


def test_descriptors_that_nobody_declared(broker: Broker) -> None:
    """Given many, then they are closed and so is the connection; the next one is served."""
    before = len(os.listdir(f"/proc/{broker.running.pid}/fd"))
    with Speaker(broker.running.addresses["local"]) as speaker:
        with open(os.devnull) as null:
            speaker.say(Query(1, "index"), fds=[null.fileno()] * 200)
            speaker.say(Query(2, "index"), fds=[null.fileno()] * 200)
            speaker.say(Query(3, "index"), fds=[null.fileno()])
        assert speaker.is_over
    eventually(lambda: len(os.listdir(f"/proc/{broker.running.pid}/fd")) <= before, 5, "they are closed")


def test_a_descriptor_that_came_with_a_refused_message_is_not_another_ones(broker: Broker) -> None:
    """Given messages that bring descriptors but are refused, then the next message gets its own."""
    wrong, right = create_memfd("wrong", 64), create_memfd("right", 4096)
    refused_ones: list[Any] = [
        {"type": "register", "id": 1, "name": "n", "kind": "heap", "byte_size": 1, "fds": 1},
        {"type": "unheard-of", "id": 2, "fds": 1},
        BatchDone(3, 0, 0, 0, 0, fds=1),
    ]
    try:
        for each in refused_ones:
            with Speaker(broker.running.addresses["local"]) as speaker:
                speaker.say_bytes(framed([each]), wrong)
                assert isinstance(speaker.hear(), Failed)
                speaker.ask(Register(4, "right", "memfd", 4096, fds=1), Done, fds=(right,))
    finally:
        os.close(wrong)
        os.close(right)


def framed(messages: list[Any]) -> bytes:
    frame = encode(messages)
    return struct.pack("<I", len(frame)) + frame


# --- manners ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [infer(), Query(1, "status"), Register(2, "n", "system", 64, "k")])
def test_no_hello(address: str, message: Message) -> None:
    """Then nothing is done; after Hello it is."""
    with Speaker(address, hello=False) as speaker:
        failed = refused(speaker, message)
        assert (failed.code, failed.message) == ("INVALID_ARG", "say Hello first")
        speaker.ask(Hello(os.urandom(16)), Welcome)
        assert speaker.is_served()


@pytest.mark.parametrize(("hello", "code", "text"), [
    (Hello(os.urandom(16), protocol=2), "UNSUPPORTED", "this broker speaks protocol 1, not 2"),
    (Hello(os.urandom(15)), "INVALID_ARG", "Expected `bytes` of length >= 16"),
    (Hello(os.urandom(17)), "INVALID_ARG", "Expected `bytes` of length <= 16"),
    (Hello(os.urandom(16), role="boss"), "INVALID_ARG", "Invalid enum value 'boss'"),  # type: ignore[arg-type]
])  # fmt: skip
def test_a_hello_that_is_none(address: str, hello: Hello, code: str, text: str) -> None:
    """Then there is no session, and a better one may follow."""
    with Speaker(address, hello=False) as speaker:
        failed = refused(speaker, hello)
        assert failed.code == code and text in failed.message
        assert refused(speaker, Query(1, "status")).message == "say Hello first"
        speaker.ask(Hello(os.urandom(16)), Welcome)
        assert speaker.is_served()


def test_a_second_hello(speaker: Speaker) -> None:
    assert refused(speaker, Hello(os.urandom(16))).message == "this session has already said Hello"
    assert speaker.is_served()


def test_a_worker_for_a_model_that_does_not_exist(address: str, link: str) -> None:
    """Then it is refused, and is no client either."""
    with Speaker(address, hello=False) as speaker:
        failed = refused(speaker, Hello(os.urandom(16), role="worker", name="nothing"))
        assert failed.code == ("NOT_FOUND" if link == "local" else "UNSUPPORTED")
        assert refused(speaker, Query(1, "status")).message == "say Hello first"
        speaker.ask(Hello(os.urandom(16)), Welcome)
        assert speaker.is_served()


@pytest.mark.parametrize(
    "message",
    [
        BatchDone(1, 0, 0, 0, 0), BatchDone(1, 0, 0, 0, 0, fds=1), Loaded(1), LoadFailed("x"), Ready(), Welcome(b"", 1, 1, 1),
        Result(1, msgspec.Raw(b"\x90")), Failed("INTERNAL", "x", "model", 1), Pong(),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_words_that_are_not_a_clients(speaker: Speaker, message: Message) -> None:
    before = speaker.query("status")["bad_messages"]
    speaker.say(message)
    failed = speaker.hear()
    assert (type(failed), failed.code, failed.fault) == (Failed, "INVALID_ARG", "caller")
    assert type(message).__name__.lower() in failed.message.lower() or "descriptors are declared" in failed.message
    assert speaker.query("status")["bad_messages"] == before + 1
    assert speaker.is_served()


@pytest.mark.parametrize(("content", "message_id", "text"), [
    ({"type": "greet", "id": 4}, 4, "greet"),
    ({"id": 4}, 4, "type"),
    ({"type": "cancel", "id": "4"}, None, "Expected `int`, got `str`"),
    ({"type": "cancel", "id": -4}, None, ">= 0"),
    ({"type": "cancel", "id": 2**63}, None, "<= "),
    ({"type": "ping", "id": 4}, 4, "unknown field `id`"),
    ({"type": "query", "id": 4}, 4, "missing required field `what`"),
    ({"type": "infer", "id": 4, "model": "echo", "inputs": [], "parts": 257}, 4, "256"),
    ({"type": "infer", "id": 4, "model": "echo", "inputs": [], "fds": 2**62, "parts": 2**62}, 4, "fds"),
    ({1: 2}, None, ""),
    (["infer"], None, "Expected `object`, got `array`"),
    (4, None, "Expected `object`, got `int`"),
    (None, None, "Expected `object`"),
])  # fmt: skip
def test_words_that_are_none(speaker: Speaker, content: object, message_id: int | None, text: str) -> None:
    """Then each is answered by its id, where that can be read; its neighbours in the frame are carried out."""
    before = speaker.query("status")["bad_messages"]
    speaker.say_frame(encode([Query(1, "ready"), content, Query(2, "ready")]))
    first, failed, last = speaker.hear(), speaker.hear(), speaker.hear()
    assert (first.id, last.id) == (1, 2)
    assert isinstance(failed, Failed) and failed.id == message_id and failed.code == "INVALID_ARG"
    assert text in failed.message
    assert speaker.query("status")["bad_messages"] == before + 1
    assert speaker.is_served()


def test_an_unknown_query(speaker: Speaker) -> None:
    failed = refused(speaker, Query(1, "weather"))
    assert failed.message.startswith("unknown query 'weather'; known are config, ")
    assert refused(speaker, Query(2, "metadata", "nothing")).code == "NOT_FOUND"
    assert refused(speaker, Query(3, "statistics", "echo", 5)).code == "NOT_FOUND"
    assert "length <= 32" in refused(speaker, Query(4, "w" * 33)).message
    assert speaker.is_served()


def test_a_cancel_for_nothing(speaker: Speaker) -> None:
    """Then nothing happens."""
    speaker.say(Cancel(12345))
    assert speaker.hear_all() == []
    assert speaker.is_served()


def test_parts_that_are_declared_and_do_not_come(speaker: Speaker, link: str) -> None:
    inline = infer([but(X, region="")], parts=1)
    failed = refused(speaker, inline)
    missing = (
        "1 message parts are declared: the local link carries descriptors"
        if link == "local"
        else "1 message parts are declared, 0 arrived"
    )
    assert missing in failed.message
    assert speaker.is_served()


def test_parts_that_come_and_are_not_declared(broker: Broker) -> None:
    """On the link that carries parts: they go with their frame, and are not the next one's."""
    with Speaker(broker.running.addresses["zmq"]) as speaker:
        speaker.say_frame(encode([Query(1, "ready")]), b"\xff" * 16, b"more")
        assert speaker.hear().id == 1
        assert "1 message parts are declared, 0 arrived" in refused(speaker, infer([but(X, region="")], parts=1)).message
        assert speaker.is_served()


def test_a_part_that_came_with_a_refused_message_is_not_another_ones(broker: Broker) -> None:
    """Given messages of one frame, each with a part, when one is refused, then the other gets its own."""
    inline = infer([but(X, region="", byte_size=0)], (), parts=1)
    right = struct.pack("<4f", 1, 2, 3, 4)
    for bad in ({"type": "infer", "id": 6, "parts": 1}, {"type": "infer", "id": 6, "parts": 1, "fds": 1}):
        with Speaker(broker.running.addresses["zmq"]) as speaker:
            speaker.say_frame(encode([bad, inline]), bytes(16), right)
            failed, result = speaker.hear(), speaker.hear()
            assert (type(failed), failed.id, type(result), result.id) == (Failed, 6, Result, 7)
            assert speaker.link.take_parts(1) == [right]


def test_a_frame_that_is_too_large(address: str, link: str) -> None:
    """Then it is refused with both sizes, unread; only the local link, which has lost its place, is closed."""
    with Speaker(address) as speaker:
        limit = speaker.welcome.max_frame_bytes if speaker.welcome else 0
        if link == "local":
            speaker.say_bytes(struct.pack("<I", limit + 1))
            failed = speaker.hear()
            assert failed.message == f"a frame of {limit + 1} bytes was announced, at most {limit} are taken"
            assert speaker.is_over
        else:
            speaker.say_frame(bytes(limit + 1))
            assert f"a frame of {limit + 1} bytes, at most {limit} are taken" in speaker.hear().message
            assert speaker.is_served()


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", b"\x80", b"\x2a", b"GET / HTTP/1.1\r\n\r\n", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff"]
)
def test_a_frame_that_is_none(address: str, link: str, garbage: bytes) -> None:
    with Speaker(address) as speaker:
        speaker.say_frame(garbage)
        failed = speaker.hear()
        assert isinstance(failed, Failed) and failed.id is None
        assert "a frame must be a MessagePack array of messages" in failed.message
        assert speaker.is_over if link == "local" else speaker.is_served()


@pytest.mark.parametrize("word", [b"\x00", b"\x80", b"\x90"])
def test_a_frame_of_a_million_messages_that_are_none(address: str, link: str, word: bytes) -> None:
    """Then it is garbage, answered once and not a million times."""
    with Speaker(address) as speaker:
        speaker.say_frame(b"\xdd" + struct.pack(">I", MILLION) + word * MILLION)
        failed = speaker.hear()
        assert isinstance(failed, Failed) and "Expected `array` of length <= 65536" in failed.message
        assert speaker.is_over if link == "local" else speaker.is_served()


@pytest.mark.parametrize(("count", "answers"), [(256, 256), (257, 1), (65536, 1)])
def test_a_frame_with_many_messages_that_are_none(address: str, link: str, count: int, answers: int) -> None:
    """Then as many as a clumsy client may get wrong are answered one by one; beyond that the frame is garbage."""
    with Speaker(address) as speaker:
        speaker.say_frame(encode([0] * count))
        found = [speaker.hear() for _ in range(answers)]
        assert all(isinstance(failed, Failed) and "Expected `object`, got `int`" in failed.message for failed in found)
        assert ("more than 256 messages of a frame are malformed" in found[0].message) == (answers == 1)
        assert speaker.is_over if link == "local" and answers == 1 else speaker.is_served()


def test_half_a_frame_and_nothing_more(broker: Broker) -> None:
    """On the local link: the fixture sees that nothing is left."""
    with Speaker(broker.running.addresses["local"]) as speaker:
        speaker.register("r")
        speaker.say_bytes(framed([Query(1, "ready")])[:-3])


def test_words_after_goodbye(broker: Broker, address: str, link: str) -> None:
    """Then they are a stranger's or nobody's; and no descriptor is left, or closed twice."""
    before = len(os.listdir(f"/proc/{broker.running.pid}/fd"))
    for _ in range(30):
        with Speaker(address) as speaker:
            speaker.say(Goodbye())
            if link == "local":
                assert speaker.is_over
                continue
            for message_id in range(3):
                speaker.say(Query(message_id, "ready"))
    eventually(lambda: len(os.listdir(f"/proc/{broker.running.pid}/fd")) <= before, 5, "no more descriptors than before")


def test_a_frame_byte_by_byte(broker: Broker) -> None:
    """On the local link, which is a stream."""
    with Speaker(broker.running.addresses["local"]) as speaker:
        for byte in framed([Query(1, "ready"), Query(2, "ready")]):
            speaker.say_bytes(bytes([byte]))
        assert (speaker.hear().id, speaker.hear().id) == (1, 2)
        assert speaker.is_served()
