# SPDX-License-Identifier: Apache-2.0
"""Warming up with zeros: what makes the first request no slower than the others, where no samples are configured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ...ipc.messages import ModelSpec
from ...ipc.tensors import byte_size, numpy_dtype
from ..shapes import Shapes
from .base import Tensor, Work

BUDGET_S = 2.0
"""The largest batch is warmed up as well when one row lets expect that it takes no longer."""


def execute_zeros(spec: ModelSpec, shapes: Shapes, execute: Callable[[Work], Sequence[Tensor | None]], repeat: int = 1) -> None:
    """Executes one row of zeros, and the largest batch where that is cheap, each `repeat` times. Raises what `execute` raises.

    Nothing is executed where there is no natural zero: with variable dims, and with text.
    """
    work = zero_work(spec, shapes, 1)
    if work is None:
        return
    for _ in range(repeat):
        started_s = time.monotonic()
        execute(work)
        one_row_s = time.monotonic() - started_s
    if spec.max_batch_size > 1 and one_row_s * spec.max_batch_size <= BUDGET_S:
        work = zero_work(spec, shapes, spec.max_batch_size)
        assert work is not None, "rows do not matter"
        for _ in range(repeat):
            execute(work)


def zero_work(spec: ModelSpec, shapes: Shapes, rows: int) -> Work | None:
    """All outputs wanted, none of them placed; None where there is no natural zero."""
    full = [shapes.full(rows, tensor.dims) for tensor in spec.inputs]
    if any(byte_size(tensor.datatype, shape) is None for tensor, shape in zip(spec.inputs, full, strict=True)):
        return None
    zeros = [np.zeros(shape, numpy_dtype(tensor.datatype)) for tensor, shape in zip(spec.inputs, full, strict=True)]
    wanted = tuple(range(len(spec.outputs)))
    return Work((rows,), shapes.work_inputs(zeros), wanted, [None] * len(wanted), is_kept=False)
