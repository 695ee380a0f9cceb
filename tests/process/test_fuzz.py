# SPDX-License-Identifier: Apache-2.0
"""Random and damaged frames, many thousand of them, at a living broker: it answers, forgets them, and serves the next request.

The seed is fixed, so that what fails fails again. Damage is done to frames as a client would send them, on every level: bits,
bytes, the structure of the messages, and on the local link the length in front of the frame.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from running import RunningBroker, add_model, children_of, eventually, resident_bytes
from speaking import REGION_BYTES, Speaker

from penstock.ipc.codec import BadMessage, FrameDecoder, encode
from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Cancel, FromClient, Hello, Infer, InputTensor, OutputPlace, Ping, Query, Register, Unregister

FRAMES = 20_000
TOGETHER = 100  # frames between two looks at what came back
GROWTH_BYTES = 4 * 1024 * 1024  # noise of the allocator; 10,000 leaked frames, replies or sessions would be more
ODDITIES: list[Any] = [
    None, True, False, 0, -1, 1, 255, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -1.5, float("nan"),
    float("inf"), "", "x", "x" * 300, "\0", "echo", "r", b"", b"\xff" * 20, [], [[]], [0] * 300, {}, {"type": "infer"},
]  # fmt: skip


def good_messages(numbers: random.Random) -> list[dict[str, Any]]:
    """What a client may say, as maps; only Hello as a worker is left out, whose sender the broker may kill."""
    at = numbers.randrange(0, REGION_BYTES, 8)
    inputs = [InputTensor("x", "FP32", [1, 2], "r", at, 8)]
    outputs = [OutputPlace("y", "r", numbers.randrange(0, REGION_BYTES, 8), 8)]
    encoded = msgspec.Raw(encode(inputs)), msgspec.Raw(encode(outputs))
    number = numbers.randrange(1 << 20)
    messages = [
        Infer(number, "echo", *encoded, deadline_us=numbers.choice([0, 1, 10**6]), principal=numbers.choice(["", "p"])),
        Infer(number, "echo", *encoded, explain=True, parts=numbers.choice([0, 1])),
        Cancel(number),
        Register(number, numbers.choice("rst"), "system", 64, "penstock-no-such-key", fds=numbers.choice([0, 1])),
        Unregister(number, numbers.choice("stu")),
        Query(number, numbers.choice(["status", "metadata", "statistics", "regions", "ready", "index"]), "echo"),
        Ping(),
        Hello(numbers.randbytes(16), name="fuzz"),
    ]
    return [decoded(encode(message)) for message in messages]


def decoded(content: bytes) -> Any:
    return msgspec.msgpack.decode(content)


# --- damage ----------------------------------------------------------------------------------------------------------------


def flip_bits(numbers: random.Random, frame: bytes) -> bytes:
    damaged = bytearray(frame)
    for _ in range(numbers.choice([1, 1, 2, 8])):
        damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
    return bytes(damaged)


def cut(numbers: random.Random, frame: bytes) -> bytes:
    begin, end = sorted(numbers.randrange(len(frame) + 1) for _ in range(2))
    return numbers.choice([frame[:end], frame[begin:], frame[:begin] + frame[end:]])


def repeat(numbers: random.Random, frame: bytes) -> bytes:
    begin, end = sorted(numbers.randrange(len(frame) + 1) for _ in range(2))
    return frame[:end] + frame[begin:]


def noise(numbers: random.Random, _frame: bytes) -> bytes:
    return numbers.randbytes(numbers.choice([0, 1, 5, 30, 300]))


def array_of_noise(numbers: random.Random, _frame: bytes) -> bytes:
    return bytes([0x90 + numbers.randrange(16)]) + numbers.randbytes(numbers.randrange(100))


def disturb(numbers: random.Random, frame: bytes) -> bytes:
    """Changes the structure: a value somewhere in the message becomes something else, goes, or comes twice."""
    messages = decoded(frame)
    for _ in range(numbers.choice([1, 1, 2, 4])):
        holder: Any = messages
        while holder:
            key = numbers.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], (dict, list)) and numbers.random() < 0.8:
                holder = holder[key]
                continue
            change_one(numbers, holder, key)
            break
    return encode(messages)


def change_one(numbers: random.Random, holder: Any, key: Any) -> None:
    way = numbers.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[numbers.choice(["id", "type", "region", "fds", "parts", "inputs", "unheard", 7])] = deepcopy(holder[key])
    elif way == 1:
        holder.insert(key, deepcopy(holder[key]))
    elif way == 2 and isinstance(holder, list) and len(holder) < 100:
        holder += deepcopy(holder * numbers.choice([1, 30]))
    else:
        holder[key] = deepcopy(numbers.choice(ODDITIES))


def leave(_numbers: random.Random, frame: bytes) -> bytes:
    return frame


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    flip_bits, flip_bits, cut, repeat, noise, array_of_noise, disturb, disturb, disturb, leave,
]  # fmt: skip


def frames(numbers: random.Random) -> Iterator[bytes]:
    """Endless."""
    while True:
        messages = numbers.sample(good_messages(numbers), numbers.choice([1, 1, 2, 5]))
        frame = numbers.choice(DAMAGES)(numbers, encode(messages))
        if b"worker" not in frame:
            yield frame


# --- the broker ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "echo")
    with RunningBroker(folder, folder / "models", "--log-level", "error") as running:
        yield running
        assert "Traceback" not in running.log(), running.log()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Attacker:
    """Sends frames over one connection after the other."""

    def __init__(self, address: str, numbers: random.Random) -> None:
        self._address = address
        self._numbers = numbers
        self._is_local = address.startswith("unix://")
        self._speaker: Speaker | None = None

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def attack(self, count: int) -> None:
        """Sends that many, and every so often hears what comes back."""
        stream = frames(self._numbers)
        for at in range(count):
            speaker = self._connected()
            (self._send_local if self._is_local else self._send_zmq)(speaker, next(stream))
            if at % TOGETHER == 0 and self._speaker is not None:
                self._speaker.hear_all()
        self.stop()

    def _connected(self) -> Speaker:
        if self._speaker is None:
            self._speaker = Speaker(self._address)
            self._speaker.register("r")
        return self._speaker

    def _send_zmq(self, speaker: Speaker, frame: bytes) -> None:
        speaker.say_frame(frame, *[bytes(8)] * self._numbers.choice([0, 0, 0, 1, 2]))

    def _send_local(self, speaker: Speaker, frame: bytes) -> None:
        """A frame that is none is the last one of its connection; so is one whose length lies."""
        if self._numbers.random() < 0.02:
            size = len(frame) + self._numbers.choice([-1, 1, 3, 100, 2**20, 2**31])
            speaker.say_bytes(struct.pack("<I", max(size, 0)) + frame)
            self.stop()
            return
        speaker.say_frame(frame)
        if is_garbage(frame):
            assert speaker.is_over
            self.stop()

    def stop(self) -> None:
        """Hangs up."""
        if self._speaker is not None:
            self._speaker.close()
            self._speaker = None


DECODER: FrameDecoder[Any] = FrameDecoder(FromClient)


def is_garbage(frame: bytes) -> bool:
    try:
        DECODER.decode(frame)
    except CallerError:
        return True
    return False


def test_twenty_thousand_frames(broker: RunningBroker, link: str) -> None:
    """Given frames of every kind of damage, when all are sent, then nothing is left of them, and a request is served."""
    with Speaker(broker.addresses["local"]) as watcher, Attacker(broker.addresses[link], random.Random(20_000)) as attacker:

        def is_quiet() -> bool:
            status = watcher.query("status")
            return len(status["sessions"]) == 1 and status["regions"] == 1 and not any(status["queued"].values())

        assert watcher.is_served()
        workers, held, bad = children_of(broker.pid), descriptors(broker.pid), watcher.query("status")["bad_messages"]
        attacker.attack(FRAMES // 2)  # pools and caches reach their size
        eventually(is_quiet, 5, "the attacker's sessions are over")
        before = [resident_bytes(pid) for pid in (broker.pid, *workers)]
        attacker.attack(FRAMES // 2)
        eventually(is_quiet, 5, "the attacker's sessions are over")
        after = [resident_bytes(pid) for pid in (broker.pid, *workers)]
        assert watcher.is_served(), "a session that was there all the time"
        assert watcher.query("status")["bad_messages"] - bad > FRAMES // 2, "malformed ones were counted"
    with Speaker(broker.addresses[link]) as other:
        assert other.is_served(), "a new session"
    assert children_of(broker.pid) == workers, "the worker is the same"
    growth = [now - then for now, then in zip(after, before, strict=True)]
    assert max(growth) < GROWTH_BYTES, growth
    eventually(lambda: descriptors(broker.pid) < held, 5, "no descriptor is left, and the watcher's are gone")


def test_the_damage_is_of_every_kind() -> None:
    """The frames above are neither all good nor all garbage."""
    numbers, kinds = random.Random(1), {"good": 0, "partly": 0, "garbage": 0}
    stream = frames(numbers)
    for _ in range(2000):
        frame = next(stream)
        if is_garbage(frame):
            kinds["garbage"] += 1
        else:
            kinds["partly" if any(isinstance(message, BadMessage) for message in DECODER.decode(frame)) else "good"] += 1
    assert min(kinds.values()) > 200, kinds
