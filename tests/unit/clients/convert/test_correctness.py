# SPDX-License-Identifier: Apache-2.0
"""Two answers are compared: which element is worst, by how much, and whether that is too much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.clients.convert.correctness import Comparison, Worst, compare
from penstock.clients.convert.tolerances import Tolerances
from penstock.clients.models import TensorInfo

NAN, INF = float("nan"), float("inf")


def compared(
    expected: Any, found: Any, datatype: str = "FP32", atol: float = 0.0, rtol: float = 0.0, dtype: Any = None
) -> Comparison:
    kind = dtype or {"FP32": np.float32, "INT64": np.int64, "BYTES": object, "BF16": np.uint16}[datatype]
    tolerances = Tolerances({"y": atol}, {"y": rtol})
    (comparison,) = compare(
        (TensorInfo("y", datatype, ()),), [{"y": np.array(expected, kind)}], [{"y": np.array(found, kind)}], tolerances, "fp32"
    )
    return comparison


def test_errors_by_hand() -> None:
    # Given three numbers, the last two of which are not what they should be
    found = compared([1, -2, 4], [1, -2.5, 4.25], atol=0.1, rtol=0.1)
    # Then the largest errors are 0.5, and 0.5 of 2; allowed are 0.2, 0.3 and 0.5
    assert (found.max_abs_error, found.max_rel_error, found.wrong, found.elements) == (0.5, 0.25, 1, 3)
    assert found.worst == Worst(0, (1,), -2.0, -2.5)
    assert not found.is_right


def test_worst_is_what_is_farthest_outside_its_own_tolerance_and_not_the_largest_error() -> None:
    found = compared([[1000.0, 0.0], [1.0, 1.0]], [[1001.0, 0.0], [1.0, 1.5]], rtol=0.01)
    assert found.worst == Worst(0, (1, 1), 1.0, 1.5)
    assert found.max_abs_error == 1.0


def test_what_is_just_allowed_is_right() -> None:
    assert compared([0.0, 8.0], [0.5, 8.5], atol=0.5).is_right
    assert compared([8.0], [9.0], rtol=0.125).is_right
    assert not compared([8.0], [9.0], rtol=0.124).is_right


def test_the_tolerance_is_of_what_was_expected_and_not_of_what_was_found() -> None:
    assert not compared([1.0], [2.0], rtol=0.6).is_right
    assert compared([2.0], [1.0], rtol=0.6).is_right


@pytest.mark.parametrize(
    ("expected", "found", "is_right"),
    [
        (NAN, NAN, True),
        (INF, INF, True),
        (INF, -INF, False),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (1.0, INF, False),
        (INF, 1.0, False),
    ],
)
def test_what_is_no_number(expected: float, found: float, is_right: bool) -> None:
    comparison = compared([expected], [found], atol=1.0, rtol=1.0)
    assert comparison.is_right is is_right
    assert comparison.max_abs_error == (0.0 if is_right else INF)


def test_whole_numbers_are_compared_exactly_be_they_larger_than_a_double_can_tell() -> None:
    assert compared([2**53], [2**53], "INT64").is_right
    assert not compared([2**53], [2**53 + 1], "INT64").is_right
    assert compared([7, 3], [7, 4], "INT64", atol=1).is_right


def test_texts_are_equal_or_not() -> None:
    found = compared([b"cat", "dog"], [b"cat", b"bird"], "BYTES")
    assert (found.wrong, found.worst) == (1, Worst(0, (1,), "dog", "bird"))
    assert compared(["cat"], [b"cat"], "BYTES").is_right


def test_bf16_is_compared_by_value() -> None:
    one, two = 0x3F80, 0x4000  # the upper halves of 1.0 and 2.0
    found = compared([one], [two], "BF16", atol=0.5)
    assert (found.max_abs_error, found.worst) == (1.0, Worst(0, (0,), 1.0, 2.0))


def test_a_missing_output_and_another_shape_are_mismatches() -> None:
    tensors, expected = (TensorInfo("y", "FP32", ()),), [{"y": np.zeros((2, 3), np.float32)}]
    (missing,) = compare(tensors, expected, [{"z": expected[0]["y"]}], Tolerances({}, {}), "fp32")
    assert (missing.is_right, missing.mismatch) == (False, "it is missing; given are ['z']")
    (shapes,) = compare(tensors, expected, [{"y": np.zeros((3, 2), np.float32)}], Tolerances({}, {}), "fp32")
    assert (shapes.is_right, shapes.mismatch) == (False, "request 0: shape [3, 2], expected [2, 3]")


def test_the_worst_of_several_requests_names_its_request() -> None:
    tensors = (TensorInfo("y", "FP32", ()),)
    expected = [{"y": np.zeros(2, np.float32)} for _ in range(3)]
    found = [{"y": np.array([0, error], np.float32)} for error in (0.1, 0.3, 0.2)]
    (comparison,) = compare(tensors, expected, found, Tolerances({}, {}), "fp32")
    assert comparison.worst is not None
    assert (comparison.worst.request, comparison.worst.place, comparison.wrong) == (1, (1,), 3)


def test_nothing_is_right_where_there_is_nothing() -> None:
    found = compared(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (found.is_right, found.elements, found.worst) == (True, 0, None)
