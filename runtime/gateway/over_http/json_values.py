# SPDX-License-Identifier: Apache-2.0
"""JSON that came with a request: parsed, and each value taken as what it must be. Sentences and codes are Triton's. Pure.

Triton calls a body that is no JSON, and a value of another type, INTERNAL errors (common/include/triton/common/triton_json.h).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ....ipc.errors import CallerError, Code, invalid


def document_of(body: bytes) -> dict[str, Any]:
    """The object in a body; an empty one for none. Raises CallerError."""
    if not body:
        return {}
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CallerError(f"failed to parse the request JSON buffer: {error}", Code.INTERNAL) from error
    except RecursionError as error:
        raise invalid("JSON nesting depth exceeds maximum allowed limit (100)") from error
    return object_of(found)


def object_of(value: Any) -> dict[str, Any]:
    """Raises CallerError unless it is one."""
    if not isinstance(value, dict):
        raise CallerError("attempt to access JSON non-object as object", Code.INTERNAL)
    return value


def string_of(value: Any) -> str:
    """Raises CallerError unless it is one."""
    if not isinstance(value, str):
        raise CallerError("attempt to access JSON non-string as string", Code.INTERNAL)
    return value


def boolean_of(value: Any) -> bool:
    """Raises CallerError unless it is one."""
    if not isinstance(value, bool):
        raise CallerError("attempt to access JSON non-boolean as boolean", Code.INTERNAL)
    return value
