# SPDX-License-Identifier: Apache-2.0
"""Requests whose inputs may be left out, or differ in shape: what they must agree on to share a batch, and what a worker is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from scripted import ScriptedBroker

from penstock.ipc.codec import encode
from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Infer, InputSlice, InputTensor, OutputPlace, OutputTensor, Placement, Query
from penstock.runtime.admission import admit
from penstock.runtime.queries import Queries
from penstock.runtime.requests import InferRequest

OPTIONAL = """
name: "optional"
backend: "fake"
max_batch_size: 4
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "b" data_type: TYPE_FP32 dims: [ 2 ] optional: true },
  { name: "c" data_type: TYPE_FP32 dims: [ -1 ] optional: true }
]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
ONLY_OPTIONAL = OPTIONAL.replace('"optional"', '"whims"').replace("dims: [ 2 ] },", "dims: [ 2 ] optional: true },")
FIXED = OPTIONAL.replace('"optional"', '"fixed"').replace("dims: [ -1 ]", "dims: [ 3 ]")
RAGGED = """
name: "ragged"
backend: "fake"
max_batch_size: 4
input [
  { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true },
  { name: "f" data_type: TYPE_FP32 dims: [ 2 ] }
]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
batch_output [ { target_name: "y" source_input: "x" } ]
"""
MIXED = RAGGED.replace('"ragged"', '"mixed"').replace("dims: [ 2 ] }", "dims: [ -1 ] }")
RESHAPED = """
name: "reshaped"
backend: "fake"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 3 ] reshape { shape: [ 6 ] } } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 2 ] reshape { shape: [ 6 ] } } ]
"""

Admit = Callable[..., InferRequest]


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(OPTIONAL, ONLY_OPTIONAL, FIXED, RAGGED, MIXED, RESHAPED, load_threads=64)
    made.start()
    yield made
    made.end_sessions()


@pytest.fixture
def admitted(broker: ScriptedBroker) -> Admit:
    """Admits a request for a model with inputs of these shapes, which lie one after the other, and says what became of it."""
    client = broker.client()

    def ask(model: str, shapes: dict[str, list[int]], outputs: Sequence[OutputPlace] = ()) -> InferRequest:
        tensors = []
        for at, (name, shape) in enumerate(shapes.items()):
            count = 1
            for size in shape:
                count *= size
            tensors.append(InputTensor(name, "FP32", shape, "r", 256 * at, 4 * count))
        message = Infer(1, model, msgspec.Raw(encode(tensors)), msgspec.Raw(encode(list(outputs))))
        request = admit(broker.core.regions, broker.core.shared, broker.core.models, client, message, (), 1, 0)
        broker.core.regions.release(request.binding.regions)
        return request

    return ask


def placement(request: InferRequest) -> Placement:
    return msgspec.msgpack.decode(request.binding.item, type=Placement)


# --- optional --------------------------------------------------------------------------------------------------------------


def test_an_input_that_was_left_out_has_no_region(admitted: Admit) -> None:
    x, b, c = placement(admitted("optional", {"x": [1, 2], "c": [1, 5]})).inputs

    assert x.region == c.region >= 0
    assert b == InputSlice(-1, 0, 0, [])
    assert (c.offset, c.byte_size, c.shape) == (256, 20, [1, 5])


def test_requests_share_a_batch_when_the_same_inputs_are_there_in_the_same_shapes(admitted: Admit) -> None:
    def key(**shapes: list[int]) -> object:
        return admitted("optional", shapes).shape_key

    both = key(x=[1, 2], b=[1, 2], c=[1, 5])

    assert key(c=[2, 5], b=[2, 2], x=[2, 2]) == both
    assert len({both, key(x=[1, 2], b=[1, 2]), key(x=[1, 2], c=[1, 5]), key(x=[1, 2]), key(x=[1, 2], c=[1, 4])}) == 5


def test_an_optional_input_counts_where_every_shape_is_fixed(admitted: Admit) -> None:
    keys = [admitted("fixed", {"x": [rows, 2], **more}).shape_key for rows, more in ((1, {}), (2, {}), (1, {"c": [1, 3]}))]

    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({}, "expected number of inputs between 1 and 3 but got 0 inputs for model 'optional'. Got input(s) [], but missing required input(s) ['x']. Please provide all required input(s)."),
        ({"b": [1, 2], "c": [1, 1]}, "expected number of inputs between 1 and 3 but got 2 inputs for model 'optional'. Got input(s) ['b','c'], but missing required input(s) ['x']. Please provide all required input(s)."),
        ({"x": [1, 2], "q": [1, 2]}, "unexpected inference input 'q' for model 'optional'; its inputs are 'x','b','c'"),
        ({"x": [1, 2], "b": [2, 2]}, "input 'b' batch size does not match other inputs for 'optional': 2 and 1"),
        ({"x": [1, 2], "b": [1, 3]}, "unexpected shape for input 'b' for model 'optional'. Expected [-1,2], got [1,3]."),
    ],
)  # fmt: skip
def test_what_must_be_there_is_asked_for_by_name(admitted: Admit, shapes: dict[str, list[int]], text: str) -> None:
    with pytest.raises(CallerError) as refused:
        admitted("optional", shapes)

    assert refused.value.message.startswith(text)


def test_a_request_without_any_input_has_no_rows(admitted: Admit) -> None:
    with pytest.raises(CallerError, match="model 'whims' has a batch dimension: without any input a request has no rows"):
        admitted("whims", {})


def test_metadata_says_what_may_be_left_out(broker: ScriptedBroker) -> None:
    document: Any = Queries(broker.core).answer(broker.client(), Query(1, "metadata", "optional"))

    assert [row.get("optional", False) for row in document["inputs"]] == [False, True, True]
    assert "optional" not in document["inputs"][0] and "optional" not in document["outputs"][0]


# --- ragged ----------------------------------------------------------------------------------------------------------------


def test_ragged_inputs_are_left_out_of_what_requests_must_agree_on(admitted: Admit) -> None:
    keys = {admitted("ragged", {"x": [1, size], "f": [1, 2]}).shape_key for size in (3, 4, 5)}
    assert keys == {None}  # every other input is of a fixed shape: nothing is compared at all

    def key(ragged: int, other: int) -> object:
        return admitted("mixed", {"x": [1, ragged], "f": [1, other]}).shape_key

    assert key(3, 2) == key(4, 2) != key(3, 3)


def test_the_shape_of_a_split_output_is_known_from_its_input(admitted: Admit) -> None:
    request = admitted("ragged", {"x": [2, 3], "f": [2, 2]}, [OutputPlace("y", "r", 1024, 100)])

    assert request.binding.reply is not None
    outputs = msgspec.msgpack.decode(request.binding.reply, type=list[OutputTensor])
    assert outputs == [OutputTensor("y", "FP32", [2, 3], "r", 1024, 24)]
    with pytest.raises(CallerError, match=r"output 'y' of model 'ragged' \(24 bytes\) should be at least 28 bytes"):
        admitted("ragged", {"x": [1, 7], "f": [1, 2]}, [OutputPlace("y", "r", 1024, 24)])


# --- reshape ---------------------------------------------------------------------------------------------------------------


def test_clients_see_dims_and_not_what_the_model_makes_of_them(admitted: Admit) -> None:
    request = admitted("reshaped", {"x": [2, 2, 3]}, [OutputPlace("y", "r", 1024, 100)])

    assert placement(request).inputs[0].shape == [2, 2, 3]
    assert request.binding.reply is not None
    (output,) = msgspec.msgpack.decode(request.binding.reply, type=list[OutputTensor])
    assert (output.shape, output.byte_size) == ([2, 3, 2], 48)
    with pytest.raises(
        CallerError, match=r"unexpected shape for input 'x' for model 'reshaped'. Expected \[-1,2,3\], got \[2,6\]"
    ):
        admitted("reshaped", {"x": [2, 6]})
