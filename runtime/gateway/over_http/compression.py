# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies, both ways: gzip and deflate (RFC 9110 section 8.4.1), as Triton takes and gives them. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ....ipc.errors import CallerError, invalid
from ..requests import Bytes

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's window bits for each coding, by the spelling that Triton takes."""
ACCEPTED = ", ".join(WINDOWS)
LEVEL = 1  # the fastest: the peers are on this machine


class OverflowingError(Exception):
    """More than was allowed came out of a compressed body."""


def inflated(body: bytes, coding: str, limit: int) -> bytes:
    """A body without its coding. Raises OverflowingError beyond `limit` bytes, having made no more of them; CallerError."""
    if not body:
        raise invalid("nothing to be decompressed")
    inflater = zlib.decompressobj(WINDOWS[coding])
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _broken(coding, str(error)) from None
    if len(content) > limit:
        raise OverflowingError
    if not inflater.eof:
        raise _broken(coding, "it ends early")
    return content


def _broken(coding: str, why: str) -> CallerError:
    return invalid(f"failed to decompress the request body ('{coding}'): {why}")


def deflated(body: Sequence[Bytes], coding: str) -> bytes:
    """A body in a coding."""
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOWS[coding])
    return b"".join([*(deflater.compress(piece) for piece in body), deflater.flush()])


def wanted_coding(accepts: str | None) -> str | None:
    """What a client that sends this Accept-Encoding prefers; None: no coding. The first of those with the highest weight."""
    best: str | None = None
    highest = 0.0
    for choice in (accepts or "").split(","):
        name, *parameters = (part.strip() for part in choice.split(";"))
        weight = _weight(parameters)
        if weight > highest and (name in WINDOWS or name == "identity"):
            best, highest = name, weight
    return best if best in WINDOWS else None


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
