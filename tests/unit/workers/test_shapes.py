# SPDX-License-Identifier: Apache-2.0
"""The shape that clients see and the one that the model sees, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.ipc.messages import BatchInput, ModelSpec, TensorSpec
from penstock.workers.shapes import Shapes


def reshaped(dims: list[int], reshape: list[int] | None, max_batch_size: int = 8) -> Shapes:
    """An input and an output of the same two shapes."""
    return Shapes(
        ModelSpec(
            "m",
            1,
            "identity",
            max_batch_size,
            [TensorSpec("x", "FP32", dims, reshape)],
            [TensorSpec("y", "FP32", dims, reshape)],
        )
    )


@pytest.mark.parametrize(
    ("dims", "reshape", "clients", "models"),
    [
        ([2, 3], None, (4, 2, 3), (4, 2, 3)),
        ([2, 3], [6], (4, 2, 3), (4, 6)),
        ([1], [], (4, 1), (4,)),
        ([-1, 4], [-1, 2, 2], (4, 7, 4), (4, 7, 2, 2)),
        ([2, 4, -1, 6], [8, -1, 1, 6], (4, 2, 4, 5, 6), (4, 8, 5, 1, 6)),
        ([-1, 3, -1], [1, -1, 3, -1], (4, 5, 3, 6), (4, 1, 5, 3, 6)),
    ],
)
def test_the_two_shapes_are_made_of_each_other(
    dims: list[int], reshape: list[int] | None, clients: tuple[int, ...], models: tuple[int, ...]
) -> None:
    shapes = reshaped(dims, reshape)

    assert shapes.taken(0, clients) == models
    assert shapes.given(0, models) == clients


def test_without_a_batch_dimension_nothing_stays_in_front() -> None:
    shapes = reshaped([1], [], max_batch_size=0)

    assert (shapes.taken(0, (1,)), shapes.given(0, ())) == ((), (1,))
    assert (shapes.produced(0, 1, []), shapes.replied(0, 1, [])) == ((), (1,))


def test_an_output_has_variable_dims_where_only_execution_tells() -> None:
    shapes = reshaped([-1, 4], [-1, 2, 2])

    assert (shapes.produced(0, 3, []), shapes.replied(0, 3, [])) == ((3, -1, 2, 2), (3, -1, 4))


RAGGED = ModelSpec(
    "m", 1, "identity", 8,
    [TensorSpec("x", "FP32", [-1], ragged=True), TensorSpec("z", "FP32", [2], optional=True)],
    [TensorSpec("y", "FP32", [-1], shaped_as="x")],
    batch_inputs=[BatchInput("BATCH_ELEMENT_COUNT", ["n", "n again"], "INT32", "x"), BatchInput("BATCH_ITEM_SHAPE", ["s"], "FP32", "x")],
)  # fmt: skip


def test_a_split_output_is_flat_for_the_model_and_shaped_as_its_input_for_clients() -> None:
    shapes = Shapes(RAGGED)

    assert shapes.sources == {0: 0}
    assert shapes.produced(0, 3, [np.zeros(12, np.float32), None]) == (12,)
    assert shapes.replied(0, 2, [(2, 6), None]) == (2, 6)


def test_the_model_has_an_input_for_each_target() -> None:
    assert [(tensor.name, tensor.datatype) for tensor in Shapes(RAGGED).model_inputs] == [
        ("x", "FP32"), ("z", "FP32"), ("n", "INT32"), ("n again", "INT32"), ("s", "FP32"),
    ]  # fmt: skip


def test_the_inputs_of_one_request_as_the_model_takes_them() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    found, left_out, *computed = Shapes(RAGGED).work_inputs([x, None])

    assert found is not None and np.shares_memory(found, x)  # a view, no copy
    assert found.tolist() == [0, 1, 2, 3, 4, 5]
    assert left_out is None
    assert [None if value is None else value.tolist() for value in computed] == [[6], [6], [[3], [3]]]
