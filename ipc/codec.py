# SPDX-License-Identifier: Apache-2.0
"""Frames: MessagePack arrays of messages. Pure; bytes in, messages out.

A frame is decoded in one typed pass. Only when that fails is it taken apart message by message, so that one bad message
costs itself and not its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from .errors import CallerError, Code, invalid
from .messages import Message

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest frame a broker takes by default. A request is a few hundred bytes: this is thousands of them."""

MAX_BAD_MESSAGES = 256
"""A frame with more malformed messages is garbage: answering each of a million would keep a broker busy for seconds."""
MAX_TAKEN_APART = 65536
"""Most messages of a frame that is not well-formed throughout. Those of one that is are limited by its bytes alone."""

_ARRAY_HEADER_BYTES = 5  # at most: MessagePack's array 32

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_raw_frame = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_TAKEN_APART)])
_anything = msgspec.msgpack.Decoder()
_NOT_DECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that could not be decoded: why, the id it carried where that could be read, and what it brought along."""

    reason: str
    id: int | None = None
    fds: int = 0
    parts: int = 0


def encode_frame(messages: Sequence[Message]) -> bytes:
    """One frame with these messages, in order."""
    return _encoder.encode(messages)


def encode(value: Any) -> bytes:
    """One value; for the fields that are kept encoded (`Raw`)."""
    return _encoder.encode(value)


class Piece(NamedTuple):
    """A frame with the messages `first` to `end` of a list. `frame` None: message `first` alone is over the limit."""

    frame: bytes | None
    first: int
    end: int


def encode_frames(messages: Sequence[Message], brings: Sequence[int], max_bytes: int, max_brings: int) -> list[Piece]:
    """Frames with all these messages, in order, none larger than `max_bytes`, none bringing more than `max_brings` things.

    `brings` says how many descriptors or parts go with each message; none brings more than `max_brings` by itself.
    """
    pieces: list[Piece] = []
    group: list[msgspec.Raw] = []
    first, size, brought = 0, _ARRAY_HEADER_BYTES, 0
    for at, message in enumerate(messages):
        raw = msgspec.Raw(_encoder.encode(message))
        fits = size + len(raw) <= max_bytes and brought + brings[at] <= max_brings
        if group and not fits:
            pieces.append(Piece(_encoder.encode(group), first, at))
            group, first, size, brought = [], at, _ARRAY_HEADER_BYTES, 0
        if _ARRAY_HEADER_BYTES + len(raw) > max_bytes:
            pieces.append(Piece(None, at, at + 1))
            first = at + 1
            continue
        group.append(raw)
        size += len(raw)
        brought += brings[at]
    if group:
        pieces.append(Piece(_encoder.encode(group), first, len(messages)))
    return pieces


class TooLargeError(CallerError):
    """Messages that by themselves exceed the frame limit were dropped; what else was to be sent is on its way."""

    def __init__(self, messages: Sequence[Message], max_bytes: int) -> None:
        kind = type(messages[0]).__name__
        super().__init__(f"a {kind} message exceeds the frame limit of {max_bytes} bytes; it is dropped", Code.INVALID_ARG)
        self.messages = messages


class FrameDecoder(Generic[M]):
    """Decodes frames that hold messages of one union (FromClient, ToClient, ToWorker, FromWorker)."""

    def __init__(self, union: Any) -> None:
        self._whole = msgspec.msgpack.Decoder(list[union])
        self._single = msgspec.msgpack.Decoder(union)

    def decode(self, frame: bytes | bytearray | memoryview) -> Sequence[M | BadMessage]:
        """The frame's messages in order; a BadMessage in the place of each that does not fit.

        Raises CallerError (INVALID_ARG) when the frame is not an array, or more than MAX_BAD_MESSAGES do not fit.
        """
        try:
            messages: Sequence[M | BadMessage] = self._whole.decode(frame)
        except _NOT_DECODABLE:
            return self._one_by_one(frame)
        return messages

    def _one_by_one(self, frame: bytes | bytearray | memoryview) -> Sequence[M | BadMessage]:
        try:
            raws = _raw_frame.decode(frame)
        except _NOT_DECODABLE as error:
            raise _not_a_frame(error) from None
        messages: list[M | BadMessage] = []
        bad = 0
        for raw in raws:
            try:
                messages.append(self._single.decode(raw))
            except _NOT_DECODABLE as error:
                bad += 1
                if bad > MAX_BAD_MESSAGES:
                    raise invalid(f"more than {MAX_BAD_MESSAGES} messages of a frame are malformed: {_reason(error)}") from None
                messages.append(_bad_message(raw, error))
        return messages


def _not_a_frame(error: Exception) -> CallerError:
    return invalid(f"a frame must be a MessagePack array of messages: {_reason(error)}")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _bad_message(raw: msgspec.Raw, error: Exception) -> BadMessage:
    try:
        value = _anything.decode(raw)
    except _NOT_DECODABLE:
        return BadMessage(_reason(error))
    if not isinstance(value, dict):
        return BadMessage(_reason(error))
    return BadMessage(
        _reason(error), _number(value.get("id"), None), _number(value.get("fds"), 0), _number(value.get("parts"), 0)
    )


def _number(value: object, otherwise: Any) -> Any:
    return value if type(value) is int and 0 <= value < 2**63 else otherwise
