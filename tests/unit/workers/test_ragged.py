# SPDX-License-Identifier: Apache-2.0
"""Batch inputs, each kind with values worked out by hand from Triton's model_config.proto."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import BatchInput
from penstock.workers.ragged import compute

THREE = [(1, 3), (2, 2), (1, 5)]
"""Requests of 3, 4 and 5 elements."""


def of(kind: str, datatype: str = "INT32") -> BatchInput:
    return BatchInput(kind, ["count"], datatype, "x")


@pytest.mark.parametrize(("datatype", "dtype"), [("INT32", np.int32), ("FP32", np.float32)])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("BATCH_ELEMENT_COUNT", [3, 4, 5]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [3, 7, 12]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 3, 7, 12]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0, 0, 0, 0, 0]),
        ("BATCH_ITEM_SHAPE", [[3], [2], [2], [5]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 2, 2, 5]),
    ],
)
def test_a_batch_of_three_requests(kind: str, values: list[int], datatype: str, dtype: type) -> None:
    found = compute(of(kind, datatype), THREE, batched=True)

    assert (found.dtype, found.tolist()) == (dtype, values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("BATCH_ELEMENT_COUNT", [6]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [6]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 6]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0] * 6),
        ("BATCH_ITEM_SHAPE", [[3], [3]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 3]),
    ],
)
def test_a_request_alone(kind: str, values: list[int]) -> None:
    assert compute(of(kind), [(2, 3)], batched=True).tolist() == values


def test_an_item_has_a_row_of_its_own_also_within_a_request() -> None:
    """Triton's example: a batch-2 request of items [3, 1] and a batch-1 request of an item [2, 2]."""
    shapes = [(2, 3, 1), (1, 2, 2)]

    assert compute(of("BATCH_ITEM_SHAPE"), shapes, batched=True).tolist() == [[3, 1], [3, 1], [2, 2]]
    assert compute(of("BATCH_ITEM_SHAPE_FLATTEN"), shapes, batched=True).tolist() == [3, 1, 3, 1, 2, 2]


def test_items_without_dims_have_rows_without_elements() -> None:
    assert compute(of("BATCH_ITEM_SHAPE"), [(2,), (1,)], batched=True).shape == (3, 0)


def test_without_a_batch_dimension_a_request_is_one_item() -> None:
    assert compute(of("BATCH_ITEM_SHAPE"), [(2, 3)], batched=False).tolist() == [[2, 3]]
    assert compute(of("BATCH_ELEMENT_COUNT"), [(2, 3)], batched=False).tolist() == [6]


def test_the_order_of_execution_is_that_of_the_values() -> None:
    backwards = THREE[::-1]

    assert compute(of("BATCH_ELEMENT_COUNT"), backwards, batched=True).tolist() == [5, 4, 3]
    assert compute(of("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO"), backwards, batched=True).tolist() == [0, 5, 9, 12]


def test_a_request_without_elements_counts_nothing() -> None:
    assert compute(of("BATCH_ACCUMULATED_ELEMENT_COUNT"), [(1, 2), (1, 0), (1, 1)], batched=True).tolist() == [2, 2, 3]


def test_what_int32_cannot_hold_is_refused_with_the_number() -> None:
    half = [(1, 2**30), (1, 2**30)]
    assert compute(of("BATCH_ELEMENT_COUNT"), half, batched=True).tolist() == [2**30, 2**30]

    with pytest.raises(CallerError) as refused:
        compute(of("BATCH_ACCUMULATED_ELEMENT_COUNT"), half, batched=True)

    assert refused.value.message == (
        "batch input 'count' (BATCH_ACCUMULATED_ELEMENT_COUNT of input 'x') is INT32, which cannot hold 2147483648"
    )
    found = compute(of("BATCH_ACCUMULATED_ELEMENT_COUNT", "FP32"), half, batched=True)
    assert found.tolist() == [2.0**30, 2.0**31]
