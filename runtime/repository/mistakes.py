# SPDX-License-Identifier: Apache-2.0
"""protobuf's complaints about a text, in words that help: the file and place, the key, what it takes, and the likely remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from ...ipc.errors import CallerError, invalid
from . import schema
from .fields import Status, rule_of
from .schema import Proto, TextError

_KEY = re.compile(r"([A-Za-z_]\w*)\s*(?::|(?=[{<\[]))")
_ALIASES = {
    "FLOAT": "FP32", "FLOAT32": "FP32", "DOUBLE": "FP64", "FLOAT64": "FP64", "HALF": "FP16", "FLOAT16": "FP16",
    "BFLOAT16": "BF16", "INT": "INT32", "LONG": "INT64", "BYTES": "STRING", "STR": "STRING", "BOOLEAN": "BOOL",
}  # fmt: skip
"""What other systems call Triton's datatypes."""


class _Mistake(NamedTuple):
    found: tuple[str, ...]  # what the pattern found in protobuf's sentence
    key: str  # the last key before the place
    rest: str  # the line from the place on


def parse(text: str, file: str) -> Proto:
    """The ModelConfig of a text. Raises CallerError that begins with FILE:LINE:COLUMN."""
    try:
        return schema.parse_text(text)
    except TextError as error:
        raise _explained(error, text, file) from None


def _explained(error: TextError, text: str, file: str) -> CallerError:
    lines = text.split("\n")
    before = "\n".join([*lines[: error.line - 1], lines[error.line - 1][: error.column - 1]])
    keys = _KEY.findall(re.sub(r"#[^\n]*", "", before))
    rest = lines[error.line - 1][error.column - 1 :]
    sentence = error.reason
    for pattern, explain in _EXPLANATIONS:
        match = re.fullmatch(pattern, error.reason, re.DOTALL)
        if match:
            sentence = explain(_Mistake(match.groups(), keys[-1] if keys else "", rest))
            break
    return invalid(f"{file}:{error.line}:{error.column}: {sentence}")


def _unknown_key(mistake: _Mistake) -> str:
    message, key = mistake.found
    known = schema.keys_of(message)
    owner = next((field.path for field in schema.schema_fields() if field.message == message), "")
    where = f" in {owner}" if owner else ""
    near = difflib.get_close_matches(key, known, 1, 0.7)
    if near:
        return f"unknown key '{key}'{where}; did you mean '{near[0]}'?"
    owners = [field.path.rpartition(".")[0] for field in schema.schema_fields() if field.path.rpartition(".")[2] == key]
    owners = [owner for owner in owners if owner and rule_of(f"{owner}.{key}").status is not Status.REFUSED]
    if owners:
        return f"unknown key '{key}'{where}; it belongs inside {' or '.join(owners)}"
    return f"unknown key '{key}'{where}; known are {', '.join(known)}"


def _unknown_value(mistake: _Mistake) -> str:
    enum, value = mistake.found
    known = schema.values_of(enum)
    bare = value.upper().removeprefix("TYPE_")
    candidate = f"TYPE_{_ALIASES.get(bare, bare)}"
    near = [candidate] if candidate in known else difflib.get_close_matches(value.upper(), known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"'{value}' is not a value of key '{mistake.key}'; {hint}Known are {', '.join(known)}"


def _not_an_integer(mistake: _Mistake) -> str:
    value = mistake.found[0]
    if "$" in mistake.rest:
        fix = "; a placeholder of a template was not filled in"
    else:
        fix = "; remove the quotes" if value[:1] in ("'", '"') else ""
    return f"key '{mistake.key}' takes an integer, got {value}{fix}"


def _not_text(mistake: _Mistake) -> str:
    value = mistake.found[0].strip("'\"")
    word = re.match(r"[\w./-]+", value)
    fix = f'; write "{word.group()}"' if word else "; quotes must be the plain ones, \" or '"
    return f"key '{mistake.key}' takes text in quotes, got {value}{fix}"


def _expected_sign(mistake: _Mistake) -> str:
    sign, got = mistake.found[0], mistake.rest.split(" ", maxsplit=1)[0].strip()
    if sign == "{":
        return f"key '{mistake.key}' takes a block in braces, {{ ... }}, got {got or 'the end of the file'}"
    if sign in ("}", ">"):
        return f"a block is not closed: '{sign}' is missing after this"
    if sign == ",":
        return f"the list of key '{mistake.key}' is not closed: expected ',' or ']', got {got or 'the end of the line'}"
    return f"expected '{sign}', got {got or 'the end of the line'}"


_EXPLANATIONS: list[tuple[str, Callable[[_Mistake], str]]] = [
    (r'Message type "([\w.]+)" has no field named "(.*)"\.', _unknown_key),
    (r'Enum type "([\w.]+)" has no value named (.*)\.', _unknown_value),
    (r"Couldn't parse integer: (.*)", _not_an_integer),
    (r"Value out of range: (.*)", lambda m: f"{m.found[0]} is out of range for key '{m.key}'"),
    (r"Expected string but found: (.*)", _not_text),
    (r"String missing ending quote: .*", lambda m: f"the text of key '{m.key}' has no closing quote on its line"),
    (r'Expected "([{}<>,:])"\.', _expected_sign),
    (r'Expected "true" or "false"\.', lambda m: f"key '{m.key}' takes true or false, got {m.rest.split(' ')[0]}"),
    (
        r'Message type "[\w.]+" should not have multiple "(\w+)" fields\.',
        lambda m: f"key '{m.found[0]}' is written twice, and takes one value; keep one",
    ),
    (
        r'Field "(\w+)" is specified along with field "(\w+)", another member of oneof .*',
        lambda m: f"'{m.found[0]}' and '{m.found[1]}' exclude each other; keep one",
    ),
    (r"Expected identifier or number, got (.*)\.", lambda m: f"expected a key, got {m.found[0]}"),
]
"""Pattern of protobuf's sentence (text_format.py) -> ours. A sentence that none matches is given as it is."""
