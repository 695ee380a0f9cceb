# SPDX-License-Identifier: Apache-2.0
"""For which shapes there are CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.ipc.messages import BatchInput, GraphSpec, ModelSpec, Optimization, TensorSpec
from penstock.workers.backends.plans.buckets import Bucket, batch_sizes, buckets
from penstock.workers.shapes import Shapes


def buckets_of(max_batch_size: int, *inputs: TensorSpec, batch_inputs: Any = (), **optimization: Any) -> list[Bucket]:
    tensors = list(inputs) or [TensorSpec("x", "FP32", [4])]
    spec = ModelSpec(
        "m", 1, "tensorrt", max_batch_size, tensors, [], {}, list(batch_inputs), optimization=Optimization(**optimization)
    )
    return buckets(spec, Shapes(spec).model_inputs)


@pytest.mark.parametrize(
    ("max_batch_size", "preferred", "sizes"),
    [
        (0, [], [0]), (1, [], [1]), (8, [], [1, 2, 4, 8]), (9, [], [1, 2, 4, 8, 9]), (6, [3, 6, 7, 0], [1, 2, 3, 4, 6]),
    ],
)  # fmt: skip
def test_sizes_are_powers_of_two_the_largest_and_the_preferred(
    max_batch_size: int, preferred: list[int], sizes: list[int]
) -> None:
    assert batch_sizes(max_batch_size, preferred) == sizes


def test_each_graph_serves_what_the_next_smaller_does_not() -> None:
    found = buckets_of(6, preferred_batch_sizes=[3])
    assert [(each.lowest, each.rows) for each in found] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)]
    assert found[-1].shapes(5) == ((5, 4),)


def test_a_model_without_a_batch_dimension_has_one() -> None:
    (bucket,) = buckets_of(0, TensorSpec("x", "FP32", [2, 3]))
    assert bucket.shapes(0) == ((2, 3),)


def test_the_models_own_dims_count_not_those_of_clients() -> None:
    assert buckets_of(1, TensorSpec("x", "FP32", [12], reshape=[3, 4]))[0].shapes(1) == ((1, 3, 4),)


def test_variable_dims_have_graphs_only_where_they_are_asked_for() -> None:
    variable = TensorSpec("x", "FP32", [-1, 3])
    assert buckets_of(8, variable) == []
    asked = [GraphSpec(8, {"x": [7, 3]}, lower_batch_size=5), GraphSpec(2, {"x": [5, 3]})]
    assert buckets_of(8, variable, graph_specs=asked) == [Bucket(2, 2, ((5, 3),)), Bucket(8, 5, ((7, 3),))]


def test_a_size_that_is_asked_for_is_one_more_where_all_dims_are_fixed() -> None:
    assert [each.rows for each in buckets_of(8, graph_specs=[GraphSpec(5), GraphSpec(8)])] == [1, 2, 4, 5, 8]


def test_ragged_and_computed_inputs_have_none() -> None:
    assert buckets_of(8, TensorSpec("x", "FP32", [-1], ragged=True)) == []
    computed = BatchInput("BATCH_ELEMENT_COUNT", ["n"], "INT32", "x")
    assert buckets_of(8, batch_inputs=[computed]) == []


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (GraphSpec(9), "its batch_size must be from 1 to max_batch_size 8"),
        (GraphSpec(0), "its batch_size must be from 1 to max_batch_size 8"),
        (GraphSpec(4, lower_batch_size=5), "its lower bound 5 is above it"),
        (GraphSpec(4, {"z": [1]}), "the model has no input 'z'"),
        (GraphSpec(4, {"x": [5]}), r"input 'x' needs dims without -1 that fit \[4\], got \[5\]"),
        (GraphSpec(4, {"x": [4, 4]}), r"input 'x' needs dims without -1 that fit \[4\], got \[4, 4\]"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(graph: GraphSpec, reason: str) -> None:
    with pytest.raises(CallerError, match=f"model 'm': graph_spec of batch_size {graph.batch_size}: {reason}"):
        buckets_of(8, graph_specs=[graph])


def test_dims_left_open_are_refused() -> None:
    with pytest.raises(CallerError, match="input 'x' needs dims without -1"):
        buckets_of(8, TensorSpec("x", "FP32", [-1]), graph_specs=[GraphSpec(4)])


def test_smaller_dims_below_a_graph_are_not_implemented() -> None:
    asked = GraphSpec(4, {"x": [8]}, lower_batch_size=2, lower_inputs={"x": [5]})
    with pytest.raises(CallerError, match="its lower bound gives input 'x' other dims") as caught:
        buckets_of(8, TensorSpec("x", "FP32", [-1]), graph_specs=[asked])
    assert caught.value.code is Code.UNSUPPORTED
