# SPDX-License-Identifier: Apache-2.0
"""Multipart messages: a frame and the parts that its messages bring, on their way to a ZeroMQ socket and out of it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .codec import TooLargeError, encode_frame, encode_frames
from .errors import invalid
from .messages import Message


class Outbox:
    """Messages on their way out: put, then encoded into multipart messages, then sent from the front."""

    __slots__ = ("_max_frame_bytes", "_parts", "_queued", "backlog", "multiparts")

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        #: messages put since the last `seal`, and the parts of those that have any, by position
        self._queued: list[Message] = []
        self._parts: dict[int, Sequence[bytes]] = {}
        #: frame and parts, not yet sent
        self.multiparts: deque[list[bytes]] = deque()
        self.backlog = 0

    def __repr__(self) -> str:
        return f"<Outbox {len(self._queued)} messages queued, {len(self.multiparts)} frames of {self.backlog} bytes>"

    def check_invariants(self) -> None:
        """What is counted is what is there."""
        assert self.backlog == sum(map(_bytes_of, self.multiparts)), self
        assert all(position < len(self._queued) for position in self._parts), self

    def put(self, message: Message, fds: Sequence[int], parts: Sequence[bytes]) -> None:
        """Queues a message."""
        if fds:
            raise invalid("ZeroMQ carries message parts, only the local link carries descriptors")
        if parts:
            self._parts[len(self._queued)] = parts
        self._queued.append(message)

    def seal(self) -> None:
        """Makes one frame of everything queued, more where it would be too large. TooLargeError for messages that are."""
        if not self._queued:
            return
        if not self._parts:
            frame = encode_frame(self._queued)
            if len(frame) <= self._max_frame_bytes:
                self._queued.clear()
                self._append([frame])
                return
        queued, parts = self._queued, self._parts
        self._queued, self._parts = [], {}
        too_large: list[Message] = []
        for frame_or_none, first, end in encode_frames(queued, [0] * len(queued), self._max_frame_bytes, 0):
            if frame_or_none is None:
                too_large.append(queued[first])
            else:
                self._append([frame_or_none, *(part for position in range(first, end) for part in parts.get(position, ()))])
        if too_large:
            raise TooLargeError(too_large, self._max_frame_bytes)

    def _append(self, multipart: list[bytes]) -> None:
        self.multiparts.append(multipart)
        self.backlog += _bytes_of(multipart)

    def sent(self) -> None:
        """The first multipart message is on its way."""
        self.backlog -= _bytes_of(self.multiparts.popleft())

    def clear(self) -> None:
        """Forgets everything."""
        self._queued.clear()
        self._parts.clear()
        self.multiparts.clear()
        self.backlog = 0


def _bytes_of(multipart: Sequence[bytes]) -> int:
    return sum(map(len, multipart))


class MultipartLink:
    """What both ends of a ZeroMQ connection share: messages out with their parts, received parts taken in order."""

    __slots__ = ("closed", "outbox", "parts")

    def __init__(self, max_frame_bytes: int) -> None:
        self.outbox = Outbox(max_frame_bytes)
        #: received, in order, not yet taken
        self.parts: list[bytes] = []
        self.closed = False

    def check_invariants(self) -> None:
        """A closed link holds nothing."""
        self.outbox.check_invariants()
        assert not self.closed or not (self.outbox.backlog or self.parts), self

    @property
    def backlog(self) -> int:
        """Bytes accepted and not yet handed to ZeroMQ."""
        return self.outbox.backlog

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """Queues a message until `flush`."""
        self.outbox.put(message, fds, parts)

    def take_parts(self, count: int) -> list[bytes]:
        """The next `count` received parts, in order of arrival. Raises CallerError when fewer arrived."""
        if count > len(self.parts):
            raise invalid(f"{count} message parts are declared, {len(self.parts)} arrived")
        taken = self.parts[:count]
        del self.parts[:count]
        return taken

    def take_fds(self, count: int) -> list[int]:
        """For symmetry with the local link: there are none."""
        if count:
            raise invalid(f"{count} descriptors are declared: only the local link carries them, ZeroMQ carries message parts")
        return []

    def _drop_all(self) -> None:
        """Marks it closed and forgets what was not sent and not taken."""
        self.closed = True
        self.outbox.clear()
        self.parts.clear()
