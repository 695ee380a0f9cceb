# SPDX-License-Identifier: Apache-2.0
"""The writing side of a connection: any thread puts messages in, and one at a time sends all that are there as one frame."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from ..ipc.codec import TooLargeError
from ..ipc.errors import CallerError, PenstockError, invalid
from ..ipc.messages import Message
from .links import Link

Outgoing = tuple[Message, Sequence[int], Sequence[bytes]]
"""A message, the descriptors and the parts that go with it."""

UNSPEAKABLE = (OverflowError, UnicodeEncodeError, TypeError)
"""What the codec raises for a value that no message can carry, such as a name with half a surrogate pair in it."""


class Outbox:
    """Messages in the order in which they are sent. A full socket leaves it `stuck`, to be pushed again after a while."""

    def __init__(self, link: Link) -> None:
        self.stuck = False
        self._link = link
        self._sending = threading.Lock()
        self._waiting: deque[Outgoing] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)} waiting{', stuck' if self.stuck else ''}{', closed' if self._closed else ''}>"

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """Queues a message until the next push, this thread's or another's."""
        self._waiting.append((message, fds, parts))

    def put_all(self, messages: Iterable[Outgoing]) -> None:
        """Queues messages that should share a frame."""
        self._waiting.extend(messages)

    def push(self, patient: bool = False) -> list[tuple[Message, PenstockError]]:
        """Sends what is there, unless another thread is sending: that one looks again when it has let go.

        `patient` waits for that thread instead. Returns the messages that could not be sent for reasons of their own.
        Raises LinkClosed, and PenstockError when the connection cannot go on.
        """
        refused: list[tuple[Message, PenstockError]] = []
        while (self._waiting or self.stuck) and self._sending.acquire(blocking=patient):
            try:
                self._send(refused)
            finally:
                self._sending.release()
            if self.stuck:
                break
        return refused

    def _send(self, refused: list[tuple[Message, PenstockError]]) -> None:
        waiting, link = self._waiting, self._link
        if self._closed:
            waiting.clear()
            self.stuck = False
            return
        while waiting:
            message, fds, parts = waiting.popleft()
            try:
                link.put(message, fds, parts)
            except PenstockError as error:  # its descriptors could not be duplicated
                refused.append((message, error))
        try:
            try:
                self.stuck = not link.flush()
            except TooLargeError as error:  # the others are sent: one caller's mistake is not everybody's
                refused += [(message, CallerError(error.message, error.code)) for message in error.messages]
                self.stuck = not link.flush()
        except UNSPEAKABLE as error:  # whose it is cannot be said any more, and the link would try it again for ever
            raise invalid(f"a message cannot be encoded: {error}") from error

    def close(self) -> None:
        """Nothing is sent any more. Waits for a thread that is sending, which never waits for anything."""
        with self._sending:
            self._closed = True
            self._waiting.clear()
            self.stuck = False
