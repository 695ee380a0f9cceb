# SPDX-License-Identifier: Apache-2.0
"""What is sent: arrays for every input of a model, the same whenever the seed is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ipc.tensors import FLOATING, elements, numpy_dtype
from ..models import Array, ModelInfo
from .plan import Plan

INTEGERS_BELOW = 128
"""Random integers fit every integer type, and are indices that most tables have."""
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)


def make_inputs(model: ModelInfo, shapes: Mapping[str, tuple[int, ...]], plan: Plan, number: int) -> dict[str, Array]:
    """The inputs of request `number`: distinct from those of every other where they are random."""
    generator = np.random.default_rng((plan.seed, number))
    arrays = {}
    for spec in model.inputs:
        shape = shapes[spec.name]
        if plan.input_data == "random":
            arrays[spec.name] = _random(generator, spec.datatype, shape, plan.string_length)
        else:
            arrays[spec.name] = np.full(shape, b"", object) if spec.datatype == "BYTES" else _zeros(spec.datatype, shape)
    return arrays


def _zeros(datatype: str, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, numpy_dtype(datatype))


def _random(generator: np.random.Generator, datatype: str, shape: tuple[int, ...], string_length: int) -> Array:
    """Fractions from 0 to 1, whole numbers from 0 to 127, strings of small letters."""
    if datatype == "BYTES":
        letters = LETTERS[generator.integers(0, len(LETTERS), (elements(shape), string_length))]
        strings = np.empty(elements(shape), object)
        strings[:] = [row.tobytes() for row in letters]
        return strings.reshape(shape)
    if datatype not in FLOATING:
        below = 2 if datatype == "BOOL" else INTEGERS_BELOW
        return generator.integers(0, below, shape, np.uint8).astype(numpy_dtype(datatype))
    fractions: np.ndarray[Any, np.dtype[np.float32]] = generator.random(shape, np.float32)
    if datatype == "BF16":  # the upper half of a float32
        return (fractions.view(np.uint32) >> 16).astype(np.uint16).reshape(shape)
    return fractions.astype(numpy_dtype(datatype), copy=False)
