# SPDX-License-Identifier: Apache-2.0
"""Tensors as JSON: the `data` of inputs and outputs, to and from the bytes that KServe's binary tensor data has. Pure."""

from __future__ import annotations

import json
from functools import cache
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from ....ipc.errors import CallerError, invalid
from ....ipc.tensors import FLOATING, deserialize_bytes, elements, numpy_dtype, serialize_bytes
from ..requests import OutputTensor
from .infer_document import GivenInput, ReadInput, array
from .json_text import NOT_READABLE, refused

BINARY_ONLY = frozenset({"FP16", "BF16"})  # KServe's JSON has no number for them
MOST_NESTED = 16
"""Dimensions of a tensor whose data is read in one typed pass, nested as it is."""

_ELEMENTS: dict[str, Any] = {
    "BOOL": bool, "BYTES": str, "FP32": float, "FP64": float,
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), int),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), Annotated[int, msgspec.Meta(ge=0)]),
}  # fmt: skip
"""What the elements of each datatype are in JSON. msgspec takes integers for float, and nothing else for anything else."""


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind = _ELEMENTS[datatype]
    for _ in range(depth):
        kind = list[kind]  # type: ignore[valid-type]  # made at run time
    return msgspec.json.Decoder(kind)


def content_of(given: GivenInput, prefix: str, model: str) -> bytes:
    """The content of an input that is given as JSON. Raises CallerError in Triton's words, or one of NOT_READABLE."""
    if given.datatype in BINARY_ONLY:
        raise invalid(
            f"receiving {given.datatype} data via JSON is not supported. "
            f"Please use the binary data format for input {given.name}"
        )
    values = _flattened(given) if isinstance(given, ReadInput) else _typed(given)
    expected = elements(given.shape)
    if given.datatype == "BYTES":
        _check_strings(given, len(values), expected, prefix, model)
        return serialize_bytes(values)
    if len(values) < expected:
        raise refused("Failed to parse 'data' field: shape does not match true shape")
    if len(values) > expected:
        raise refused("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return _array(values, given.datatype).tobytes()


def _typed(given: GivenInput) -> list[Any]:
    """Its elements in order, when they are in one array, or nested as the shape is."""
    try:
        values: list[Any] = _decoder(given.datatype, 1).decode(given.data)
    except NOT_READABLE:
        if not 1 < len(given.shape) <= MOST_NESTED:
            raise
        values = _decoder(given.datatype, len(given.shape)).decode(given.data)
        for _ in given.shape[1:]:
            values = list(chain.from_iterable(values))
    return values


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


def _flattened(given: ReadInput) -> list[Any]:
    """Its elements in order, whatever the nesting, as Triton takes them. Raises CallerError for the first of a wrong type."""
    values = _elements(array(given.values, "data"))
    if not all(_fits(kind, given.datatype) for kind in set(map(type, values))) or (
        given.datatype.startswith("U") and min(values, default=0) < 0
    ):
        raise _wrong_element(given.datatype)
    return list(map(float, values)) if given.datatype in FLOATING else values


def _elements(values: list[Any]) -> list[Any]:
    while list in (kinds := set(map(type, values))):
        values = list(chain.from_iterable(values if len(kinds) == 1 else (v if type(v) is list else (v,) for v in values)))
    return values


def _fits(kind: type, datatype: str) -> bool:
    if datatype == "BYTES":
        return kind is str
    if datatype == "BOOL":
        return kind is bool
    return kind is int or (kind is float and datatype in FLOATING)


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
        raise _binary_only(output, f"{output.datatype} data")
    if output.datatype == "BYTES":
        try:
            return [value.decode() for value in deserialize_bytes(output.content, output.shape, output.name).ravel()]
        except UnicodeDecodeError:
            raise _binary_only(output, "BYTES data that is no UTF-8") from None
    numbers = np.frombuffer(output.content, numpy_dtype(output.datatype))
    if output.datatype in FLOATING and not np.isfinite(numbers).all():  # NaN and Infinity, as Triton writes them
        return msgspec.Raw(json.dumps(numbers.tolist(), separators=(",", ":")).encode())
    return numbers.tolist()


def _binary_only(output: OutputTensor, kind: str) -> CallerError:
    return invalid(f"sending {kind} via JSON is not supported. Please use the binary data format for output {output.name}")
