# SPDX-License-Identifier: Apache-2.0
"""Bodies of HTTP requests and responses: codings both ways, and how large they may be."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ipc.errors import CallerError
from penstock.runtime.gateway.over_http.bodies import UNSUPPORTED_CODING, coding_of, is_known, plain
from penstock.runtime.gateway.over_http.compression import OverflowingError, deflated, inflated, wanted_coding
from penstock.runtime.gateway.over_http.infer_request import LENGTH_HEADER

LIMIT = 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(pieces=st.lists(st.binary(min_size=1), min_size=1))
def test_a_body_comes_through_a_coding(coding: str, pieces: list[bytes]) -> None:
    assert inflated(deflated(pieces, coding), coding, 1 << 20) == b"".join(pieces)


def test_codings_are_those_of_the_world() -> None:
    assert gzip.decompress(deflated([b"body"], "gzip")) == zlib.decompress(deflated([b"body"], "deflate")) == b"body"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_is_inflated_up_to_the_limit(coding: str) -> None:
    assert len(inflated(deflated([bytes(LIMIT)], coding), coding, LIMIT)) == LIMIT
    with pytest.raises(OverflowingError):
        inflated(deflated([bytes(LIMIT + 1)], coding), coding, LIMIT)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "nothing to be decompressed"),
        (b"no gzip", "failed to decompress the request body ('gzip'): Error -3"),
        (gzip.compress(bytes(100))[:-1], "failed to decompress the request body ('gzip'): it ends early"),
    ],
)
def test_a_body_that_cannot_be_inflated_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(CallerError) as caught:
        inflated(body, "gzip", LIMIT)
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ({}, "request JSON size of more than 1000 bytes exceeds"),
        ({LENGTH_HEADER: "0"}, "Raw input has a byte_size (more than 1000) that exceeds"),
        ({LENGTH_HEADER: "10"}, "request size of more than 1000 bytes exceeds"),
    ],
)
def test_a_bomb_is_answered_as_a_large_body(headers: dict[str, str], what: str) -> None:
    # Given a few bytes that would become a hundred megabytes
    bomb = deflated([bytes(1 << 20)] * 100, "gzip")
    # When it is inflated
    with pytest.raises(CallerError) as caught:
        plain(bomb, "gzip", headers, LIMIT)
    # Then it is refused, as one that was sent as it is
    assert caught.value.message == (
        f"{what} the maximum allowed input size of 1000 bytes. Use --http-max-input-size to increase the limit."
    )


@pytest.mark.parametrize("coding", ["br", "GZIP", "gzip, deflate", "", "zstd"])
def test_other_codings_are_not_known(coding: str) -> None:
    assert not is_known(coding_of({"Content-Encoding": coding}))


def test_who_sends_another_coding_is_told_which_there_are() -> None:
    assert (UNSUPPORTED_CODING.status, b"".join(UNSUPPORTED_CODING.body)) == (501, b'{"error":"Unsupported compression type"}')
    assert UNSUPPORTED_CODING.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "identity"}])
def test_a_body_without_a_coding_is_what_it_is(headers: dict[str, str]) -> None:
    body = b"body"
    assert plain(body, coding_of(headers), headers, 0) is body


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("br, gzip", "gzip"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("gzip;q=0.5,deflate;q=0.5", "gzip"),
        ("gzip;q=0.5, identity;q=0.9", None),
        ("identity", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=abc", None),
        ("gzip; q=0.1", "gzip"),
        ("*", None),
        ("br", None),
    ],
)
def test_the_coding_with_the_highest_weight_is_wanted(accepts: str | None, coding: str | None) -> None:
    assert wanted_coding(accepts) == coding
