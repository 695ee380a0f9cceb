# SPDX-License-Identifier: Apache-2.0
"""JSON texts as Triton reads them, and what its reader (RapidJSON) says of those that it cannot. Pure."""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any

import msgspec
import numpy as np

from ....ipc.errors import CallerError, Code

MAX_NESTING = 100  # Triton's
NOT_READABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_RAPIDJSON = {
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or a closing bracket.",
    "Expecting value": "Invalid value.",
    "Extra data": "The document root must not be followed by other values.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid escape character in string.",
}
"""What json says, in the words of RapidJSON (rapidjson/error/en.h), which Triton reads JSON with."""


def refused(message: str) -> CallerError:
    """A document that is not as it should be: INTERNAL in Triton."""
    return CallerError(message, Code.INTERNAL)


def anything(written: bytes) -> Any:
    """A JSON text: NaN, Infinity and -Infinity are numbers. Raises CallerError, with the place."""
    check_nesting(written)
    try:
        return msgspec.json.decode(written)
    except NOT_READABLE:
        return _read_with_care(written)
    except RecursionError:
        raise _nested_too_deeply() from None


def check_nesting(written: bytes) -> None:
    """Raises CallerError for a text that is nested deeper than is allowed. Makes no objects of it: they may be many."""
    if brackets_of(written) <= MAX_NESTING:
        return
    brackets = np.frombuffer(_STRING.sub(b"", written).translate(None, _NO_BRACKETS), np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    if np.cumsum(np.where(opens, np.int8(1), np.int8(-1)), dtype=np.int32).max(initial=0) > MAX_NESTING:
        raise _nested_too_deeply()


def brackets_of(written: bytes) -> int:
    """How many arrays and objects a text has at most."""
    return written.count(b"[") + written.count(b"{")


def _read_with_care(written: bytes) -> Any:
    try:
        characters = written.decode()
    except UnicodeDecodeError as error:
        raise _malformed("Invalid encoding in string.", error.start) from None

    def real(digits: str) -> float:
        number = float(digits)
        if isinf(number):
            raise _malformed("Number too big to be stored in double.", len(characters.partition(digits)[0].encode()))
        return number

    try:
        document = json.loads(characters, parse_float=real)
        json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        said = _RAPIDJSON.get(error.msg.removesuffix(": "), error.msg)
        if not characters.strip():
            said = "The document is empty."
        raise _malformed(said, len(characters[: error.pos].encode())) from None
    except UnicodeEncodeError:  # half a pair of surrogates, escaped
        raise _malformed("The surrogate pair in string is invalid.", written.lower().index(b"\\ud")) from None
    return document


def _malformed(what: str, place: int) -> CallerError:
    return refused(f"failed to parse the request JSON buffer: {what} at {place}")


def _nested_too_deeply() -> CallerError:
    return refused(f"JSON nesting depth exceeds maximum allowed limit ({MAX_NESTING})")
