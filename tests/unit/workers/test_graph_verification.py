# SPDX-License-Identifier: Apache-2.0
"""When two ways to execute a model agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.ipc.tensors import ITEM_BYTES, numpy_dtype
from penstock.workers.backends.plans.verification import TOLERANCES, difference, random_content

DATATYPES = ["FP32", "FP16", "BF16", "INT64", "INT32", "INT8", "UINT8", "BOOL"]


def octets(values: Any) -> Any:
    return np.asarray(values).view(np.uint8)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_random_content_has_its_size_and_more_than_one_value(datatype: str) -> None:
    content = random_content(datatype, 64 * ITEM_BYTES[datatype])
    assert content.dtype == np.uint8 and content.size == 64 * ITEM_BYTES[datatype]
    values = content.view(numpy_dtype(datatype))
    assert len(np.unique(values)) > 1
    if datatype not in TOLERANCES:
        assert set(values.tolist()) <= {0, 1}, "a valid index for whatever it is an index of"
    assert difference(datatype, content, content.copy()) == ""


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_rounding_is_no_difference_and_more_is(datatype: str) -> None:
    dtype, tolerance = numpy_dtype(datatype), TOLERANCES[datatype]
    expected = np.array([100, -3, 0, 50], dtype)
    close = expected + np.array([0, 0, 60 * tolerance, 0], dtype)
    far = expected + np.array([0, 0, 300 * tolerance, 0], dtype)
    assert difference(datatype, octets(expected), octets(close)) == ""
    assert "where the largest value is 100" in difference(datatype, octets(expected), octets(far))


def test_bfloat16_is_compared_by_value() -> None:
    one, two = (octets(np.array([bits] * 4, np.uint16)) for bits in (0x3F80, 0x4000))
    assert difference("BF16", one, two) == "off by 1 where the largest value is 1"


def test_integers_must_be_equal() -> None:
    assert (
        difference("INT32", octets(np.array([1, 2, 3], np.int32)), octets(np.array([1, 5, 4], np.int32))) == "2 elements differ"
    )


@pytest.mark.parametrize("other", [[1, np.nan], [np.inf, 1], [np.nan, np.inf]])
def test_what_is_not_finite_must_be_so_in_both(other: list[float]) -> None:
    expected = np.array([np.inf, np.nan], np.float32)
    assert difference("FP32", octets(expected), octets(expected)) == ""
    assert difference("FP32", octets(expected), octets(np.array(other, np.float32))) != ""


def test_infinities_in_the_same_places_leave_the_rest_to_be_compared() -> None:
    expected = octets(np.array([np.inf, 1, np.nan], np.float32))
    assert difference("FP32", expected, expected.copy()) == ""
    assert (
        difference("FP32", expected, octets(np.array([np.inf, 2, np.nan], np.float32)))
        == "off by 1 where the largest value is 1"
    )


def test_outputs_of_zeros_must_be_zeros() -> None:
    zeros = octets(np.zeros(4, np.float32))
    assert difference("FP32", zeros, octets(np.array([0, 0, 0, 1e-6], np.float32))) != ""
    assert difference("FP32", octets(np.zeros(0, np.float32)), octets(np.zeros(0, np.float32))) == ""
