# SPDX-License-Identifier: Apache-2.0
"""The layout of PeopleNet, a DetectNet_v2 model: shapes, classes and the constants by which its boxes are coded. Pure.

Sources: PeopleNet's model card, and its configuration and postprocessor in NVIDIA-AI-IOT/tao-toolkit-triton-apps, which have
the stride, the norm and the offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.errors import invalid
from ..models import ModelInfo, TensorInfo

Pixels = npt.NDArray[np.uint8]
"""An image of any size: [height, width, 3], RGB."""

WIDTH, HEIGHT = 960, 544
"""Of the image that the network sees, in pixels."""

CLASSES = ("person", "bag", "face")
STRIDE = 16
"""Pixels between the centres of neighbouring cells."""

ROWS, COLUMNS = HEIGHT // STRIDE, WIDTH // STRIDE
IMAGE_SHAPE = (3, HEIGHT, WIDTH)
"""RGB, each value 0 to 1."""

COVERAGE_SHAPE = (len(CLASSES), ROWS, COLUMNS)
BOXES_SHAPE = (4 * len(CLASSES), ROWS, COLUMNS)
"""Of each class the distances from a cell's centre to the left, upper, right and lower side of its box, in BOX_NORM pixels."""

BOX_NORM = 35.0
CENTRE_OFFSET = 0.5
"""The centre of cell i is at i * STRIDE + CENTRE_OFFSET pixels."""


class DetectorTensors(NamedTuple):
    """What a model calls the tensors of the layout. PeopleNet: input_1, output_cov/Sigmoid, output_bbox/BiasAdd."""

    image: str
    coverage: str
    boxes: str

    @classmethod
    def of(cls, model: ModelInfo) -> DetectorTensors:
        """Found by their shapes, as exports of one network differ in names. Raises CallerError where the layout is another."""
        return cls(
            _the_one(model, "input", model.inputs, IMAGE_SHAPE),
            _the_one(model, "output", model.outputs, COVERAGE_SHAPE),
            _the_one(model, "output", model.outputs, BOXES_SHAPE),
        )


def _the_one(model: ModelInfo, kind: str, tensors: Sequence[TensorInfo], shape: tuple[int, ...]) -> str:
    fitting = [tensor.name for tensor in tensors if tensor.datatype == "FP32" and _fits(tensor.dims, shape)]
    if len(fitting) != 1:
        has = ", ".join(f"'{tensor.name}' {tensor.datatype} {list(tensor.dims)}" for tensor in tensors)
        raise invalid(
            f"model '{model.name}' is no detector of the layout of PeopleNet: expected one {kind} FP32 {list(shape)} "
            f"besides the batch dimension, its {kind}s are {has}"
        )
    return fitting[0]


def _fits(dims: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
