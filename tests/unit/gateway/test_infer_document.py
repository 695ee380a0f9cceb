# SPDX-License-Identifier: Apache-2.0
"""The JSON of inference requests: what is taken, and in which words of Triton's (2.51, asked) the rest is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.runtime.gateway.over_http.infer_document import Document, read, read_apart

INPUT = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
NO_SOURCE = "attempt to access non-existing object member"


def text(**changes: Any) -> bytes:
    """A request with one input, which has these changes; None leaves a field out."""
    return json.dumps({"inputs": [{key: value for key, value in {**INPUT, **changes}.items() if value is not None}]}).encode()


def refusal(written: bytes) -> str:
    with pytest.raises(CallerError) as caught:
        read(written)
    assert caught.value.code is Code.INTERNAL  # as Triton answers them: 500
    return caught.value.message


def of(document: Document) -> tuple[Any, ...]:
    """All but the data, which is read or not."""
    return (
        document.id, document.parameters, document.outputs,
        [(given.name, given.datatype, given.shape, given.parameters) for given in document.inputs],
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    [
        text(),
        b'{"inputs":[]}',
        b'{"id":"7","inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":true,"classification":3}}]}',
        b'{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}}]}',
        text(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}),
        text(data=None, parameters={"binary_data_size": 8}),
        text(something_else={"a": [1]}, parameters={"custom": 1}),
        b'{"inputs":[],"parameters":{"sequence_id":"s","a":1.5,"b":true}}',
    ],
)
def test_a_request_reads_the_same_in_one_pass_and_taken_apart(written: bytes) -> None:
    assert of(read(written)) == of(read_apart(written))


@pytest.mark.parametrize("parameters", [1, [], "x", True])
def test_parameters_of_tensors_that_are_no_object_are_passed_over(parameters: Any) -> None:
    document = read(text(parameters=parameters))
    assert document.inputs[0].parameters == read(text()).inputs[0].parameters
    outputs = json.dumps({"inputs": [], "outputs": [{"name": "y", "parameters": parameters}]}).encode()
    assert read(outputs).outputs[0].name == "y"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (text(name=1), "Unable to parse 'name': attempt to access JSON non-string as string"),
        (text(name=None), f"Unable to parse 'name': {NO_SOURCE} 'name'"),
        (text(datatype=[]), "Unable to parse 'datatype': attempt to access JSON non-string as string"),
        (text(datatype=None), f"Unable to parse 'datatype': {NO_SOURCE} 'datatype'"),
        (text(shape=2), "Unable to parse 'shape': attempt to access JSON non-array as array"),
        (text(shape=None), f"Unable to parse 'shape': {NO_SOURCE} 'shape'"),
        *(
            (text(shape=[size]), "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer")
            for size in (-1, 1.5, True, "2", 2**64)
        ),
        (b'{"id":1,"inputs":[]}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (b'{"id":null,"inputs":[]}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (b"{}", f"Unable to parse 'inputs': {NO_SOURCE} 'inputs'"),
        (b"[]", f"Unable to parse 'inputs': {NO_SOURCE} 'inputs'"),
        (b'{"inputs":{}}', "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        (b'{"inputs":[],"outputs":null}', "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        (b'{"inputs":[],"outputs":[1]}', f"Unable to parse 'name': {NO_SOURCE} 'name'"),
        (b'{"inputs":[],"parameters":1}', "failed to get request params.: attempt to get members for non-object"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(written: bytes, said: str) -> None:
    assert refusal(written) == said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("binary_data", 1, "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean"),
        (
            "classification",
            -1,
            "Unable to set 'classification': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        ("shared_memory_region", None, "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string"),
        *(
            (field, "8", f"Unable to parse '{field}': attempt to access JSON non-unsigned-integer as unsigned-integer")
            for field in ("shared_memory_byte_size", "shared_memory_offset")
        ),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named(field: str, value: Any, said: str) -> None:
    assert refusal(json.dumps({"inputs": [], "outputs": [{"name": "y", "parameters": {field: value}}]}).encode()) == said


def test_what_is_wrong_first_is_said_first() -> None:
    assert "'id'" in refusal(b'{"outputs":1,"inputs":1,"id":1}')
    assert "'inputs'" in refusal(b'{"outputs":1,"inputs":1}')


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"{", "Missing a name for object member. at 1"),
        (b'{"inputs" 1}', "Missing a colon after a name of object member. at 10"),
        (b'{"inputs":[1 2]}', "Missing a comma or a closing bracket. at 13"),
        (b'{"inputs":[],}', "Missing a name for object member. at"),
        (b'{"a":[1,}', "Invalid value. at"),
        (b"{} x", "The document root must not be followed by other values. at 3"),
        (b"   ", "The document is empty. at 3"),
        (b'{"a":"\n"}', "Invalid escape character in string. at 6"),
        (b'{"a":"\xff"}', "Invalid encoding in string. at 6"),
        (b'{"a":"\\ud800"}', "The surrogate pair in string is invalid. at 6"),
        ('{"é":1e999}'.encode(), "Number too big to be stored in double. at 6"),  # counted in bytes
    ],
)
def test_text_that_is_no_json_is_answered_with_the_place(written: bytes, said: str) -> None:
    assert refusal(written).startswith(f"failed to parse the request JSON buffer: {said}")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_triton_reads_and_json_has_not_are_read(value: str) -> None:
    document = read_apart(text().replace(b"1", value.encode()))
    assert str(document.inputs[0].values[0]) == str(float(value))  # type: ignore[attr-defined]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [100, 101, 5000])
def test_json_may_be_nested_a_hundred_deep(depth: int) -> None:
    # Given an object around arrays, of that depth together, in a member that means nothing
    written = b'{"inputs":[],"a":' + nested(depth - 1) + b"}"
    if depth <= 100:
        assert read(written).inputs == []
    else:
        assert refusal(written) == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_many_brackets_are_not_deep() -> None:
    given = [[number] for number in range(500)]
    assert read(text(data=given)).inputs[0].name == "x"
    assert read(text(something_else=given)).inputs[0].name == "x"


@pytest.mark.parametrize("inside", ['"' + "[" * 200 + '"', '"\\"' + "{" * 200 + '"', '"\\\\","' + "[" * 200 + '"'])
def test_brackets_in_strings_nest_nothing(inside: str) -> None:
    assert read(b'{"inputs":[],"a":[%s]}' % inside.encode()).inputs == []


def test_what_means_nothing_is_not_made_into_objects() -> None:
    # Given a small request with hundreds of thousands of arrays beside it
    written = b'{"inputs":[],"a":[' + b"[]," * 300_000 + b"[]]}"
    # When it is read
    tracemalloc.start()
    try:
        read(written)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Then that takes what bytes take: each array would take 56 more
    assert most < 10 * len(written)
