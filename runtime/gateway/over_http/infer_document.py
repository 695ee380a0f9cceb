# SPDX-License-Identifier: Apache-2.0
"""The JSON of an inference request: read in one typed pass, and only when that fails taken apart to say what is wrong.

The fields are KServe v2's and those of Triton's extensions; others are passed over. Numbers are unsigned 64 bit integers, as
there. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ....ipc.errors import CallerError
from .json_text import MAX_NESTING, NOT_READABLE, anything, brackets_of, check_nesting, refused

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
    except (*NOT_READABLE, RecursionError):
        return read_apart(written)
    if any(size >= UNSIGNED_END for given in document.inputs for size in given.shape):
        return read_apart(written)
    brackets = brackets_of(written)
    if brackets > MAX_NESTING and brackets - sum(brackets_of(bytes(given.data)) for given in document.inputs) > MAX_NESTING:
        check_nesting(written)  # what means nothing may be deeper than is allowed; data is read no deeper than its shape
    return document


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
