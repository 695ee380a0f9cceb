# SPDX-License-Identifier: Apache-2.0
"""The three conventions by which tensors of a configuration are arguments of forward and what it returns."""

from __future__ import annotations

from collections import namedtuple

import pytest

from penstock.ipc.errors import CallerError
from penstock.workers.backends.forward_names import Argument, flattened, input_positions, output_positions

XYZ = [Argument("x"), Argument("y"), Argument("mask", is_optional=True)]


@pytest.mark.parametrize(
    ("configured", "positions"),
    [
        (["x", "y", "mask"], [0, 1, 2]),
        (["mask", "y", "x"], [2, 1, 0]),  # names of arguments, in whatever order
        (["y", "x"], [1, 0]),  # what may be left out is
        (["INPUT__1", "INPUT__0", "INPUT__2"], [1, 0, 2]),
        (["b__0", "a__1"], [0, 1]),  # the name before the index says nothing
        (["image", "text", "x"], [0, 1, 2]),  # any other names: the order of the configuration
        (["INPUT__1", "INPUT__x", "y"], [0, 1, 2]),  # one that is no index makes it the order for all
    ],
)
def test_inputs_are_found_by_name_by_index_or_in_order(configured: list[str], positions: list[int]) -> None:
    assert input_positions("m", configured, XYZ) == positions


def test_an_argument_whose_name_looks_like_an_index_is_found_by_its_name() -> None:
    assert input_positions("m", ["x__0", "x__1"], [Argument("x__1"), Argument("x__0")]) == [1, 0]


@pytest.mark.parametrize(
    ("configured", "text"),
    [
        (
            ["y", "mask"],
            "argument 'x' of forward has no input in the configuration, which has y, mask; forward takes x, y, mask",
        ),
        (["a__0", "a__1", "a__3"], "input 'a__3' asks for number 3, the model has 3, from 0"),
        (["a__0", "b__0", "c__1"], "inputs 'a__0' and 'b__0' have the same index"),
        (
            ["a", "b"],
            "the configuration has 2 inputs (a, b), the model has 3: x, y, mask; name them so, or NAME__0, NAME__1, ...",
        ),
    ],
)
def test_what_does_not_match_is_named(configured: list[str], text: str) -> None:
    with pytest.raises(CallerError) as caught:
        input_positions("m", configured, XYZ)
    assert text in caught.value.message


def test_outputs_are_found_by_key_by_index_or_in_order() -> None:
    assert output_positions("m", ["boxes", "scores"], ["scores", "labels", "boxes"]) == [2, 0]
    assert output_positions("m", ["OUTPUT__2"], ["", "", ""]) == [2]
    assert output_positions("m", ["a", "b"], ["", ""]) == [0, 1]
    with pytest.raises(CallerError, match=r"the configuration has 1 outputs \(a\), the model has 2; name them"):
        output_positions("m", ["a"], ["", ""])


def test_what_forward_returns_is_taken_apart_in_order() -> None:
    pair = namedtuple("pair", "low high")  # noqa: PYI024 - TorchScript returns such
    assert list(flattened(1)) == [("", 1)]
    assert list(flattened((1, [2, (3,)]))) == [("", 1), ("", 2), ("", 3)]
    assert list(flattened({"a": 1, "b": 2})) == [("a", 1), ("b", 2)]
    assert list(flattened(pair(1, 2))) == [("low", 1), ("high", 2)]
