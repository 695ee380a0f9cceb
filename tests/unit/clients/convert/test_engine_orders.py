# SPDX-License-Identifier: Apache-2.0
"""Which optimization profiles an engine is built with."""

from __future__ import annotations

import pytest

from penstock.clients.convert.engine_orders import Range, buckets, profiles_of
from penstock.clients.models import TensorInfo


@pytest.mark.parametrize(
    ("preferred", "expected"),
    [
        ((), [(1, 8)]),
        ((8,), [(1, 8)]),
        ((4,), [(1, 4), (5, 8)]),
        ((4, 2), [(1, 2), (3, 4), (5, 8)]),
        ((1, 8), [(1, 1), (2, 8)]),
        ((16,), [(1, 8)]),  # more than there can be
    ],
)
def test_every_batch_size_has_one_profile(preferred: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    found = buckets(8, preferred)
    assert found == expected
    assert [size for least, most in found for size in range(least, most + 1)] == list(range(1, 9))


def test_kernels_are_chosen_for_the_largest_batch_of_a_profile() -> None:
    image = TensorInfo("image", "FP32", (3, 4))
    assert profiles_of((image,), 8, (2,), {"image": ((3, 4),)}) == (
        {"image": Range((1, 3, 4), (2, 3, 4), (2, 3, 4))},
        {"image": Range((3, 3, 4), (8, 3, 4), (8, 3, 4))},
    )


def test_variable_dims_go_from_the_smallest_to_the_largest_that_is_used() -> None:
    tokens = TensorInfo("tokens", "INT64", (-1,))
    (two,) = profiles_of((tokens,), 4, (), {"tokens": ((16,), (512,))})
    assert two["tokens"] == Range((1, 16), (4, 512), (4, 512))
    # The second of three is what it is best for
    (three,) = profiles_of((tokens,), 4, (), {"tokens": ((16,), (128,), (512,))})
    assert three["tokens"] == Range((1, 16), (4, 128), (4, 512))


def test_without_a_batch_and_variable_dims_there_is_none() -> None:
    assert profiles_of((TensorInfo("x", "FP32", (3,)),), 0, (), {}) == ()
    assert profiles_of((TensorInfo("x", "FP32", (-1,)),), 0, (), {"x": ((5,),)}) == ({"x": Range((5,), (5,), (5,))},)
