# SPDX-License-Identifier: Apache-2.0
"""What is sent: arrays for every input of a model, the same whenever the seed is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ipc.tensors import FLOATING, elements, numpy_dtype
from ..models import Array, ModelInfo
from .input_files import as_bfloat16, as_strings, read_input_rows
from .plan import Plan, Point, input_shapes

INTEGERS_BELOW = 128
"""Random integers fit every integer type, and are indices that most tables have."""
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
PER_REQUEST = 4
"""So many requests are prepared for each that is in flight, so that what is sent next is not what came back last."""
PREPARED_BYTES = 256 * 1024 * 1024
"""Fewer are, but never less than a closed loop has in flight, where they would take more than this."""


def prepared_inputs(model: ModelInfo, plan: Plan, point: Point) -> list[dict[str, Array]]:
    """The inputs of the requests that are sent over and over. Raises CallerError."""
    make = inputs_of(model, plan, point.batch)
    first = make(0)
    fitting = PREPARED_BYTES // max(sum(array.nbytes for array in first.values()), 1)
    if point.request_rate is None:
        count = max(point.concurrency, min(point.concurrency * PER_REQUEST, fitting))
    else:  # an open loop has seldom as many in flight as it may
        count = max(1, min(point.concurrency, fitting))
    return [first, *map(make, range(1, count))]


def inputs_of(model: ModelInfo, plan: Plan, batch: int) -> Callable[[int], dict[str, Array]]:
    """The number of a request -> its inputs: made, or from the files that the plan names, which are read here and now."""
    if plan.input_data not in ("random", "zero"):
        rows = read_input_rows(plan.input_data, model, plan.shapes)
        return lambda number: rows.of_request(number, batch)
    shapes = input_shapes(model, batch, plan.shapes)
    return lambda number: make_inputs(model, shapes, plan, number)


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
        return as_strings([row.tobytes() for row in letters]).reshape(shape)
    if datatype not in FLOATING:
        below = 2 if datatype == "BOOL" else INTEGERS_BELOW
        return generator.integers(0, below, shape, np.uint8).astype(numpy_dtype(datatype))
    fractions: np.ndarray[Any, np.dtype[np.float32]] = generator.random(shape, np.float32)
    if datatype == "BF16":
        return as_bfloat16(fractions)
    return fractions.astype(numpy_dtype(datatype), copy=False)
