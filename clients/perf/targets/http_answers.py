# SPDX-License-Identifier: Apache-2.0
"""Reading one HTTP/1.1 answer from a stream of bytes (RFC 9112). Pure.

    unread -> space() is filled by the socket -> filled(count) -> None: more is to come | Answer

The body of an answer whose length is known is read to where it stays, without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ....ipc.errors import BrokerError, Code

HEAD_BYTES = 65536
"""More than any server sends before a body."""
END_OF_HEAD = b"\r\n\r\n"


class HttpAnswer(NamedTuple):
    """`headers`: by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytearray
    is_last: bool  # the server takes no more requests on this connection


class AnswerReader:
    """Of one connection. Reads one answer after the other; bytes that come before they are asked for are refused."""

    def __init__(self) -> None:
        self._scratch = bytearray(HEAD_BYTES)
        #: what has been read of the head, or of a body in chunks or of unknown length
        self._text = bytearray()
        self._head: HttpAnswer | None = None  # once it is complete; its body fills up
        self._filled = 0  # so many bytes of a body of known length are there

    def __repr__(self) -> str:
        return f"<AnswerReader {len(self._text)} bytes of a head>" if self._head is None else f"<AnswerReader {self._head[:2]}>"

    def check_invariants(self) -> None:
        """No more of a body than it has."""
        assert self._head is None or self._filled <= len(self._head.body), self

    def space(self) -> memoryview:
        """Where the next bytes of the stream go."""
        if self._head is not None and self._filled < len(self._head.body):
            return memoryview(self._head.body)[self._filled :]
        return memoryview(self._scratch)

    def filled(self, count: int) -> HttpAnswer | None:
        """So many bytes are there. The answer, once it is complete. Raises BrokerError for what is no HTTP."""
        if self._head is not None and self._filled < len(self._head.body):
            self._filled += count
            return self._complete() if self._filled == len(self._head.body) else None
        self._text += memoryview(self._scratch)[:count]
        if self._head is None and not self._read_head():
            return None
        return self._read_body()

    def ended(self) -> HttpAnswer | None:
        """The stream is over: the answer whose body was to last until then."""
        if self._head is None or not self._lasts_until_the_end(self._head):
            return None
        self._head.body[:] = self._text
        self._text.clear()
        return self._complete()

    def _complete(self) -> HttpAnswer:
        found, self._head, self._filled = self._head, None, 0
        assert found is not None
        if self._text:
            raise _nonsense("more than one answer to a request", self._text)
        return found

    def _read_head(self) -> bool:
        end = self._text.find(END_OF_HEAD)
        if end < 0:
            if len(self._text) >= HEAD_BYTES:
                raise _nonsense(f"a head of more than {HEAD_BYTES} bytes", self._text)
            return False
        first, *lines = self._text[:end].decode("latin-1").split("\r\n")
        protocol, _, rest = first.partition(" ")
        if not protocol.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise _nonsense("no HTTP", self._text)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "")
        if length and not length.isdigit():
            raise _nonsense(f"Content-Length '{length}'", self._text)
        closes = headers.get("connection", "keep-alive" if protocol == "HTTP/1.1" else "close").lower() == "close"
        self._head = HttpAnswer(int(rest[:3]), headers, bytearray(int(length or 0)), closes)
        del self._text[: end + len(END_OF_HEAD)]
        return True

    def _read_body(self) -> HttpAnswer | None:
        """What came with the head belongs to the body."""
        head = self._head
        assert head is not None
        if self._lasts_until_the_end(head):
            return None
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunks(head)
        count = min(len(self._text), len(head.body))
        head.body[:count] = self._text[:count]
        del self._text[:count]
        self._filled = count
        return self._complete() if count == len(head.body) else None

    def _read_chunks(self, head: HttpAnswer) -> HttpAnswer | None:
        """Chunks that are there as a whole go to the body; the empty one is the last, and trailers are passed over."""
        while (end := self._text.find(b"\r\n")) >= 0:
            try:
                size = int(self._text[:end].split(b";")[0], 16)
            except ValueError:
                raise _nonsense("a chunk without a size", self._text) from None
            if not size:
                over = self._text.find(END_OF_HEAD, end)
                if over < 0:
                    return None
                del self._text[: over + len(END_OF_HEAD)]
                self._filled = len(head.body)
                return self._complete()
            if len(self._text) < end + 2 + size + 2:
                return None
            head.body.extend(self._text[end + 2 : end + 2 + size])
            self._filled = len(head.body)
            del self._text[: end + 2 + size + 2]
        return None

    @staticmethod
    def _lasts_until_the_end(head: HttpAnswer) -> bool:
        return "content-length" not in head.headers and "transfer-encoding" not in head.headers and head.status != 204


def _nonsense(what: str, text: bytearray) -> BrokerError:
    return BrokerError(f"the server's answer makes no sense: {what}: {bytes(text[:60])!r}", Code.INTERNAL)
