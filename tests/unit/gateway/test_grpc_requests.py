# SPDX-License-Identifier: Apache-2.0
"""What messages of gRPC ask, and what is said of those that ask nothing sensible: types and texts are those of Triton 2.51."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.runtime.gateway.over_grpc.inference import request_of, response_of
from penstock.runtime.gateway.over_grpc.schema import pb
from penstock.runtime.gateway.ranges import MOST
from penstock.runtime.gateway.requests import InferAnswer, InRegion, OutputTensor

KINDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def put(parameters: Any, given: Mapping[str, Any]) -> None:
    """A parameter by the type of its value, or as a pair of its field and its value."""
    for name, value in given.items():
        field, content = value if isinstance(value, tuple) else (KINDS[type(value)], value)
        setattr(parameters[name], field, content)


def message(
    datatype: str = "FP32", shape: Sequence[int] = (1, 2), raw: Sequence[bytes] = (), contents: Mapping[str, Any] | None = None,
    places: Mapping[str, Any] | None = None, wanted: Mapping[str, Any] | None = None, parameters: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """A request for model m with the input x."""
    made = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=raw)
    given = made.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in (contents or {}).items():
        getattr(given.contents, field).extend(values)
    put(given.parameters, places or {})
    if wanted is not None:
        put(made.outputs.add(name="y").parameters, wanted)
    put(made.parameters, parameters or {})
    return made


def refused(asked: Any) -> CallerError:
    with pytest.raises(CallerError) as caught:
        request_of(asked)
    return caught.value


# --- inputs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datatype", "field", "values", "content"),
    [
        ("BOOL", "bool_contents", [True, False], b"\1\0"),
        ("INT8", "int_contents", [-1, 2], np.array([-1, 2], np.int8).tobytes()),
        ("INT16", "int_contents", [-1, 2], np.array([-1, 2], np.int16).tobytes()),
        ("INT32", "int_contents", [-1, 2], np.array([-1, 2], np.int32).tobytes()),
        ("INT64", "int64_contents", [-(2**62), 2], np.array([-(2**62), 2], np.int64).tobytes()),
        ("UINT8", "uint_contents", [255, 2], b"\xff\2"),
        ("UINT16", "uint_contents", [65535, 2], np.array([65535, 2], np.uint16).tobytes()),
        ("UINT32", "uint_contents", [2**32 - 1, 2], np.array([2**32 - 1, 2], np.uint32).tobytes()),
        ("UINT64", "uint64_contents", [2**64 - 1, 2], np.array([2**64 - 1, 2], np.uint64).tobytes()),
        ("FP32", "fp32_contents", [1.5, 2], np.array([1.5, 2], np.float32).tobytes()),
        ("FP64", "fp64_contents", [1.5, 2], np.array([1.5, 2], np.float64).tobytes()),
        ("BYTES", "bytes_contents", [b"ab", b""], b"\2\0\0\0ab\0\0\0\0"),
        ("INT8", "int_contents", [300, -129], b",\x7f"),  # as Triton takes them: the upper bits are lost
        ("UINT8", "uint_contents", [300, 1], b",\1"),
    ],
)
def test_typed_contents_become_what_raw_ones_are(datatype: str, field: str, values: list[Any], content: bytes) -> None:
    (given,) = request_of(message(datatype, contents={field: values})).inputs

    assert given.content == content
    assert (given.name, given.datatype, list(given.shape)) == ("x", datatype, [1, 2])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
@pytest.mark.parametrize(
    ("field", "values", "stands_for"),
    [("fp32_contents", [1.0, 2.0], "FP32"), ("int_contents", [1, 2], "INT32"), ("bytes_contents", [b"1234"], "BYTES")],
)
def test_half_floats_come_raw_only(datatype: str, field: str, values: list[Any], stands_for: str) -> None:
    assert refused(message(datatype, contents={field: values})).message == (
        f"unexpected explicit tensor data for input tensor 'x' for model 'm' of type '{stands_for}', expected datatype '{datatype}'"
    )


def test_raw_contents_belong_to_the_inputs_outside_regions_in_their_order() -> None:
    asked = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"a", b"b"])
    for name in ("first", "placed", "second"):
        asked.inputs.add(name=name, datatype="UINT8", shape=[1])
    put(asked.inputs[1].parameters, {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 64})

    assert [given.content for given in request_of(asked).inputs] == [b"a", InRegion("r", 64, 8), b"b"]


PLACE = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (message(), "unable to find data for input tensor 'x' for model 'm' in request."),
        (
            message(raw=[b""], contents={"fp32_contents": [1]}),
            "contents field must not be specified when using raw_input_contents for 'x' for model 'm'",
        ),
        (
            message(contents={"int64_contents": [1]}),
            "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'INT64', expected datatype 'FP32'",
        ),
        (
            message(places=PLACE, contents={"fp32_contents": [1]}),
            "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'm'",
        ),
        (
            message(places={**PLACE, "shared_memory_region": 3}),
            "invalid value type for 'shared_memory_region' parameter for tensor 'x', expected string_param.",
        ),
        (
            message(places={**PLACE, "shared_memory_byte_size": "8"}),
            "invalid value type for 'shared_memory_byte_size' parameter for tensor 'x', expected int64_param.",
        ),
        (
            message(places={**PLACE, "shared_memory_offset": "8"}),
            "invalid value type for 'shared_memory_offset' parameter for tensor 'x', expected int64_param.",
        ),
        (
            message(places={"shared_memory_region": "r"}),
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'x'",
        ),
        (
            message(places={"shared_memory_offset": 8}),
            "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor 'x'",
        ),
        (
            message(raw=[b""], wanted={"shared_memory_byte_size": 8}),
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'y'",
        ),
        (
            message(raw=[b""], wanted={"classification": "1"}),
            "invalid value type for 'classification' parameter, expected int64_param",
        ),
        (message(raw=[b""], wanted={"classification": 0}), "invalid value for 'classification' parameter, expected >= 0"),
        (
            message(raw=[b""], wanted={**PLACE, "classification": 1}),
            "output can't set both 'shared_memory_region' and 'classification'",
        ),
    ],
)
def test_a_tensor_that_says_too_little_or_too_much_is_refused(asked: Any, said: str) -> None:
    error = refused(asked)

    assert (error.message, error.code) == (said, Code.INVALID_ARG)


def test_parameters_of_other_names_are_no_concern_of_tensors() -> None:
    asked = message(raw=[b"12345678"], places={"foo": 3}, wanted={"binary_data": True})

    assert request_of(asked).inputs[0].content == b"12345678"
    assert request_of(asked).outputs[0].place is None


def test_outputs_say_where_and_as_what_they_are_wanted() -> None:
    assert request_of(message(raw=[b""], wanted=PLACE)).outputs[0].place == InRegion("r", 0, 8)
    assert request_of(message(raw=[b""], wanted={"classification": 3})).outputs[0].classification == 3


# --- parameters ---------------------------------------------------------------------------------------------------------------

RESERVED = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with 'triton_' are "
    "allowed: triton_enable_empty_final_response"
)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sequence_id", True, "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_id", ("uint64_param", 5), "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_start", 1, "invalid value type for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", "1", "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ("priority", "1", "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
        ("priority", -5, "invalid value for 'priority', expected value >= 0."),
        ("timeout", ("uint64_param", 5), "invalid value type for 'timeout' parameter, expected int64_param."),
        ("triton_foo", 1, RESERVED),
        ("triton_final_response", True, RESERVED),
        (
            "triton_enable_empty_final_response", 1,
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        ("other", ("uint64_param", 5), "invalid value type for 'other' parameter, expected int64_param, bool_param, or string_param."),
    ],
)  # fmt: skip
def test_parameters_have_their_types(name: str, value: Any, said: str) -> None:
    error = refused(message(raw=[b""], parameters={name: value}))

    assert (error.message, error.code) == (said, Code.INVALID_ARG)


def test_a_parameter_without_a_value_is_refused() -> None:
    asked = message(raw=[b""])
    asked.parameters["e"].SetInParent()

    assert refused(asked).message == "invalid value type for 'e' parameter, expected int64_param, bool_param, or string_param."


def test_a_sequence_id_has_its_longest() -> None:
    request_of(message(raw=[b""], parameters={"sequence_id": "s" * 128}))
    error = refused(message(raw=[b""], parameters={"sequence_id": "s" * 129}))

    assert (error.message, error.code) == ("string correlation ID cannot be longer than 128 characters", Code.UNSUPPORTED)


@pytest.mark.parametrize(
    ("given", "priority", "timeout_us"),
    [
        ({"priority": 3, "timeout": 50}, 3, 50),
        ({"priority": ("uint64_param", 3)}, 3, 0),
        ({"priority": ("uint64_param", 2**64 - 1), "timeout": -1}, MOST, MOST),  # as C++ takes it for an unsigned number
        ({"sequence_id": 5, "sequence_start": True, "sequence_end": True, "triton_enable_empty_final_response": True}, 0, 0),
    ],
)
def test_priority_and_timeout_go_along(given: dict[str, Any], priority: int, timeout_us: int) -> None:
    asked = request_of(message(raw=[b""], parameters=given))

    assert (asked.priority, asked.timeout_us, asked.parameters) == (priority, timeout_us, {})


def test_custom_parameters_and_forwarded_headers_go_along() -> None:
    asked = request_of(message(raw=[b""], parameters={"a": "b", "n": 3, "t": True, "f": 1.5}), {"my-head": "v"})

    assert asked.parameters == {"a": "b", "n": 3, "t": True, "f": 1.5, "my-head": "v"}


# --- responses ----------------------------------------------------------------------------------------------------------------


def test_raw_output_contents_have_an_entry_per_output() -> None:
    answer = InferAnswer(
        "m", 3, "7", [OutputTensor("a", "FP32", [1, 1], None), OutputTensor("b", "UINT8", [2], memoryview(b"12"))]
    )

    response = response_of(answer)

    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("a", "FP32", [1, 1]),
        ("b", "UINT8", [2]),
    ]
    assert list(response.raw_output_contents) == [b"", b"12"]
    assert not response.parameters
