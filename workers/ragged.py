# SPDX-License-Identifier: Apache-2.0
"""What a model gets besides its ragged inputs: Triton's batch inputs, computed from the shapes of the requests of an execution.

Source: BatchInput.Kind in Triton's model_config.proto. In a model without a batch dimension each request is one item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from ..ipc.errors import invalid
from ..ipc.messages import BatchInput
from ..ipc.tensors import elements, numpy_dtype
from .backends.base import Tensor

Shape = tuple[int, ...]

LARGEST_INT32 = 2**31 - 1

#: kind -> from the element count of each request to the values
_COUNTS: dict[str, Callable[[list[int]], list[int]]] = {
    "BATCH_ELEMENT_COUNT": lambda counts: counts,
    "BATCH_ACCUMULATED_ELEMENT_COUNT": lambda counts: list(accumulate(counts)),
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": lambda counts: list(accumulate(counts, initial=0)),
}


def compute(what: BatchInput, shapes: Sequence[Shape], batched: bool) -> Tensor:
    """The value of a batch input. `shapes`: of the source input in each request, in the order of execution.

    Counts and accumulated counts are of one dimension, an element per request (and the zero); so is the maximum, which is not
    a value but the number of elements, all zero. Item shapes have a row per item, flattened or not. Raises CallerError for
    what INT32 cannot hold.
    """
    dtype = numpy_dtype(what.datatype)
    counts = [elements(shape) for shape in shapes]
    if what.kind == "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE":
        return np.zeros(max(counts), dtype)
    if what.kind in _COUNTS:
        return np.array(_held(_COUNTS[what.kind](counts), what), dtype)
    items = [item for shape in shapes for item in _items(shape, batched)]
    values = np.array(_held([size for item in items for size in item], what), dtype)
    return values if what.kind == "BATCH_ITEM_SHAPE_FLATTEN" else values.reshape(len(items), len(items[0]))


def _items(shape: Shape, batched: bool) -> list[Shape]:
    """The shape of each item of a request."""
    return [shape[1:]] * shape[0] if batched else [shape]


def _held(values: list[int], what: BatchInput) -> list[int]:
    if what.datatype == "INT32" and max(values, default=0) > LARGEST_INT32:
        raise invalid(
            f"batch input '{what.targets[0]}' ({what.kind} of input '{what.source}') is INT32, which cannot hold {max(values)}"
        )
    return values
