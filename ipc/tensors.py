# SPDX-License-Identifier: Apache-2.0
"""Datatypes and the byte sizes of tensors. Pure.

Names and sizes are those of KServe v2 (the Open Inference Protocol's tensor data types) plus BF16. BYTES elements are a
4-byte little-endian length and that many bytes, as Triton's binary tensor data extension lays them out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import invalid

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
"""Bytes per element of each fixed-size datatype. BYTES is not here: its size depends on its content."""

_NUMPY: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": np.uint16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
_DATATYPE = {np.dtype(kind): name for name, kind in _NUMPY.items() if name != "BF16"}
DATATYPES = frozenset(_NUMPY)
FLOATING = frozenset({"FP16", "BF16", "FP32", "FP64"})


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The numpy dtype that holds a datatype; BF16 as its raw uint16 bits, BYTES as object. Raises INVALID_ARG."""
    try:
        return np.dtype(_NUMPY[datatype])
    except KeyError:
        raise invalid(f"unknown datatype {datatype!r}; known are {', '.join(sorted(DATATYPES))}") from None


def datatype_of(array: npt.NDArray[Any]) -> str:
    """The datatype of a numpy array; text and bytes arrays are BYTES. Raises INVALID_ARG for what has none."""
    if array.dtype.kind in "SUT":  # T: numpy 2's StringDType
        return "BYTES"
    try:
        return _DATATYPE[array.dtype.newbyteorder("=")]
    except KeyError:
        raise invalid(f"numpy dtype {array.dtype} has no tensor datatype; known are {', '.join(sorted(DATATYPES))}") from None


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a shape (1 for a scalar). Exact: Python integers do not overflow."""
    count = 1
    for size in shape:
        count *= size
    return count


def byte_size(datatype: str, shape: Sequence[int]) -> int | None:
    """Bytes of a tensor with known dims; None for BYTES or when a dim is -1."""
    size = ITEM_BYTES.get(datatype)
    if size is None or any(dim < 0 for dim in shape):
        return None
    return size * elements(shape)


def serialize_bytes(values: Iterable[object]) -> bytes:
    """BYTES tensor content of `values` (bytes or str, str as UTF-8), row-major."""
    parts: list[bytes] = []
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)


def deserialize_bytes(content: bytes | memoryview, shape: Sequence[int], name: str, model: str = "") -> npt.NDArray[np.object_]:
    """The elements of a BYTES tensor, as an object array of bytes. Raises INVALID_ARG in the words of Triton's core.

    They name the tensor; of an input that came with a request they name the `model` too. It stops at the first element too
    many: who claims a small shape for a large region keeps nobody busy.
    """
    whose = f"inference input '{name}' for model '{model}'" if model else f"tensor '{name}'"
    found: list[bytes] = []
    expected, at = elements(shape), 0
    while at < len(content) and len(found) <= expected:
        left = len(content) - at - 4
        if left < 0:
            raise invalid(
                f"incomplete string length indicator for {whose}, expecting 4 bytes but only {left + 4} bytes available. "
                "Please make sure the string length indicator is in one buffer."
            )
        (length,) = struct.unpack_from("<I", content, at)
        if length > left:
            raise invalid(
                f"incomplete string data for {whose}, expecting string of length {length} but only {left} bytes available"
            )
        at += 4 + length
        found.append(bytes(content[at - length : at]))
    if len(found) < expected:
        raise invalid(f"expected {expected} string elements for {whose}, got {len(found)}")
    if len(found) > expected:
        raise invalid(f"unexpected number of string elements {len(found)} for {whose}, expecting {expected}")
    array = np.empty(expected, np.object_)
    array[:] = found
    return array.reshape(tuple(shape))
