# SPDX-License-Identifier: Apache-2.0
"""Fields of a JSON document, and what Triton's reader (its triton_json.h) says of those that are not what they should be."""

from __future__ import annotations

from typing import Any

import msgspec

from ....ipc.errors import CallerError, Code
from ..ranges import SIZE_MAX


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body is; empty for JSON of another kind. Raises CallerError."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "The document is empty. at 0" if not body.strip() else str(error)
        raise _wrong(f"failed to parse the request JSON buffer: {why}") from error
    return document if isinstance(document, dict) else {}


def member(document: Any, name: str) -> Any:
    """A field that has to be there. Raises CallerError."""
    if not isinstance(document, dict) or name not in document:
        raise _wrong(f"attempt to access non-existing object member '{name}'")
    return document[name]


def text(value: Any) -> str:
    """A field's text. Raises CallerError."""
    if not isinstance(value, str):
        raise _wrong("attempt to access JSON non-string as string")
    return value


def boolean(value: Any) -> bool:
    """A field that says yes or no. Raises CallerError."""
    if not isinstance(value, bool):
        raise _wrong("attempt to access JSON non-boolean as boolean")
    return value


def members(value: Any) -> dict[str, Any]:
    """The fields of a field. Raises CallerError."""
    if not isinstance(value, dict):
        raise _wrong("attempt to get members for non-object")
    return value


def unsigned(value: Any) -> int:
    """A field's number, from 0 to 2**64 - 1. Raises CallerError."""
    if type(value) is not int or not 0 <= value <= SIZE_MAX:
        raise _wrong("attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value


def _wrong(message: str) -> CallerError:
    return CallerError(message, Code.INTERNAL)
