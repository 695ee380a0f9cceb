# SPDX-License-Identifier: Apache-2.0
"""Answers of HTTP, however they are cut into pieces on their way."""

from __future__ import annotations

import pytest

from penstock.clients.perf.targets.http_answers import HEAD_BYTES, AnswerReader, HttpAnswer
from penstock.ipc.errors import BrokerError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nInference-Header-Content-Length: 2\r\n\r\n{}123"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n{}1\r\n2\r\n23\r\n0\r\nTrailer: x\r\n\r\n"
EMPTY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.0 200 OK\r\n\r\n{}123"


def fed(reader: AnswerReader, stream: bytes, at_once: int) -> list[HttpAnswer]:
    """What the reader makes of a stream that comes in such pieces."""
    found = []
    while stream:
        space = reader.space()
        count = min(at_once, len(space), len(stream))
        space[:count], stream = stream[:count], stream[count:]
        answer = reader.filled(count)
        reader.check_invariants()
        found += [] if answer is None else [answer]
    return found


@pytest.mark.parametrize("at_once", [1, 2, 7, 1000])
@pytest.mark.parametrize("stream", [PLAIN, CHUNKED])
def test_an_answer_is_complete_with_its_last_byte(stream: bytes, at_once: int) -> None:
    reader = AnswerReader()
    assert fed(reader, stream[:-1], at_once) == []
    (answer,) = fed(reader, stream[-1:], at_once)
    assert (answer.status, bytes(answer.body), answer.is_last) == (200, b"{}123", False)


@pytest.mark.parametrize("at_once", [1, 1000])
def test_one_connection_has_many_answers(at_once: int) -> None:
    reader = AnswerReader()
    found = [fed(reader, stream, at_once)[0] for stream in (PLAIN, EMPTY, CHUNKED, PLAIN)]
    assert [(answer.status, len(answer.body)) for answer in found] == [(200, 5), (404, 0), (200, 5), (200, 5)]
    assert found[0].headers["inference-header-content-length"] == "2"


def test_a_body_of_unknown_length_lasts_until_the_connection_ends() -> None:
    reader = AnswerReader()
    assert fed(reader, UNTIL_THE_END, 3) == []
    answer = reader.ended()
    assert answer is not None and bytes(answer.body) == b"{}123" and answer.is_last


@pytest.mark.parametrize("stream", [b"", PLAIN[:10], PLAIN[:-1], CHUNKED[:-1]])
def test_a_connection_that_ends_in_the_middle_has_no_answer(stream: bytes) -> None:
    reader = AnswerReader()
    assert fed(reader, stream, 1000) == []
    assert reader.ended() is None


def test_a_server_may_want_no_more_requests_on_a_connection() -> None:
    (answer,) = fed(AnswerReader(), PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"), 1000)
    assert answer.is_last


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"\x00\x00\x06\x04\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "no HTTP"),
        (PLAIN.replace(b"5", b"many"), "Content-Length 'many'"),
        (PLAIN + PLAIN, "more than one answer to a request"),
        (CHUNKED.replace(b"3;x=y", b"three"), "a chunk without a size"),
        (b"x" * HEAD_BYTES, f"a head of more than {HEAD_BYTES} bytes"),
    ],
)
def test_what_is_no_answer_is_said_to_be_none(stream: bytes, said: str) -> None:
    with pytest.raises(BrokerError, match=said):
        fed(AnswerReader(), stream, 10**6)
