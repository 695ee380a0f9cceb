# SPDX-License-Identifier: Apache-2.0
"""Tensors as JSON: the `data` of inputs and outputs, to and from the bytes that KServe's binary tensor data has. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from ....ipc.errors import CallerError, invalid
from ....ipc.tensors import FLOATING, deserialize_bytes, elements, numpy_dtype, serialize_bytes
from ..requests import OutputTensor
from .infer_document import NOT_READABLE, GivenInput, array, refused

BINARY_ONLY = frozenset({"FP16", "BF16"})  # KServe's JSON has no number for them

_FLOATS = msgspec.json.Decoder(list[float])
_BOOLEANS = msgspec.json.Decoder(list[bool])
_STRINGS = msgspec.json.Decoder(list[str])
_SIGNED = msgspec.json.Decoder(list[int])
_UNSIGNED = msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=0)]])

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "BOOL": _BOOLEANS, "BYTES": _STRINGS, "FP32": _FLOATS, "FP64": _FLOATS,
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), _SIGNED),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), _UNSIGNED),
}  # fmt: skip


def content_of(given: GivenInput, prefix: str, model: str) -> bytes:
    """The content of an input that is given as JSON. Raises CallerError in Triton's words, or one of NOT_READABLE."""
    if given.datatype in BINARY_ONLY:
        raise invalid(
            f"receiving {given.datatype} data via JSON is not supported. "
            f"Please use the binary data format for input {given.name}"
        )
    try:
        values = given.numbers(_DECODERS[given.datatype])
    except NOT_READABLE:
        values = _flattened(given)
    expected = elements(given.shape)
    if given.datatype == "BYTES":
        _check_strings(given, len(values), expected, prefix, model)
        return serialize_bytes(values)
    if len(values) < expected:
        raise refused("Failed to parse 'data' field: shape does not match true shape")
    if len(values) > expected:
        raise refused("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return _array(values, given.datatype).tobytes()


def _array(values: list[Any], datatype: str) -> npt.NDArray[Any]:
    dtype = numpy_dtype(datatype)
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):  # 1e39 is FP32's infinity, as in Triton
            return np.array(values, np.float64).astype(dtype) if dtype.kind == "f" else np.array(values, dtype)
    try:
        wide = np.array(values, np.int64 if dtype.kind == "i" else np.uint64)
    except OverflowError:
        raise _wrong_number(datatype) from None
    if dtype.itemsize < wide.itemsize and wide.size:
        limits = np.iinfo(dtype)
        for number in (wide.min(), wide.max()):
            if not limits.min <= number <= limits.max:
                raise invalid(f"Unable to parse 'data': {number} is out of the range of {datatype}")
    return wide.astype(dtype)


def _check_strings(given: GivenInput, found: int, expected: int, prefix: str, model: str) -> None:
    if found < expected:
        raise invalid(
            f"{prefix}expected {expected} string elements for inference input '{given.name}' for model '{model}', got {found}"
        )
    if found > expected:
        raise invalid(
            f"{prefix}unexpected number of string elements {found} for inference input '{given.name}' for model '{model}', "
            f"expecting {expected}"
        )


# --- data that is not one flat array of its type ------------------------------------------------------------------------------


def _flattened(given: GivenInput) -> list[Any]:
    """Its elements in order, whatever the nesting, as Triton takes them. Raises CallerError for the first of a wrong type."""
    values = list(_elements(array(given.anything(), "data")))
    for value in values:
        if not _fits(value, given.datatype):
            raise _wrong_element(given.datatype)
    return [float(value) for value in values] if given.datatype in FLOATING else values


def _elements(values: list[Any]) -> Iterable[Any]:
    for value in values:
        if type(value) is list:
            yield from _elements(value)
        else:
            yield value


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BYTES":
        return type(value) is str
    if datatype == "BOOL":
        return type(value) is bool
    if datatype in FLOATING:
        return type(value) in (int, float)
    return type(value) is int and (value >= 0 or not datatype.startswith("U"))


def _wrong_element(datatype: str) -> CallerError:
    if datatype == "BYTES":
        return refused("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
    if datatype == "BOOL":
        return refused("Unable to parse 'data': attempt to access JSON non-boolean as boolean")
    if datatype in FLOATING:
        return refused("Unable to parse 'data': attempt to access JSON non-number as double")
    return _wrong_number(datatype)


def _wrong_number(datatype: str) -> CallerError:
    kind = "unsigned-integer" if datatype.startswith("U") else "signed-integer"
    return refused(f"Unable to parse 'data': attempt to access JSON non-{kind} as {kind}")


# --- outputs ------------------------------------------------------------------------------------------------------------------


def data_of(output: OutputTensor) -> Any:
    """The flat `data` of an output, to be encoded by msgspec. Raises CallerError for what JSON has no form for."""
    assert output.content is not None
    if output.datatype in BINARY_ONLY:
        raise _binary_only(output, output.datatype)
    if output.datatype == "BYTES":
        try:
            return [value.decode() for value in deserialize_bytes(output.content, output.shape, output.name).ravel()]
        except UnicodeDecodeError:
            raise _binary_only(output, "BYTES that is not UTF-8") from None
    numbers = np.frombuffer(output.content, numpy_dtype(output.datatype))
    if output.datatype in FLOATING and not np.isfinite(numbers).all():  # NaN and Infinity, as Triton writes them
        return msgspec.Raw(json.dumps(numbers.tolist(), separators=(",", ":")).encode())
    return numbers.tolist()


def _binary_only(output: OutputTensor, kind: str) -> CallerError:
    return invalid(f"sending {kind} data via JSON is not supported. Please use the binary data format for output {output.name}")
