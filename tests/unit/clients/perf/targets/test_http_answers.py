# SPDX-License-Identifier: Apache-2.0
"""What is asked of geventhttpclient's parser: answers of HTTP, however they are cut into pieces on their way."""

from __future__ import annotations

import pytest

from penstock.clients.perf.targets.http_answers import HttpAnswer, HTTPParseError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nInference-Header-Content-Length: 2\r\n\r\n{}123"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n{}1\r\n2\r\n23\r\n0\r\nTrailer: x\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.0 200 OK\r\n\r\n{}123"


def fed(stream: bytes, at_once: int = 1000) -> HttpAnswer:
    """What there is of an answer that comes in such pieces."""
    answer = HttpAnswer()
    for place in range(0, len(stream), at_once):
        answer.feed(stream[place : place + at_once])
        answer.check_invariants()
    return answer


@pytest.mark.parametrize("at_once", [1, 2, 7, 1000])
@pytest.mark.parametrize("stream", [PLAIN, CHUNKED, INTERIM])
def test_an_answer_is_complete_with_its_last_byte(stream: bytes, at_once: int) -> None:
    answer = fed(stream[:-1], at_once)
    assert not answer.complete
    answer.feed(stream[-1:])
    assert (answer.complete, answer.status_code, bytes(answer.body), answer.should_close()) == (True, 200, b"{}123", False)


def test_headers_have_any_case_and_a_body_may_be_empty() -> None:
    assert fed(PLAIN).get("inference-header-CONTENT-length") == "2"
    answer = fed(EMPTY)
    assert (answer.complete, answer.status_code, bytes(answer.body), answer.should_close()) == (True, 404, b"", False)


def test_a_body_of_unknown_length_lasts_until_the_connection_ends() -> None:
    answer = fed(UNTIL_THE_END, 3)
    assert not answer.complete
    answer.feed(b"")
    assert answer.complete and bytes(answer.body) == b"{}123" and answer.should_close()


@pytest.mark.parametrize("stream", [PLAIN[:10], PLAIN[:-1], CHUNKED[:-1]])
def test_a_connection_that_ends_in_the_middle_has_no_answer(stream: bytes) -> None:
    answer = fed(stream)
    with pytest.raises(HTTPParseError):
        answer.feed(b"")
    assert not answer.complete


def test_one_that_ends_before_it_has_none_either() -> None:
    assert not fed(b"").complete
    answer = HttpAnswer()
    answer.feed(b"")
    assert not answer.complete


def test_a_server_may_want_no_more_requests_on_a_connection() -> None:
    assert fed(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n")).should_close()


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x06\x04\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        PLAIN.replace(b"5", b"many"),
        PLAIN.replace(b"5", b"-5"),
        PLAIN + PLAIN,
        PLAIN + b"junk",
        CHUNKED.replace(b"3;x=y", b"three"),
    ],
)
def test_what_is_no_answer_is_refused(stream: bytes) -> None:
    with pytest.raises(HTTPParseError):
        fed(stream)
