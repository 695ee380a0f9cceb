# SPDX-License-Identifier: Apache-2.0
"""Tensors as JSON, both ways: values, ranges, and what Triton says of those that do not fit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ipc.errors import CallerError, Code
from penstock.ipc.tensors import DATATYPES, deserialize_bytes, numpy_dtype, serialize_bytes
from penstock.runtime.gateway.over_http.infer_request import asked
from penstock.runtime.gateway.over_http.json_tensors import BINARY_ONLY, data_of
from penstock.runtime.gateway.requests import OutputTensor

INTEGERS = sorted(name for name in DATATYPES if numpy_dtype(name).kind in "iu" and name not in BINARY_ONLY)


def content(datatype: str, shape: list[int], data: Any) -> bytes:
    """What becomes of an input with this data."""
    document = {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]}
    (found,) = asked(json.dumps(document).encode(), None, "m", -1, {}).request.inputs
    assert isinstance(found.content, bytes)
    return found.content


def refusal(datatype: str, shape: list[int], data: Any) -> CallerError:
    with pytest.raises(CallerError) as caught:
        content(datatype, shape, data)
    return caught.value


def output(datatype: str, shape: list[int], held: bytes) -> Any:
    """An output's data, as a client reads it."""
    return json.loads(msgspec.json.encode(data_of(OutputTensor("y", datatype, shape, memoryview(held)))))


@pytest.mark.parametrize("datatype", INTEGERS)
@settings(deadline=None)
@given(numbers=st.data())
def test_integers_come_through_both_ways(datatype: str, numbers: st.DataObject) -> None:
    limits = np.iinfo(numpy_dtype(datatype))
    values = numbers.draw(st.lists(st.integers(int(limits.min), int(limits.max))))
    held = content(datatype, [len(values)], values)
    assert held == np.array(values, numpy_dtype(datatype)).tobytes()
    assert output(datatype, [len(values)], held) == values


@pytest.mark.parametrize(("datatype", "width"), [("FP32", 32), ("FP64", 64)])
@settings(deadline=None)
@given(numbers=st.data())
def test_real_numbers_come_through_both_ways(datatype: str, width: int, numbers: st.DataObject) -> None:
    values = numbers.draw(st.lists(st.floats(width=width)))  # type: ignore[arg-type]  # NaN and the infinities among them
    held = content(datatype, [len(values)], values)
    assert np.array_equal(np.frombuffer(held, numpy_dtype(datatype)), np.array(values), equal_nan=True)
    assert np.array_equal(output(datatype, [len(values)], held), values, equal_nan=True)


@settings(deadline=None)
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_come_through_both_ways(values: list[str]) -> None:
    held = content("BYTES", [len(values)], values)
    assert [element.decode() for element in deserialize_bytes(held, [len(values)], "x").ravel()] == values
    assert output("BYTES", [len(values)], held) == values


def test_booleans_come_through_both_ways() -> None:
    assert output("BOOL", [2], content("BOOL", [2], [True, False])) == [True, False]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], 2], [3, [[4]]]], [[1, 2, 3], [4]]])
@pytest.mark.parametrize("datatype", ["INT32", "FP32"])
def test_data_may_be_nested_in_any_way(datatype: str, data: Any) -> None:
    assert np.frombuffer(content(datatype, [2, 2], data), numpy_dtype(datatype)).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("datatype", sorted(BINARY_ONLY))
def test_half_precision_is_binary_only(datatype: str) -> None:
    assert refusal(datatype, [1], [1]).message == (
        f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input x"
    )
    with pytest.raises(CallerError, match=f"sending {datatype} data via JSON is not supported.* for output y$"):
        output(datatype, [1], b"\0\0")


def test_bytes_that_are_no_text_are_binary_only() -> None:
    with pytest.raises(CallerError, match="sending BYTES data that is no UTF-8 via JSON is not supported"):
        output("BYTES", [1], serialize_bytes([b"\xff"]))


@pytest.mark.parametrize(
    ("datatype", "values", "kind"),
    [
        ("FP32", ["a", True, None, {}], "non-number as double"),
        ("INT32", [1.0, 1.5, True, "1", None, 2**63], "non-signed-integer as signed-integer"),
        ("INT64", [2**63, -(2**63) - 1], "non-signed-integer as signed-integer"),
        ("UINT8", [-1, 1.0, True], "non-unsigned-integer as unsigned-integer"),
        ("UINT64", [-1, 2**64], "non-unsigned-integer as unsigned-integer"),
        ("BOOL", [0, 1, "x", None], "non-boolean as boolean"),
    ],
)
def test_an_element_of_a_wrong_type_is_refused(datatype: str, values: list[Any], kind: str) -> None:
    for value in values:
        error = refusal(datatype, [1], [value])
        assert (error.message, error.code) == (f"Unable to parse 'data': attempt to access JSON {kind}", Code.INTERNAL), value


def test_an_element_that_is_no_string_is_refused() -> None:
    assert refusal("BYTES", [1], [1]).message == "Unable to parse JSON bytes array: attempt to access JSON non-string as string"


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT8", -129), ("UINT16", 65536), ("INT32", -(2**31) - 1)])
def test_a_number_out_of_range_is_refused_and_not_wrapped(datatype: str, value: int) -> None:
    assert refusal(datatype, [1], [value]).message == f"Unable to parse 'data': {value} is out of the range of {datatype}"


def test_a_number_beyond_single_precision_is_infinite() -> None:
    assert output("FP32", [2], content("FP32", [2], [1e39, -1e39])) == [float("inf"), float("-inf")]


def test_a_wrong_number_of_elements_is_refused() -> None:
    assert refusal("FP32", [2], [1]).message == "Failed to parse 'data' field: shape does not match true shape"
    assert refusal("FP32", [2], [1, 2, 3]).message == "Unable to parse 'data': Shape does not match true shape of 'data' field"
    assert refusal("BYTES", [2], ["a"]).message == (
        "[request id: <id_unknown>] expected 2 string elements for inference input 'x' for model 'm', got 1"
    )
    assert refusal("BYTES", [1], ["a", "b"]).message == (
        "[request id: <id_unknown>] unexpected number of string elements 2 for inference input 'x' for model 'm', expecting 1"
    )


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    data: Any = 1
    for _ in range(120):
        data = [data]
    assert refusal("INT64", [1, 1], data).message == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_data_that_cannot_be_read_is_answered_with_its_place_in_the_request() -> None:
    written = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e400]}]}'
    with pytest.raises(CallerError, match=f"Number too big to be stored in double. at {written.index(b'1e400')}$"):
        asked(written, None, "m", -1, {})


def test_real_numbers_are_written_as_the_doubles_that_they_are() -> None:
    found = msgspec.json.encode(data_of(OutputTensor("y", "FP32", [2], memoryview(np.array([0.1, 1], np.float32).tobytes()))))
    assert found == b"[0.10000000149011612,1.0]"


def test_what_json_has_no_number_for_is_written_as_triton_writes_it() -> None:
    held = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).tobytes()
    assert msgspec.json.encode(data_of(OutputTensor("y", "FP32", [4], memoryview(held)))) == b"[NaN,Infinity,-Infinity,0.5]"
