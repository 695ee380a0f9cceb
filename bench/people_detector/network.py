# SPDX-License-Identifier: Apache-2.0
"""The small detector: depthwise separable convolutions down to a cell of 16 pixels, and what it is as an ONNX graph.

    image [3, 544, 960] -> stem, 4 pixels a cell -> 3 blocks at 8 -> 3 at 16 ---------+-> 2 at 16 -> coverage [3, 34, 60]
                                                                       +-> 4 at 32 -> +              boxes [12, 34, 60]

The blocks at 32 look far around themselves, as a cell at somebody's waist must see their head and feet; what they see is added
to the cells of 16, which know where exactly a side is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from penstock.clients.people_detection.layout import BOXES_SHAPE, CLASSES, COVERAGE_SHAPE, IMAGE_SHAPE

IMAGE, COVERAGE, BOXES = "input_1", "output_cov/Sigmoid", "output_bbox/BiasAdd"
OPSET, IR_VERSION = 13, 8
"""Old enough for onnxruntime 1.18, the oldest that Penstock takes."""


class Convolution(nn.Sequential):
    """A convolution, its normalisation, and a ReLU where it is not linear."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, relu: bool
    ) -> None:
        padding = (dilation * (size - 1) + 1 - stride + 1) // 2
        layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)
        super().__init__(layer, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))


class Block(nn.Module):
    """Depthwise, then pointwise; added to its input where the shapes are the same."""

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.around = Convolution(inputs, inputs, size, stride=stride, dilation=dilation, groups=inputs, relu=False)
        self.across = Convolution(inputs, outputs, 1, relu=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        found = self.across(self.around(cells))
        return found + cells if self.residual else found


class Detector(nn.Module):
    """FP32 [n, 3, h, w], values 0 to 1 -> logits of the coverage [n, 3, h / 16, w / 16], boxes [n, 12, h / 16, w / 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Sequential(
            Convolution(3, 24, 6, stride=4, relu=True),
            Block(24, 64, 5, stride=2),
            Block(64, 64, 3),
            Block(64, 64, 3),
            Block(64, 128, 5, stride=2),
            Block(128, 128, 5),
            Block(128, 128, 5),
        )
        self.far = nn.Sequential(
            Block(128, 160, 5, stride=2),
            *(Block(160, 160, 5, dilation=dilation) for dilation in (1, 2, 1)),
            Convolution(160, 128, 1, relu=True),
        )
        self.together = nn.Sequential(Block(128, 128, 5), Block(128, 128, 5))
        self.coverage = nn.Conv2d(128, len(CLASSES), 1)
        self.boxes = nn.Conv2d(128, 4 * len(CLASSES), 1)
        nn.init.constant_(self.coverage.bias, -4.0)  # few cells see anything
        nn.init.constant_(self.boxes.bias, 1.0)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        near = self.near(images - 0.5)
        far = functional.interpolate(self.far(near), scale_factor=2.0)
        cells = self.together(near + far)
        return self.coverage(cells), self.boxes(cells)


def onnx_model(detector: Detector) -> onnx.ModelProto:
    """The trained network under PeopleNet's names, with a variable batch dimension and the normalisations folded in."""
    graph = _Graph()
    near = graph.layers(graph.add("Sub", [IMAGE, graph.constant(np.float32(0.5))]), detector.near)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    far = graph.add(
        "Resize", [graph.layers(near, detector.far), "", scales],
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    cells = graph.layers(graph.add("Add", [near, far]), detector.together)
    graph.add("Sigmoid", [graph.head(cells, detector.coverage)], COVERAGE)
    graph.head(cells, detector.boxes, BOXES)
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in ((IMAGE, IMAGE_SHAPE), (COVERAGE, COVERAGE_SHAPE), (BOXES, BOXES_SHAPE))
    }
    model = helper.make_model(
        helper.make_graph(graph.nodes, "peoplenet", [tensors[IMAGE]], [tensors[COVERAGE], tensors[BOXES]], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bench/people_detector/train.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants, each output named after its number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: npt.NDArray[np.float32] | np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def layers(self, at: str, layers: nn.Sequential) -> str:
        for layer in layers:
            if isinstance(layer, Block):
                found = self.convolution(self.convolution(at, layer.around), layer.across)
                at = self.add("Add", [found, at]) if layer.residual else found
            else:
                at = self.convolution(at, layer)
        return at

    def convolution(self, at: str, block: Convolution) -> str:
        layer, norm = block[0], block[1]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = layer.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        found = self._conv(at, layer, weight, bias)
        return self.add("Relu", [found]) if len(block) > 2 else found

    def head(self, at: str, layer: nn.Conv2d, output: str = "") -> str:
        return self._conv(at, layer, layer.weight, layer.bias, output)

    def _conv(self, at: str, layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor, output: str = "") -> str:
        constants = [self.constant(array.detach().numpy()) for array in (weight, bias)]
        return self.add(
            "Conv", [at, *constants], output, kernel_shape=list(layer.kernel_size), strides=list(layer.stride),
            pads=[*layer.padding] * 2, dilations=list(layer.dilation), group=layer.groups,
        )  # fmt: skip


def parameters(detector: Detector) -> Iterator[int]:
    """How many values each tensor of it has."""
    return (tensor.numel() for tensor in detector.parameters())
