# SPDX-License-Identifier: Apache-2.0
"""What inference requests over HTTP ask, with binary tensor data, regions and parameters; and how they are answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.ipc.errors import CallerError, Code, PenstockError
from penstock.runtime.gateway.over_http.infer_request import LENGTH_HEADER, Asked, Form, asked, header_size
from penstock.runtime.gateway.over_http.infer_response import response_of
from penstock.runtime.gateway.over_http.raw_request import raw_request
from penstock.runtime.gateway.requests import InferAnswer, Input, InRegion, Output, OutputTensor

X = {"name": "x", "datatype": "FP32", "shape": [2]}
REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
ONE_SOURCE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)


def ask(document: dict[str, Any], binary: bytes | None = None, **forwarded: str) -> Asked:
    return asked(json.dumps(document).encode(), None if binary is None else memoryview(binary), "m", -1, forwarded)


def refusal(document: dict[str, Any], binary: bytes | None = None) -> str:
    with pytest.raises(CallerError) as caught:
        ask(document, binary)
    return caught.value.message


def given(data: Any = None, **parameters: Any) -> dict[str, Any]:
    """A request with an input that has this data and these parameters."""
    tensor = {**X, **({} if data is None else {"data": data}), **({"parameters": parameters} if parameters else {})}
    return {"inputs": [tensor]}


def wanted(**parameters: Any) -> dict[str, Any]:
    return {"inputs": [], "outputs": [{"name": "y", "parameters": parameters}]}


# --- inputs -------------------------------------------------------------------------------------------------------------------


def test_binary_inputs_follow_the_json_in_their_order() -> None:
    document = {"inputs": [{**X, "parameters": {"binary_data_size": size}} for size in (8, 0, 4)]}
    request = ask(document, b"abcdefghijkl").request
    assert [bytes(tensor.content) for tensor in request.inputs] == [b"abcdefgh", b"", b"ijkl"]  # type: ignore[arg-type]


def test_an_input_in_a_region_is_named_only() -> None:
    assert ask(given(**REGION)).request.inputs == [Input("x", "FP32", [2], InRegion("r", 4, 8))]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (given(), "no field is set"),
        (given([1, 2], binary_data_size=8), "set 'data' 'binary_data_size'"),
        (given([1, 2], **REGION), "set 'data' 'shared_memory_region'"),
        (given(binary_data_size=8, **REGION), "set 'binary_data_size' 'shared_memory_region'"),
        (given([1, 2], binary_data_size=8, **REGION), "set 'data' 'binary_data_size' 'shared_memory_region'"),
    ],
)
def test_an_input_has_one_source(document: dict[str, Any], said: str) -> None:
    assert refusal(document, b"12345678") == ONE_SOURCE + said


def test_data_that_is_null_is_a_source_of_a_wrong_type() -> None:
    document = {"inputs": [{**X, "data": None}]}
    assert refusal(document) == "Unable to parse 'data': attempt to access JSON non-array as array"


@pytest.mark.parametrize(
    ("binary", "said"),
    [
        (b"12345", "unexpected size for input 'x', expecting 3 additional bytes for model 'm'"),
        (b"123456789", "unexpected additional input data for model 'm'"),
        (
            None,
            (
                "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing inputs in "
                "binary data format"
            ),
        ),
    ],
)
def test_binary_data_has_the_size_that_is_said(binary: bytes | None, said: str) -> None:
    assert refusal(given(binary_data_size=8), binary) == said


def test_binary_data_that_no_input_takes_is_refused() -> None:
    assert refusal(given([1, 2]), b"x") == "unexpected additional input data for model 'm'"


@pytest.mark.parametrize("name", ["FP31", "", "fp32"])
def test_an_unknown_datatype_is_refused(name: str) -> None:
    assert refusal({"inputs": [{**X, "datatype": name, "data": []}]}) == "invalid datatype for input x"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([16, 2**60 + 2], "shape of input 'x' causes total element count to exceed maximum size of 9223372036854775807"),
        ([0, 2**63], "shape of input 'x' causes total element count to exceed maximum size of 9223372036854775807"),
        ([4, 2**59], "byte size overflow for input 'x'"),
    ],
)
def test_a_shape_beyond_all_memory_is_refused(shape: list[int], said: str) -> None:
    assert refusal({"inputs": [{**X, "shape": shape, "data": [1]}]}) == said


def test_a_place_beyond_all_memory_is_refused() -> None:
    far = {**REGION, "shared_memory_byte_size": 2**64 - 8, "shared_memory_offset": 16}
    assert refusal(given(**far)).startswith("Integer overflow detected: byte_size (18446744073709551608) + offset (16) exceeds")


# --- outputs ------------------------------------------------------------------------------------------------------------------


def test_outputs_say_where_and_how_they_are_wanted() -> None:
    assert ask(wanted(classification=3, binary_data=True)) == (
        ask({"inputs": []}).request._replace(outputs=[Output("y", None, 3)]),
        Form({"y": True}, False),
    )
    assert ask(wanted(**REGION, binary_data=False)).request.outputs == [Output("y", InRegion("r", 4, 8))]


@pytest.mark.parametrize(("other", "value"), [("classification", 0), ("binary_data", True)])
def test_an_output_in_a_region_is_nothing_else(other: str, value: Any) -> None:
    assert refusal(wanted(**REGION, **{other: value})) == f"Output can't set both 'shared_memory_region' and '{other}'"


def test_all_outputs_are_binary_where_none_is_named() -> None:
    every = {"parameters": {"binary_data_output": True}}
    assert ask({"inputs": [], **every}).form == Form({}, True)
    assert ask({**wanted(), **every}).form == Form({"y": False}, False)  # as in Triton: those that are named say it themselves


# --- parameters ---------------------------------------------------------------------------------------------------------------


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return {"inputs": [], "parameters": parameters}


def test_priority_and_timeout_go_to_the_broker_and_the_rest_is_custom() -> None:
    custom = {"sequence_id": 5, "sequence_start": True, "sequence_end": False, "a": "s", "b": 1, "c": False, "d": 1.5}
    request = ask(with_parameters(priority=2, timeout=1000, binary_data_output=False, **custom)).request
    assert (request.priority, request.timeout_us, request.parameters) == (2, 1000, custom)


def test_forwarded_headers_are_parameters() -> None:
    assert ask(with_parameters(a=1), header="value").request.parameters == {"a": 1, "header": "value"}


def test_numbers_of_64_bits_are_taken_as_the_largest_of_the_broker() -> None:
    assert ask(with_parameters(priority=2**64 - 1)).request.priority == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("priority", [-1, 1.5, "1", True, None, 2**64], "non-unsigned-integer as unsigned-integer"),
        ("timeout", [-1, 1.5, "1", True, None, 2**64], "non-unsigned-integer as unsigned-integer"),
        ("binary_data_output", [1, "true", None], "non-boolean as boolean"),
        ("sequence_start", [1, "true", None], "non-boolean as boolean"),
        ("sequence_end", [0, [], None], "non-boolean as boolean"),
        ("sequence_id", [-1, 1.5, True, None, 2**64], "non-string as string"),
    ],
)
def test_a_parameter_that_means_something_has_its_type(name: str, values: list[Any], kind: str) -> None:
    for value in values:
        with pytest.raises(CallerError) as caught:
            ask(with_parameters(**{name: value}))
        assert caught.value.message == f"Unable to parse '{name}': attempt to access JSON {kind}", value
        assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("value", [None, [], {}])
def test_a_custom_parameter_is_a_string_or_a_number(value: Any) -> None:
    assert (
        refusal(with_parameters(a=value)) == "parameter 'a' has invalid type. It should be either 'int', 'bool', or 'string'."
    )


def test_names_that_begin_as_tritons_own_are_reserved() -> None:
    assert refusal(with_parameters(triton_x=1)) == (
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
    )


# --- the header's length ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "size"), [(None, None), ("0", 0), ("10", 10), (" 7 ", 7)])
def test_the_length_of_the_json_is_said_by_a_header(value: str | None, size: int | None) -> None:
    assert header_size(value, 10) == size


def test_a_request_without_a_body_is_raw() -> None:
    assert header_size(None, 0) == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-1", "inference header size should be in range (0, 10), got: -1"),
        ("11", "inference header size should be in range (0, 10), got: 11"),
        ("2147483648", f"Unable to parse {LENGTH_HEADER}, value is out of range [-2147483648, 2147483647], got: 2147483648"),
        ("1.5", f"Unable to parse {LENGTH_HEADER}, got: 1.5"),
        ("", f"Unable to parse {LENGTH_HEADER}, got: "),
    ],
)
def test_a_length_that_cannot_be_is_refused(value: str, said: str) -> None:
    with pytest.raises(CallerError) as caught:
        header_size(value, 10)
    assert caught.value.message == said


# --- raw requests -------------------------------------------------------------------------------------------------------------


def raw(body: bytes, *shapes: list[int], datatype: str = "FP32", max_batch_size: int = 0) -> Asked:
    inputs = [{"name": f"x{number}", "datatype": datatype, "shape": shape} for number, shape in enumerate(shapes)]
    return raw_request(body, {"inputs": inputs, "max_batch_size": max_batch_size}, "m", -1, {})


@pytest.mark.parametrize(
    ("shape", "max_batch_size", "found"),
    [([-1], 0, [4]), ([2, 2], 0, [2, 2]), ([2, -1], 0, [2, 2]), ([-1, 4], 8, [1, 4]), ([-1, -1], 8, [1, 4])],
)
def test_the_shape_of_a_raw_request_is_deduced(shape: list[int], max_batch_size: int, found: list[int]) -> None:
    request, form = raw(bytes(16), shape, max_batch_size=max_batch_size)
    assert request.inputs == (Input("x0", "FP32", found, bytes(16)),)
    assert form == Form({}, True)


def test_a_raw_string_is_one_element() -> None:
    request = raw(b"abc", [1], datatype="BYTES").request
    assert request.inputs == (Input("x0", "BYTES", [1], b"\3\0\0\0abc"),)


@pytest.mark.parametrize(
    ("shapes", "datatype", "said"),
    [
        (([1], [1]), "FP32", "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'm' model configuration"),
        (([-1, -1],), "FP32", "The shape of the raw input 'x0' can not be deduced because there are more than one variable-sized dimension"),
        (([-1],), "BYTES", "For BYTE datatype raw input 'x0', the model must have input shape [1]"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_deduced_is_refused(shapes: tuple[list[int], ...], datatype: str, said: str) -> None:
    with pytest.raises(PenstockError) as caught:
        raw(bytes(16), *shapes, datatype=datatype)
    assert caught.value.message == f"[request id: <id_unknown>] {said}"


# --- responses ----------------------------------------------------------------------------------------------------------------

Y = OutputTensor("y", "INT32", [2], memoryview(b"\1\0\0\0\2\0\0\0"))
START = '{"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"INT32","shape":[2]'


def test_a_response_is_compact_json() -> None:
    found = response_of(InferAnswer("m", 3, "", [Y]), Form())
    assert (b"".join(found.body).decode(), found.headers) == (START + ',"data":[1,2]}]}', {"Content-Type": "application/json"})


def test_an_id_is_given_back() -> None:
    found = response_of(InferAnswer("m", 3, "7", [Y]), Form())
    assert b"".join(found.body).startswith(b'{"id":"7","model_name"')


def test_binary_outputs_follow_the_json() -> None:
    found = response_of(InferAnswer("m", 3, "", [Y]), Form({"y": True}))
    header = START + ',"parameters":{"binary_data_size":8}}]}'
    assert b"".join(found.body) == header.encode() + bytes(Y.content or b"")
    assert found.headers == {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(header))}


def test_a_binary_output_of_no_bytes_makes_no_binary_response() -> None:
    empty = OutputTensor("y", "INT32", [2], memoryview(b""))
    found = response_of(InferAnswer("m", 3, "", [empty]), Form(otherwise=True))
    assert b"".join(found.body).decode() == START + ',"parameters":{"binary_data_size":0}}]}'
    assert found.headers == {"Content-Type": "application/json"}


def test_an_output_in_a_region_has_neither_data_nor_parameters() -> None:
    placed = OutputTensor("y", "INT32", [2], None)
    found = response_of(InferAnswer("m", 3, "", [placed]), Form(otherwise=True))
    assert b"".join(found.body).decode() == START + "}]}"
