# SPDX-License-Identifier: Apache-2.0
"""Random inputs for a comparison of two ways to execute a model, and the comparison itself. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ....ipc.tensors import ITEM_BYTES, numpy_dtype

SEED = 0
"""The same data at each start, so that what is found can be looked at again."""

TOLERANCES = {"FP32": 5e-3, "FP16": 2e-2, "BF16": 5e-2}
"""Of the largest magnitude of an output. Kernels may differ with the batch size (another profile, TF32 on or off), and add in
another order; a graph that reads or writes the wrong memory is further off."""

Octets = npt.NDArray[np.uint8]


def random_content(datatype: str, byte_size: int) -> Octets:
    """Floating point from -1 to 1; integers 0 or 1, which are valid indices for any model that takes indices."""
    random, count = np.random.default_rng(SEED), byte_size // ITEM_BYTES[datatype]
    if datatype not in TOLERANCES:
        return random.integers(0, 2, count).astype(numpy_dtype(datatype)).view(np.uint8)
    values = random.random(count, np.float32) * 2 - 1
    if datatype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype(numpy_dtype(datatype)).view(np.uint8)


def difference(datatype: str, expected: Octets, got: Octets) -> str:
    """In what two outputs of a datatype differ beyond rounding; "" for nothing."""
    if datatype not in TOLERANCES:
        wrong = np.count_nonzero(expected.view(numpy_dtype(datatype)) != got.view(numpy_dtype(datatype)))
        return f"{wrong} elements differ" if wrong else ""
    left, right = _as_float(datatype, expected), _as_float(datatype, got)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return "infinities or NaN in one and not in the other"
    if not finite.any():
        return ""
    largest, magnitude = np.abs(left[finite] - right[finite]).max(), np.abs(left[finite]).max()
    return (
        f"off by {largest:.3g} where the largest value is {magnitude:.3g}" if largest > TOLERANCES[datatype] * magnitude else ""
    )


def _as_float(datatype: str, content: Octets) -> npt.NDArray[Any]:
    if datatype == "BF16":
        return (content.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return content.view(numpy_dtype(datatype)).astype(np.float64)
