# SPDX-License-Identifier: Apache-2.0
"""A detector is known by the shapes of its tensors, whatever they are called; another model is refused by what does not fit."""

from __future__ import annotations

import pytest

from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.people_detection.layout import DetectorTensors
from penstock.ipc.errors import CallerError

IMAGE = TensorInfo("input_1:0", "FP32", (3, 544, 960))
COVERAGE = TensorInfo("cov", "FP32", (3, 34, 60))
BOXES = TensorInfo("bbox", "FP32", (12, 34, 60))


def model(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> ModelInfo:
    return ModelInfo("mine", -1, 1, (1,), "onnxruntime_onnx", 16, inputs, outputs)


@pytest.mark.parametrize("outputs", [(COVERAGE, BOXES), (BOXES, COVERAGE)])
def test_outputs_are_told_apart_by_shape_and_not_by_name_or_order(outputs: tuple[TensorInfo, ...]) -> None:
    assert DetectorTensors.of(model((IMAGE,), outputs)) == ("input_1:0", "cov", "bbox")


def test_an_image_of_any_size_is_one_of_this_size_too() -> None:
    anything = IMAGE._replace(dims=(3, -1, -1))
    assert DetectorTensors.of(model((anything,), (COVERAGE, BOXES))).image == "input_1:0"


def test_further_outputs_are_left_alone() -> None:
    counts = TensorInfo("count", "INT32", (1,))
    assert DetectorTensors.of(model((IMAGE,), (counts, BOXES, COVERAGE))).coverage == "cov"


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ((IMAGE._replace(dims=(544, 960, 3)),), (COVERAGE, BOXES), "expected one input FP32 [3, 544, 960] besides the batch dimension, its inputs are 'input_1:0' FP32 [544, 960, 3]"),
        ((IMAGE._replace(datatype="FP16"),), (COVERAGE, BOXES), "its inputs are 'input_1:0' FP16 [3, 544, 960]"),
        ((IMAGE,), (COVERAGE._replace(dims=(4, 34, 60)), BOXES), "expected one output FP32 [3, 34, 60]"),
        ((IMAGE,), (COVERAGE,), "expected one output FP32 [12, 34, 60] besides the batch dimension, its outputs are 'cov' FP32 [3, 34, 60]"),
        ((IMAGE,), (COVERAGE, COVERAGE._replace(name="other"), BOXES), "'cov' FP32 [3, 34, 60], 'other' FP32 [3, 34, 60]"),
    ],
)  # fmt: skip
def test_a_model_of_another_layout_is_refused_by_what_it_has(
    inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], said: str
) -> None:
    with pytest.raises(CallerError) as raised:
        DetectorTensors.of(model(inputs, outputs))
    assert "model 'mine' is no detector of the layout of PeopleNet" in raised.value.message
    assert said in raised.value.message
