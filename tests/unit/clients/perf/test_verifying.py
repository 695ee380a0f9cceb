# SPDX-License-Identifier: Apache-2.0
"""Which answers are what --verify wants, and of which models it wants any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penstock.clients.models import Array, ModelInfo, TensorInfo
from penstock.clients.perf.verifying import IdentityCheck
from penstock.clients.results import InferResult
from penstock.ipc.errors import CallerError, Code, ModelError

GIVEN = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(inputs: Sequence[str], outputs: Sequence[str], most: int = 8, platform: str = "python") -> ModelInfo:
    """With inputs i0, i1... and outputs o0, o1... of these types."""
    tensors = (
        tuple(TensorInfo(f"{letter}{number}", datatype, (-1,)) for number, datatype in enumerate(datatypes))
        for letter, datatypes in (("i", inputs), ("o", outputs))
    )
    return ModelInfo("m", -1, 1, (1,), platform, most, *tensors)


def compare(found: Array | None, given: Array = GIVEN, most: int = 8) -> None:
    check = IdentityCheck(model(["FP32"], ["FP32"], most), {})
    check.check_invariants()
    check.compare({"i0": given}, InferResult({} if found is None else {"o0": found}, 1, None))


@pytest.mark.parametrize("platform", ["identity", "python", "onnxruntime_onnx", ""])
def test_any_model_whose_outputs_may_be_its_inputs_can_be_checked(platform: str) -> None:
    IdentityCheck(model(["FP32", "BYTES", "INT8"], ["FP32", "BYTES"], platform=platform), {})


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(["FP32"], ["INT32"]), (["FP32"], ["FP32", "FP32"]), (["FP32", "INT8"], ["INT8"]), (["FP32"], [])]
)
def test_of_others_it_is_said_why_not(inputs: list[str], outputs: list[str]) -> None:
    with pytest.raises(CallerError, match="--verify is for models that give back what they get") as refused:
        IdentityCheck(model(inputs, outputs), {})
    assert refused.value.code == Code.UNSUPPORTED and str(inputs) in refused.value.message


@pytest.mark.parametrize("found", [GIVEN.copy(), GIVEN[:, :2].copy()])
def test_a_row_begins_with_what_came_and_that_is_overwritten(found: Array) -> None:
    compare(found)
    assert np.all(found.view(np.uint8) == 0xFF)


@pytest.mark.parametrize(
    "found",
    [
        None, GIVEN + 1, GIVEN[::-1].copy(), GIVEN[:1].copy(), GIVEN.reshape(3, 2), GIVEN.reshape(6), GIVEN[:, :0], GIVEN[:0],
        np.hstack([GIVEN, GIVEN]), GIVEN.astype(np.float64), np.float32(3),
    ],
)  # fmt: skip
def test_whatever_else_comes_is_a_wrong_answer(found: Any) -> None:
    with pytest.raises(ModelError, match="output 'o0' is not what input 'i0' of the same request begins with"):
        compare(None if found is None else np.asarray(found))


def test_without_a_batch_an_answer_may_be_shorter_or_of_another_shape() -> None:
    compare(GIVEN.ravel()[:4].copy(), most=0)
    with pytest.raises(ModelError):
        compare(GIVEN.ravel()[1:].copy(), most=0)


def test_a_nan_is_a_nan_of_the_same_bits() -> None:
    given = np.array([[np.nan, 1]], np.float32)
    compare(given.copy(), given)
    poisoned = np.full(8, 0xFF, np.uint8).view(np.float32).reshape(1, 2)
    with pytest.raises(ModelError):
        compare(poisoned, np.array([[np.nan, np.nan]], np.float32))


def test_strings_are_compared_as_they_are() -> None:
    given = np.array([[b"a", b"b"]], object)
    compare(given.copy(), given)
    with pytest.raises(ModelError):
        compare(np.array([[b"a", b"c"]], object), given)
