# SPDX-License-Identifier: Apache-2.0
"""Frames: what a good one, a partly bad one and garbage become; how a list is cut into frames."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ipc.codec import BadMessage, FrameDecoder, encode, encode_frame, encode_frames
from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Cancel, FromClient, Infer, Message, Ping, Register

decoder: FrameDecoder[Message] = FrameDecoder(FromClient)


def test_a_frame_brings_back_the_messages_in_order() -> None:
    messages = [Cancel(1), Ping(), Cancel(2), Infer(3, "digits", msgspec.Raw(encode([])), deadline_us=5)]
    assert decoder.decode(encode_frame(messages)) == messages


def test_an_empty_frame_is_no_message() -> None:
    assert list(decoder.decode(encode_frame([]))) == []


def test_any_messagepack_implementation_can_speak_it() -> None:
    frame = msgpack.packb([{"type": "cancel", "id": 7}, {"type": "ping"}])
    assert decoder.decode(frame) == [Cancel(7), Ping()]
    assert msgpack.unpackb(encode_frame([Cancel(7)])) == [{"type": "cancel", "id": 7}]


def test_raw_fields_outlive_the_buffer_that_the_frame_came_in() -> None:
    buffer = bytearray(encode_frame([Infer(1, "digits", msgspec.Raw(encode(["kept"])))]))
    (message,) = decoder.decode(bytes(buffer))
    buffer[:] = bytes(len(buffer))
    assert isinstance(message, Infer)
    assert msgspec.msgpack.decode(message.inputs) == ["kept"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"type": "cancel"}, "required field `id`"),
        ({"type": "cancel", "id": -1}, ">= 0"),
        ({"type": "cancel", "id": 2**63}, "<= "),
        ({"type": "cancel", "id": "1"}, "Expected `int`"),
        ({"type": "cancel", "id": 1, "more": 0}, "unknown field `more`"),
        ({"type": "nothing"}, "nothing"),
        ({"id": 1}, "type"),
        ({"type": "query", "id": 1, "what": "x" * 33}, "length <= 32"),
        ({"type": "hello", "session": b"short"}, "length >= 16"),
        ({"type": "infer", "id": 1, "model": "m", "inputs": [], "parts": 257}, "<= 256"),
        (["cancel", 1], "Expected `object`"),
        (None, "Expected `object`"),
    ],
)
def test_a_bad_message_costs_itself_and_not_its_neighbours(bad: object, reason: str) -> None:
    frame = msgpack.packb([{"type": "cancel", "id": 1}, bad, {"type": "cancel", "id": 2}])
    first, middle, last = decoder.decode(frame)
    assert (first, last) == (Cancel(1), Cancel(2))
    assert isinstance(middle, BadMessage)
    assert reason in middle.reason


def test_a_bad_message_tells_its_id_and_what_it_brings() -> None:
    (bad,) = decoder.decode(msgpack.packb([{"type": "infer", "id": 9, "parts": 3, "fds": 1}]))
    assert isinstance(bad, BadMessage)
    assert (bad.id, bad.parts, bad.fds) == (9, 3, 1)


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1", None])
def test_what_a_bad_message_says_of_itself_is_not_believed_blindly(value: object) -> None:
    (bad,) = decoder.decode(msgpack.packb([{"type": "infer", "id": value, "fds": value, "parts": value}]))
    assert isinstance(bad, BadMessage)
    assert (bad.id, bad.fds, bad.parts) == (None, 0, 0)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xc1", b"\x80", b"\x2a", b"\x91", b"\xdd\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n", encode_frame([Ping()]) + b"\x00"],
)
def test_what_is_no_array_is_the_callers_error(garbage: bytes) -> None:
    with pytest.raises(CallerError, match="array of messages"):
        decoder.decode(garbage)


def test_deep_nesting_is_refused_and_not_followed() -> None:
    deep = b"\x91" * 100_000 + b"\x00"
    with pytest.raises(CallerError, match="array of messages"):
        decoder.decode(deep)
    (bad,) = decoder.decode(b"\x91\x82\xa4type\xa4ping\xa1x" + b"\x91" * 500 + b"\x00")
    assert isinstance(bad, BadMessage)


def test_text_that_is_not_utf8_is_one_bad_message() -> None:
    first, bad = decoder.decode(b"\x92" + encode(Ping()) + b"\x82\xa4type\xa5query\xa4what\xa2\xff\xfe")
    assert first == Ping()
    assert isinstance(bad, BadMessage)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_callers_error(content: bytes) -> None:
    with suppress(CallerError):
        assert all(isinstance(message, (Message, BadMessage)) for message in decoder.decode(content))


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(30, 200), st.integers(40, 100))
def test_cutting_into_frames_keeps_order_and_both_limits(brings: list[int], max_bytes: int, max_brings: int) -> None:
    messages = [Cancel(2 ** (position % 60)) for position in range(len(brings))]
    pieces = encode_frames(messages, brings, max_bytes, max_brings)
    back: list[object] = []
    for frame, first, end in pieces:
        assert frame is not None
        assert len(frame) <= max_bytes
        assert sum(brings[first:end]) <= max_brings
        assert len(back) == first
        back += decoder.decode(frame)
        assert len(back) == end
    assert back == messages


def test_a_message_over_the_limit_is_named_and_its_neighbours_are_kept() -> None:
    messages: list[Message] = [Cancel(1), Register(2, "x" * 200, "memfd", 1), Cancel(3), Cancel(4)]
    pieces = encode_frames(messages, [0] * 4, 60, 0)
    assert [(piece.frame is None, piece.first, piece.end) for piece in pieces] == [(False, 0, 1), (True, 1, 2), (False, 2, 4)]


def test_a_frame_brings_no_more_than_it_may() -> None:
    pieces = encode_frames([Cancel(number) for number in range(5)], [1, 1, 1, 2, 0], 1000, 2)
    assert [(piece.first, piece.end) for piece in pieces] == [(0, 2), (2, 3), (3, 5)]


def test_a_frame_is_no_larger_than_it_may_be() -> None:
    message = Cancel(1)
    size = len(encode(message))
    pieces = encode_frames([message] * 7, [0] * 7, 5 + 3 * size, 0)
    assert [(piece.first, piece.end) for piece in pieces] == [(0, 3), (3, 6), (6, 7)]
