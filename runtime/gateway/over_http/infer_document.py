# SPDX-License-Identifier: Apache-2.0
"""The JSON of an inference request: read in one typed pass, and only when that fails taken apart to say what is wrong.

The fields are KServe v2's and those of Triton's extensions; others are passed over. Numbers are unsigned 64 bit integers, as
there. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isinf
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ....ipc.errors import CallerError, Code

MAX_NESTING = 100  # Triton's
Unsigned = Annotated[int, Meta(ge=0)]
UNSIGNED_END = 2**64


class Region(Struct, frozen=True):
    """Where a tensor lies, if that is in a region: parameters of an input or an output."""

    shared_memory_region: str | UnsetType = UNSET
    shared_memory_byte_size: Unsigned = 0
    shared_memory_offset: Unsigned = 0


class InputParameters(Region, frozen=True):
    """Parameters of an input that mean something."""

    binary_data_size: Unsigned | UnsetType = UNSET


class OutputParameters(Region, frozen=True):
    """Parameters of an output that mean something."""

    binary_data: bool | UnsetType = UNSET
    classification: Unsigned | UnsetType = UNSET


NO_INPUT_PARAMETERS = InputParameters()
NO_OUTPUT_PARAMETERS = OutputParameters()
NO_DATA = Raw(b"")
NOT_READABLE = (msgspec.MsgspecError, UnicodeDecodeError)


class GivenInput(Struct, frozen=True):
    """An input. `data` as it was written; empty: there is none."""

    name: str
    datatype: str
    shape: list[Unsigned]
    parameters: InputParameters = NO_INPUT_PARAMETERS
    data: Raw = NO_DATA

    @property
    def has_data(self) -> bool:
        return len(self.data) > 0


class WantedOutput(Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = NO_OUTPUT_PARAMETERS


class Document(Struct, frozen=True):
    """A request."""

    inputs: list[GivenInput]
    outputs: list[WantedOutput] = []
    id: str = ""
    parameters: dict[str, Any] = {}


class ReadInput(GivenInput, frozen=True):
    """An input of a document that was taken apart: its data is read already."""

    values: Any = None
    is_given: bool = False

    @property
    def has_data(self) -> bool:
        return self.is_given


_decoder = msgspec.json.Decoder(Document)


def read(written: bytes) -> Document:
    """A request's document. Raises CallerError in Triton's words (INTERNAL, as Triton answers them).

    What is in `data` is not looked at yet, but for being JSON.
    """
    try:
        document = _decoder.decode(written)
    except NOT_READABLE:
        return read_apart(written)
    except RecursionError:
        raise _nested_too_deeply() from None
    if any(size >= UNSIGNED_END for given in document.inputs for size in given.shape):
        return read_apart(written)
    brackets = _brackets(written)
    if brackets > MAX_NESTING and brackets - sum(_brackets(bytes(given.data)) for given in document.inputs) > MAX_NESTING:
        return read_apart(written)  # something that means nothing may be nested deeper than is allowed
    return document


def _brackets(written: bytes) -> int:
    return written.count(b"[") + written.count(b"{")


def read_apart(written: bytes) -> Document:
    """As `read`, field by field and with all data read: finds what is wrong first, in Triton's order, and answers that."""
    document = anything(written)
    name = _checked(document, "id", text) if _has(document, "id") else ""
    parameters = document["parameters"] if _has(document, "parameters") else {}
    if type(parameters) is not dict:
        raise refused("failed to get request params.: attempt to get members for non-object")
    inputs: list[GivenInput] = [_input(given) for given in _checked(document, "inputs", array)]
    outputs = _checked(document, "outputs", array) if _has(document, "outputs") else []
    return Document(inputs, [_output(wanted) for wanted in outputs], name, parameters)


def refused(message: str) -> CallerError:
    """A document that is not as it should be: INTERNAL in Triton."""
    return CallerError(message, Code.INTERNAL)


# --- JSON text ----------------------------------------------------------------------------------------------------------------

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


def anything(written: bytes) -> Any:
    """A JSON text, as Triton reads it: NaN, Infinity and -Infinity are numbers. Raises CallerError, with the place."""
    try:
        try:
            document = msgspec.json.decode(written)
        except NOT_READABLE:
            document = _read_with_care(written)
        _check_nesting(document)
    except RecursionError:
        raise _nested_too_deeply() from None
    return document


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


def _check_nesting(document: Any) -> None:
    level = [document] if type(document) in (list, dict) else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise _nested_too_deeply()
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (list, dict)
        ]


# --- taken apart --------------------------------------------------------------------------------------------------------------


def _input(given: Any) -> ReadInput:
    region = _region(given)
    said = _parameters(given)
    size = _checked(said, "binary_data_size", unsigned) if "binary_data_size" in said else UNSET
    parameters = InputParameters(*region, size)
    if not _has(given, "data") and size is UNSET and parameters.shared_memory_region is UNSET:
        return ReadInput("", "", [], parameters)  # without a source, which is what Triton says first
    name, datatype = _checked(given, "name", text), _checked(given, "datatype", text)
    shape = [unsigned(size, "shape") for size in _checked(given, "shape", array)]
    return ReadInput(name, datatype, shape, parameters, values=given.get("data"), is_given="data" in given)


def _output(wanted: Any) -> WantedOutput:
    name = _checked(wanted, "name", text)
    said = _parameters(wanted)
    region = _region(wanted)
    choice = unsigned(said["classification"], "classification", "Unable to set") if "classification" in said else UNSET
    is_binary = _checked(said, "binary_data", boolean) if "binary_data" in said else UNSET
    return WantedOutput(name, OutputParameters(*region, is_binary, choice))


def _region(tensor: Any) -> tuple[str | UnsetType, int, int]:
    given = _parameters(tensor)
    region = _checked(given, "shared_memory_region", text) if "shared_memory_region" in given else UNSET
    sizes = [
        _checked(given, key, unsigned) if key in given else 0 for key in ("shared_memory_byte_size", "shared_memory_offset")
    ]
    return region, sizes[0], sizes[1]


def _parameters(tensor: Any) -> dict[str, Any]:
    """Those of an input or an output: Triton passes over what is no object."""
    found = tensor.get("parameters") if type(tensor) is dict else None
    return found if type(found) is dict else {}


def _has(value: Any, member: str) -> bool:
    return type(value) is dict and member in value


def _checked(value: Any, member: str, kind: Callable[[Any, str], Any]) -> Any:
    if not _has(value, member):
        raise refused(f"Unable to parse '{member}': attempt to access non-existing object member '{member}'")
    return kind(value[member], member)


def text(value: Any, field: str) -> str:
    """A string. Raises CallerError, as the following."""
    if type(value) is not str:
        raise _wrong(field, "string", "string")
    return value


def boolean(value: Any, field: str) -> bool:
    """A boolean."""
    if type(value) is not bool:
        raise _wrong(field, "boolean", "boolean")
    return value


def unsigned(value: Any, field: str, verb: str = "Unable to parse") -> int:
    """An unsigned integer of 64 bits."""
    if type(value) is not int or not 0 <= value < UNSIGNED_END:
        raise _wrong(field, "unsigned-integer", "unsigned-integer", verb)
    return value


def array(value: Any, field: str) -> list[Any]:
    """An array."""
    if type(value) is not list:
        raise _wrong(field, "array", "array")
    return value


def _wrong(field: str, kind: str, wanted: str, verb: str = "Unable to parse") -> CallerError:
    return refused(f"{verb} '{field}': attempt to access JSON non-{kind} as {wanted}")
