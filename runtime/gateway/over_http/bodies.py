# SPDX-License-Identifier: Apache-2.0
"""The body of a request: how large it may be, and what its coding is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ....ipc.errors import CallerError, invalid
from .compression import ACCEPTED, WINDOWS, OverflowingError, inflated
from .exchange import of_message
from .infer_request import LENGTH_HEADER

_refusal = of_message(501, "Unsupported compression type")
UNSUPPORTED_CODING = _refusal._replace(headers={**_refusal.headers, "Accept-Encoding": ACCEPTED})


def coding_of(headers: Mapping[str, str]) -> str:
    """The body's coding, or "identity"."""
    return headers.get("Content-Encoding", "identity")


def is_known(coding: str) -> bool:
    """Whether a body in this coding can be read. Triton takes no other spelling of them."""
    return coding == "identity" or coding in WINDOWS


def plain(body: bytes, coding: str, headers: Mapping[str, str], limit: int) -> bytes:
    """The body without its coding. Raises CallerError, beyond the limit too."""
    if coding == "identity":
        return body
    try:
        return inflated(body, coding, limit)
    except OverflowingError:
        raise too_large(headers, f"more than {limit}", limit) from None


def too_large(headers: Mapping[str, str], size: object, limit: int) -> CallerError:
    """A body that is larger than is allowed."""
    what = f"request JSON size of {size} bytes exceeds"
    before = headers.get(LENGTH_HEADER)
    if before is not None:
        what = f"Raw input has a byte_size ({size}) that exceeds" if before == "0" else f"request size of {size} bytes exceeds"
    return invalid(f"{what} the maximum allowed input size of {limit} bytes. Use --http-max-input-size to increase the limit.")
