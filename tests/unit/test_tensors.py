# SPDX-License-Identifier: Apache-2.0
"""Datatypes, byte sizes, and the layout of BYTES tensors."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from penstock.ipc.errors import CallerError
from penstock.ipc.tensors import (
    DATATYPES,
    ITEM_BYTES,
    byte_size,
    datatype_of,
    deserialize_bytes,
    elements,
    numpy_dtype,
    serialize_bytes,
)

FIXED = sorted(ITEM_BYTES)


@pytest.mark.parametrize("datatype", FIXED)
def test_a_datatype_is_as_large_as_its_numpy_counterpart(datatype: str) -> None:
    assert numpy_dtype(datatype).itemsize == ITEM_BYTES[datatype]


@pytest.mark.parametrize("datatype", sorted(DATATYPES - {"BF16"}))
def test_datatypes_are_tritons(datatype: str) -> None:
    assert np.dtype(triton_to_np_dtype(datatype)) == numpy_dtype(datatype)
    assert datatype_of(np.empty(1, numpy_dtype(datatype))) == datatype == np_to_triton_dtype(numpy_dtype(datatype))


def test_every_datatype_but_bytes_has_a_size() -> None:
    assert DATATYPES - set(ITEM_BYTES) == {"BYTES"}


def test_text_and_byte_strings_are_bytes() -> None:
    assert datatype_of(np.array(["a"])) == datatype_of(np.array([b"a"])) == "BYTES"


def test_the_byte_order_is_not_part_of_the_datatype() -> None:
    assert datatype_of(np.empty(1, ">f4")) == "FP32"


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]", [("a", np.int32)]])
def test_an_array_without_a_datatype_is_refused(dtype: object) -> None:
    with pytest.raises(CallerError, match="has no tensor datatype"):
        datatype_of(np.empty(1, dtype))  # type: ignore[call-overload]


def test_an_unknown_datatype_is_named_with_the_known_ones() -> None:
    with pytest.raises(CallerError, match=r"'FP8'.*FP16"):
        numpy_dtype("FP8")


@pytest.mark.parametrize(
    ("datatype", "shape", "expected"),
    [
        ("FP32", [2, 3], 24),
        ("FP64", [], 8),
        ("INT8", [0, 5], 0),
        ("BF16", [3], 6),
        ("FP32", [2**62, 2**62], 2**126),  # no overflow
        ("BYTES", [2], None),
        ("FP32", [-1, 2], None),
    ],
)
def test_byte_size(datatype: str, shape: list[int], expected: int | None) -> None:
    assert byte_size(datatype, shape) == expected


def test_elements_of_a_scalar_is_one() -> None:
    assert elements([]) == 1


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_bytes_survive_the_round_trip(values: list[bytes]) -> None:
    back = deserialize_bytes(serialize_bytes(values), [len(values)], "x")
    assert back.shape == (len(values),)
    assert list(back) == values


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_the_layout_of_bytes_is_tritons(values: list[bytes]) -> None:
    array = np.array(values, np.object_)
    theirs = serialize_byte_tensor(array).item()
    assert serialize_bytes(values) == theirs
    assert list(deserialize_bytes_tensor(serialize_bytes(values))) == values


def test_text_becomes_utf8() -> None:
    assert serialize_bytes(["é"]) == struct.pack("<I", 2) + "é".encode()


def test_a_shape_is_kept() -> None:
    assert deserialize_bytes(memoryview(serialize_bytes([b"a", b"", b"c", b"d"])), [2, 2], "x").tolist() == [
        [b"a", b""],
        [b"c", b"d"],
    ]


@pytest.mark.parametrize(
    ("content", "shape", "message"),
    [
        (b"\x01\x00", [1], "incomplete string length indicator for tensor 'x', expecting 4 bytes but only 2 bytes available. "),
        (
            struct.pack("<I", 5) + b"abc",
            [1],
            "incomplete string data for tensor 'x', expecting string of length 5 but only 3 bytes available",
        ),
        (struct.pack("<I", 2**32 - 1), [1], "expecting string of length 4294967295 but only 0 bytes available"),
        (serialize_bytes([b"a"]), [2], "expected 2 string elements for tensor 'x', got 1"),
        (serialize_bytes([b"a", b"b"]), [1], "unexpected number of string elements 2 for tensor 'x', expecting 1"),
        (serialize_bytes([b""]), [0], "unexpected number of string elements 1 for tensor 'x', expecting 0"),
        (b"x", [0], "incomplete string length indicator for tensor 'x', expecting 4 bytes but only 1 bytes available. "),
    ],
)
def test_malformed_bytes_name_the_tensor_and_both_sides(content: bytes, shape: list[int], message: str) -> None:
    with pytest.raises(CallerError) as raised:
        deserialize_bytes(content, shape, "x")
    assert message in raised.value.message


def test_an_input_of_a_request_is_named_with_its_model() -> None:
    with pytest.raises(CallerError) as raised:
        deserialize_bytes(serialize_bytes([b"a"]), [2], "x", "m")
    assert raised.value.message == "expected 2 string elements for inference input 'x' for model 'm', got 1"


def test_a_small_claimed_shape_is_not_read_beyond() -> None:
    with pytest.raises(CallerError, match="unexpected number of string elements 2 for tensor 'x', expecting 1"):
        deserialize_bytes(bytes(4000), [1], "x")


def test_a_huge_claimed_shape_costs_nothing() -> None:
    with pytest.raises(CallerError, match="expected"):
        deserialize_bytes(b"", [2**40], "x")
