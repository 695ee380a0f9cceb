# SPDX-License-Identifier: Apache-2.0
"""Models that see other tensors than their clients: scalars, reshaped, optional and ragged ones, from the client to the answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from running import RunningBroker

from penstock.clients import CallerError, Client, InferResult

Array = npt.NDArray[Any]
SAMPLES = Path(__file__).resolve().parents[2] / "model_repository"

PATIENT = "dynamic_batching { preferred_batch_size: [ %d ] max_queue_delay_microseconds: 60000000 }"
"""A batch of the preferred size is sent at once, a smaller one after a minute: never, for a test."""

OPTIONAL = """
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "b" data_type: TYPE_FP32 dims: [ 2 ] optional: true }
]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: 1 } ]
"""
TRANSPOSED = """
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 6 ] reshape { shape: [ 2, 3 ] } } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 6 ] reshape { shape: [ 3, 2 ] } } ]
instance_group [ { count: 1 } ]
"""
SPLIT = """
backend: "fake"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] allow_ragged_batch: true } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
batch_output [ { target_name: "y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "x" } ]
"""

Dims = Sequence[Any]


def add_onnx(
    repository: Path, name: str, node: onnx.NodeProto, inputs: dict[str, Dims], output: Dims, config: str = "",
    **constants: Array,
) -> None:  # fmt: skip
    """A model of one node, whose tensors are FP32 and whose output is y."""
    tensors = [helper.make_tensor_value_info(key, TensorProto.FLOAT, list(dims)) for key, dims in inputs.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(output))
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph([node], "g", tensors, [result], initializers)
    (repository / name / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        repository / name / "1" / "model.onnx",
    )
    if config:
        (repository / name / "config.pbtxt").write_text(config)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker for all stories, on models of every sort."""
    repository = tmp_path_factory.mktemp("models")
    add_onnx(repository, "scalar", helper.make_node("Neg", ["x"], ["y"]), {"x": []}, [])
    add_onnx(
        repository,
        "total",
        helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0),
        {"x": ["n", 3]},
        ["n"],
        axes=np.array([1]),
    )
    transpose = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])
    add_onnx(repository, "transposed", transpose, {"x": ["n", 2, 3]}, ["n", 3, 2], TRANSPOSED)
    b = np.array([[10, 20]], np.float32)
    add = helper.make_node("Add", ["x", "b"], ["y"])
    add_onnx(repository, "optional", add, {"x": ["n", 2], "b": ["n", 2]}, ["n", 2], OPTIONAL + PATIENT % 2, b=b)
    shutil.copytree(SAMPLES / "ragged_sum", repository / "ragged_sum")
    config = (SAMPLES / "ragged_sum" / "config.pbtxt").read_text()
    patient = config.replace("dynamic_batching { max_queue_delay_microseconds: 1000 }", PATIENT % 3)
    assert patient != config
    (repository / "ragged_sum" / "config.pbtxt").write_text(patient)
    (repository / "split" / "1").mkdir(parents=True)
    (repository / "split" / "config.pbtxt").write_text(SPLIT + PATIENT % 3)
    with RunningBroker(tmp_path_factory.mktemp("broker"), repository, with_tcp=True) as running:
        yield running


@pytest.fixture(params=["local", "zmq", "tcp"])
def client(broker: RunningBroker, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Over every link, and with inline tensors."""
    with broker.client(str(request.param)) as connected:
        yield connected


def fp32(*values: object) -> Array:
    return np.array(values, np.float32)


def together(client: Client, model: str, requests: Sequence[dict[str, Array]]) -> list[InferResult]:
    """The answers to requests that are all under way before any of them is waited for."""
    futures = [client.submit(model, inputs, explain=True) for inputs in requests]
    return [future.result() for future in futures]


def shared(results: Sequence[InferResult]) -> list[int]:
    """With how many requests each was executed, itself included."""
    return [result.explain.batch_requests for result in results if result.explain is not None]


# --- scalars and reshape ---------------------------------------------------------------------------------------------------


def test_a_scalar_needs_no_configuration(client: Client) -> None:
    assert client.model("scalar").inputs[0].dims == (1,)
    assert client.config("scalar")["output"][0]["reshape"] == {"shape": []}

    for value in (3.0, 4.0):
        assert client.infer("scalar", {"x": fp32(value)}).outputs["y"].tolist() == [-value]


def test_an_element_per_row_needs_no_configuration(client: Client) -> None:
    result = client.infer("total", {"x": fp32([1, 2, 3], [4, 5, 6])})

    assert result.outputs["y"].tolist() == [[6], [15]]


def test_clients_see_the_configured_dims_and_the_model_its_own(client: Client) -> None:
    with client.buffers("transposed", 1) as slot:
        slot.inputs["x"][:] = [[0, 1, 2, 3, 4, 5]]
        assert client.infer(slot).outputs["y"].tolist() == [[0, 3, 1, 4, 2, 5]]
    with pytest.raises(CallerError, match="has shape"):
        client.infer("transposed", {"x": np.zeros((1, 2, 3), np.float32)})


# --- optional inputs -------------------------------------------------------------------------------------------------------


def test_requests_that_leave_an_input_out_are_batched_among_themselves(client: Client) -> None:
    """Given one request with the optional input and two without, when they are queued in this order, then the first goes alone."""
    assert [tensor.optional for tensor in client.model("optional").inputs] == [False, True]

    requests = [{"x": fp32([1, 2]), "b": fp32([5, 5])}, {"x": fp32([3, 4])}, {"x": fp32([7, 8])}]
    found = together(client, "optional", requests)

    assert [result.outputs["y"].tolist() for result in found] == [[[6, 7]], [[13, 24]], [[17, 28]]]
    assert shared(found) == [1, 2, 2]
    assert [result.explain.closed for result in found if result.explain] == ["shape", "preferred", "preferred"]


def test_a_slot_without_the_optional_input(client: Client) -> None:
    with client.buffers("optional", 2, left_out=["b"]) as slot, client.buffers("optional", 2) as full:
        assert (sorted(slot.inputs), sorted(full.inputs)) == (["x"], ["b", "x"])
        slot.inputs["x"][:] = full.inputs["x"][:] = [[1, 2], [3, 4]]
        full.inputs["b"][:] = 1
        for _ in range(2):
            assert client.infer(slot).outputs["y"].tolist() == [[11, 22], [13, 24]]
            assert client.infer(full).outputs["y"].tolist() == [[2, 3], [4, 5]]


def test_a_required_input_is_missed_by_name(client: Client) -> None:
    with pytest.raises(CallerError, match=r"given are \['b'\] \(missing \['x'\], unknown \[\]\)"):
        client.infer("optional", {"b": fp32([1, 2])})


# --- ragged batches --------------------------------------------------------------------------------------------------------


def test_three_requests_of_different_shapes_share_a_batch_and_each_gets_its_own_answer(client: Client) -> None:
    given = [fp32([1, 2, 3]), fp32([10, 20, 30, 40]), fp32([100, 200, 300, 400, 500])]

    for rows in (given, given[::-1]):
        found = together(client, "ragged_sum", [{"VALUES": row} for row in rows])
        assert [result.outputs["SUM"].tolist() for result in found] == [[[row.sum()]] for row in rows]
        assert shared(found) == [3, 3, 3]


def test_ragged_requests_may_have_several_rows(client: Client) -> None:
    (alone,) = together(client, "ragged_sum", [{"VALUES": fp32([1, 2], [3, 4], [5, 6])}])
    assert alone.outputs["SUM"].tolist() == [[3], [7], [11]]

    found = together(client, "ragged_sum", [{"VALUES": fp32([1, 2, 3], [4, 5, 6])}, {"VALUES": fp32([7])}])
    assert [result.outputs["SUM"].tolist() for result in found] == [[[6], [15]], [[7]]]
    assert shared(found) == [2, 2]


def test_a_split_output_has_the_shape_of_its_input(client: Client) -> None:
    given = [np.full((1, rows, 2), rows, np.float32) for rows in (3, 1, 2)]

    found = together(client, "split", [{"x": x} for x in given])

    assert shared(found) == [3, 3, 3]
    for x, result in zip(given, found, strict=True):
        np.testing.assert_array_equal(result.outputs["y"], x)


def test_split_outputs_are_written_into_slots_where_their_shape_is_said(client: Client) -> None:
    slots = [client.buffers("split", 1, shapes={"x": (rows, 2), "y": (rows, 2)}) for rows in (3, 1, 2)]
    for slot in slots:
        slot.inputs["x"][:] = np.arange(slot.inputs["x"].size).reshape(slot.inputs["x"].shape)

    found = [future.result() for future in client.submit_many(slots, explain=True)]

    assert shared(found) == [3, 3, 3]
    for slot, result in zip(slots, found, strict=True):
        np.testing.assert_array_equal(result.outputs["y"], slot.inputs["x"])
        assert np.shares_memory(result.outputs["y"], slot.outputs["y"])
        slot.close()
