# SPDX-License-Identifier: Apache-2.0
"""One HTTP request and its response, as the routes see them: whatever server carries them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ....ipc.errors import Code, PenstockError
from ..callers import Caller
from ..requests import Bytes

STATUS = {
    Code.INTERNAL: 500, Code.NOT_FOUND: 404, Code.UNAVAILABLE: 503, Code.UNSUPPORTED: 501, Code.OVERLOADED: 503,
    Code.DEADLINE_EXCEEDED: 503,
}  # fmt: skip
"""Triton's (server/src/http_server.cc); any other code is 400."""

JSON = {"Content-Type": "application/json"}
NOTHING: Mapping[str, str] = {}


class Call(NamedTuple):
    """A request. `headers`: by any spelling of their names. `path` without query, its percent-escapes as they came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    caller: Caller


class Response(NamedTuple):
    """A response. `body`: pieces that are sent one after the other, and are not joined where they are large."""

    status: int = 200
    headers: Mapping[str, str] = NOTHING
    body: Sequence[Bytes] = ()


def of_json(document: Any) -> Response:
    """A JSON document, without blanks as Triton writes it."""
    return Response(200, JSON, (msgspec.json.encode(document),))


def of_error(error: PenstockError) -> Response:
    """An error as Triton answers it."""
    return of_message(STATUS.get(error.code, 400), error.message)


def of_message(status: int, message: str) -> Response:
    """A refusal in the form of Triton's. What it quotes may be a header's bytes that are no text: JSON has "?" for them."""
    message = message.encode(errors="replace").decode()
    return Response(status, JSON, (msgspec.json.encode({"error": message}),))
