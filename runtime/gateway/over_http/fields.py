# SPDX-License-Identifier: Apache-2.0
"""Fields of a JSON document, and what Triton's reader (its triton_json.h) says of those that are not what they should be."""

from __future__ import annotations

from typing import Any

from ..ranges import SIZE_MAX
from .json_text import anything, refused


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body is; empty for JSON of another kind. Raises CallerError."""
    document = anything(body)
    return document if isinstance(document, dict) else {}


def member(document: Any, name: str) -> Any:
    """A field that has to be there. Raises CallerError."""
    if not isinstance(document, dict) or name not in document:
        raise refused(f"attempt to access non-existing object member '{name}'")
    return document[name]


def text(value: Any) -> str:
    """A field's text. Raises CallerError."""
    if not isinstance(value, str):
        raise refused("attempt to access JSON non-string as string")
    return value


def boolean(value: Any) -> bool:
    """A field that says yes or no. Raises CallerError."""
    if not isinstance(value, bool):
        raise refused("attempt to access JSON non-boolean as boolean")
    return value


def members(value: Any) -> dict[str, Any]:
    """The fields of a field. Raises CallerError."""
    if not isinstance(value, dict):
        raise refused("attempt to get members for non-object")
    return value


def unsigned(value: Any) -> int:
    """A field's number, from 0 to 2**64 - 1. Raises CallerError."""
    if type(value) is not int or not 0 <= value <= SIZE_MAX:
        raise refused("attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value
