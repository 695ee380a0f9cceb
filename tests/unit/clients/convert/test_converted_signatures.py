# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of what is converted: as they are typed, as a file has them, as answers show them."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.clients.convert.signatures import batch_sizes, batches, outputs_of, parse_tensor, without_batch
from penstock.clients.models import TensorInfo
from penstock.ipc.errors import CallerError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image:FP32:3,224,224", TensorInfo("image", "FP32", (3, 224, 224))),
        ("tokens:int64:-1", TensorInfo("tokens", "INT64", (-1,))),
        ("a:b:TYPE_FP16:4", TensorInfo("a:b", "FP16", (4,))),
        ("text:TYPE_STRING:1", TensorInfo("text", "BYTES", (1,))),
        ("scalar:BOOL:", TensorInfo("scalar", "BOOL", ())),
    ],
)
def test_an_input_is_typed_as_name_datatype_dims(text: str, expected: TensorInfo) -> None:
    assert parse_tensor(text) == expected


@pytest.mark.parametrize(
    "text", ["image", "image:FP32", ":FP32:3", "image:FP32:3,x", "image:FP32:0", "image:FP32:-2", "image:FLOAT:3"]
)
def test_what_is_not_that_is_quoted(text: str) -> None:
    with pytest.raises(CallerError, match=text):
        parse_tensor(text)


def test_batches_that_are_tried_are_one_the_most_and_one_between() -> None:
    assert batch_sizes(8) == (1, 4, 8)
    assert batch_sizes(2) == (1, 2)
    assert batch_sizes(1) == (1,)
    assert batch_sizes(0) == ()


def test_the_batch_is_a_first_dim_that_is_variable() -> None:
    image, fixed = TensorInfo("image", "FP32", (-1, 3)), TensorInfo("fixed", "FP32", (1, 3))
    assert without_batch("input", image, 8).dims == (3,)
    assert without_batch("input", fixed, 0).dims == (1, 3)
    assert batches([image])
    assert not batches([image, fixed])
    with pytest.raises(CallerError, match=r"input 'fixed' has dims \[1, 3\], which do not begin with a variable one"):
        without_batch("input", fixed, 8)


def answers(*shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    return [{"y": np.zeros(shape, np.float16)} for shape in shapes]


def test_outputs_are_what_the_answers_have_in_common() -> None:
    fixed, open_ = (TensorInfo("x", "FP32", (4,)),), (TensorInfo("x", "FP32", (-1,)),)
    assert outputs_of(fixed, answers((1, 3, 5), (8, 3, 5)), (1, 8)) == (TensorInfo("y", "FP16", (3, 5)),)
    assert outputs_of(fixed, answers((1, 3), (8, 4)), (1, 8)) == (TensorInfo("y", "FP16", (-1,)),)
    assert outputs_of(fixed, answers((2, 3)), (0,)) == (TensorInfo("y", "FP16", (2, 3)),)
    # Dims of an output may follow those of an input, whatever the samples happened to have
    assert outputs_of(open_, answers((1, 3), (8, 3)), (1, 8)) == (TensorInfo("y", "FP16", (-1,)),)


def test_an_output_without_a_row_per_row_cannot_be_batched() -> None:
    with pytest.raises(CallerError, match=r"output 'y' has shape \[3\] for a batch of 8; say --max-batch-size 0"):
        outputs_of((), answers((1,), (3,)), (1, 8))
    with pytest.raises(CallerError, match="a different number of dims"):
        outputs_of((), answers((1, 2), (8, 2, 2)), (1, 8))
