# SPDX-License-Identifier: Apache-2.0
"""What a client makes of a model's description, and of what it is given as inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.clients.models import (
    Classification,
    ModelInfo,
    TensorInfo,
    TensorLayout,
    check_inputs,
    layout_of_arrays,
    layout_of_batch,
)
from penstock.ipc.errors import CallerError


def model(batch: int, *inputs: TensorInfo) -> ModelInfo:
    return ModelInfo("m", -1, 1, (1,), "", batch, inputs, (TensorInfo("y", "FP32", (2,)), TensorInfo("z", "FP32", (-1,))))


def test_metadata_loses_its_batch_dimension() -> None:
    document: dict[str, Any] = {
        "name": "m", "version": "2", "versions": ["1", "2"], "platform": "p", "max_batch_size": 4,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]}], "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1, 1]}],
    }  # fmt: skip
    info = ModelInfo.from_metadata(document, -1)
    assert (info.version, info.versions, info.inputs[0].dims, info.outputs[0].dims) == (2, (1, 2), (3, -1), (1,))
    assert ModelInfo.from_metadata({**document, "max_batch_size": 0}, 2).inputs[0].dims == (-1, 3, -1)


def test_layouts_have_rows_and_sizes() -> None:
    layout = layout_of_batch(model(8, TensorInfo("x", "FP16", (3,))), 5, {}, None)
    assert (layout.inputs[0].shape, layout.inputs[0].byte_size) == ((5, 3), 30)
    assert [(spec.shape, spec.byte_size) for spec in layout.outputs] == [((5, 2), 40), ((5, -1), -1)]
    flat = layout_of_batch(model(0, TensorInfo("x", "FP16", (3,))), None, {"z": (7,)}, ["z"])
    assert [(spec.name, spec.shape, spec.byte_size) for spec in flat.outputs] == [("z", (7,), 28)]


@pytest.mark.parametrize(
    ("batch", "shapes", "wanted", "text"),
    [
        (0, {}, None, "batch must be 1 to 8, got 0"),
        (9, {}, None, "batch must be 1 to 8, got 9"),
        (1, {}, None, r"input 'x'.*dims are \[-1, 2\]; give shapes"),
        (1, {"x": (3, 3)}, None, r"input 'x' has dims \[-1, 2\], given is shape \[3, 3\]"),
        (1, {"x": (3,)}, None, r"given is shape \[3\]"),
        (1, {"q": (3,)}, None, "no tensor 'q'; it has"),
        (1, {"x": (3, 2)}, ["nope"], r"no output 'nope'; it has \['y', 'z'\]"),
    ],
)
def test_impossible_slots_are_refused_by_name(batch: int, shapes: Any, wanted: Any, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        layout_of_batch(model(8, TensorInfo("x", "FP32", (-1, 2))), batch, shapes, wanted)


def test_models_without_batch_dimension_take_no_batch_and_bytes_no_slot() -> None:
    with pytest.raises(CallerError, match="no batch dimension"):
        layout_of_batch(model(0, TensorInfo("x", "FP32", (2,))), 1, {}, None)
    with pytest.raises(CallerError, match="BYTES elements have no fixed size"):
        layout_of_batch(model(0, TensorInfo("x", "BYTES", (2,))), None, {}, None)


def test_inputs_must_be_those_of_the_model() -> None:
    info = model(0, TensorInfo("a", "FP32", ()), TensorInfo("b", "FP32", ()))
    check_inputs(info, {"b": 1, "a": 2})
    with pytest.raises(CallerError, match=r"missing \['b'\], unknown \['c'\]"):
        check_inputs(info, {"a": 1, "c": 2})


def test_layouts_of_arrays_know_the_size_of_bytes() -> None:
    info = model(8, TensorInfo("x", "FP32", (2,)), TensorInfo("s", "BYTES", (1,)))
    contents: dict[str, Any] = {"x": np.ones((3, 2), np.float32), "s": b"12345"}
    layout = layout_of_arrays(info, contents, {"x": (3, 2), "s": (3, 1)}, ["y"])
    assert [spec.byte_size for spec in layout.inputs] == [24, 5]
    assert layout.outputs[0].shape == (3, 2)


OPTIONAL = model(
    8, TensorInfo("x", "FP32", (2,), optional=True), TensorInfo("b", "FP32", (3,)), TensorInfo("t", "BYTES", (1,), True)
)


def test_optional_inputs_may_be_left_out_and_no_others() -> None:
    check_inputs(OPTIONAL, {"b": 1})
    check_inputs(OPTIONAL, {"b": 1, "x": 1, "t": 1})
    with pytest.raises(CallerError, match=r"given are \['x'\] \(missing \['b'\], unknown \[\]\)"):
        check_inputs(OPTIONAL, {"x": 1})


def test_the_rows_are_those_of_an_input_that_is_there() -> None:
    layout = layout_of_arrays(OPTIONAL, {"b": np.zeros((4, 3), np.float32)}, {"b": (4, 3)}, ["y"])

    assert [spec.name for spec in layout.inputs] == ["b"]
    assert layout.outputs[0].shape == (4, 2)


def test_a_slot_is_cut_for_all_inputs_but_those_left_out() -> None:
    assert [spec.name for spec in layout_of_batch(OPTIONAL, 1, {}, None, ["t"]).inputs] == ["x", "b"]
    assert [spec.name for spec in layout_of_batch(OPTIONAL, 1, {}, None, ["x", "t"]).inputs] == ["b"]
    with pytest.raises(CallerError, match="input 'b' is not optional, it cannot be left out"):
        layout_of_batch(OPTIONAL, 1, {}, None, ["b", "t"])
    with pytest.raises(CallerError, match="model 'm' has no input 'q'"):
        layout_of_batch(OPTIONAL, 1, {}, None, ["q"])


def test_an_output_wanted_as_classes_is_text_without_a_place() -> None:
    info = model(8, TensorInfo("x", "FP32", (2,)))
    layout = layout_of_batch(info, 2, {}, {"y": Classification(3)})
    assert layout.outputs == (TensorLayout("y", "BYTES", (), -1, 3),)
    assert layout_of_batch(info, 2, {}, {"y": None}).outputs == layout_of_batch(info, 2, {}, ["y"]).outputs
    with pytest.raises(CallerError, match="'m': output 'y': at least 1 class must be asked for, got -1"):
        layout_of_batch(info, 2, {}, {"y": Classification(-1)})
