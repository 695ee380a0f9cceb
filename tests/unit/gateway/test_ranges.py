# SPDX-License-Identifier: Apache-2.0
"""What no message to the broker can carry is refused before one is made."""

from __future__ import annotations

import pytest

from penstock.ipc.codec import MAX_FRAME_BYTES, encode
from penstock.ipc.errors import CallerError, Code
from penstock.ipc.messages import Infer, InputTensor, OutputPlace
from penstock.runtime.gateway.ranges import MOST, MOST_DIMS, MOST_TENSORS, check_range, check_tensors
from penstock.runtime.gateway.requests import InferRequest, Input, InRegion, Output
from penstock.runtime.gateway.unknown_models import LONGEST_NAME

LONG = "é" * 5_000_000


def request(**changes: object) -> InferRequest:
    """One that is in order, with changes."""
    inputs = (Input("x", "FP32", (1, 2), bytes(8)),)
    return InferRequest("m", -1, "", **{"inputs": inputs, "outputs": (Output("y"),), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (request(inputs=(Input("x", "FP32", (1,), bytes(4)),) * 257), "model 'm': at most 256 inputs per request, got 257"),
        (request(outputs=(Output("y"),) * 257), "model 'm': at most 256 outputs per request, got 257"),
        (request(inputs=(Input(LONG, "FP32", (1,), bytes(4)),)), f"unexpected inference input '{LONG[:256]}...' for model 'm'"),
        (request(outputs=(Output(LONG),)), f"unexpected inference output '{LONG[:256]}...' for model 'm'"),
        (
            request(inputs=(Input("x", "FP32", (1,) * 33, bytes(4)),)),
            "input 'x' for model 'm': at most 32 dimensions are taken, got 33",
        ),
    ],
)
def test_a_request_that_no_message_can_carry_is_refused(refused: InferRequest, said: str) -> None:
    with pytest.raises(CallerError) as caught:
        check_tensors(refused)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARG, said)


def test_a_region_of_a_name_that_no_message_can_carry_is_not_found() -> None:
    with pytest.raises(CallerError, match=r"Unable to find shared memory region: 'é{256}\.\.\.'$") as caught:
        check_range(InRegion(LONG, 0, 4))
    assert caught.value.code is Code.NOT_FOUND


def test_the_largest_request_that_is_taken_fits_a_frame() -> None:
    # Given a request with as much of everything as is taken, of the largest characters and numbers
    name, region = "\U0001f600" * LONGEST_NAME, InRegion("\U0001f600" * LONGEST_NAME, MOST, MOST)
    inputs = [Input(name, "\U0001f600" * 16, (MOST,) * MOST_DIMS, region)] * MOST_TENSORS
    outputs = [Output(name, region, MOST)] * MOST_TENSORS
    check_tensors(request(inputs=inputs, outputs=outputs))
    # Then it fits
    tensors = [InputTensor(given.name, given.datatype, list(given.shape), *region, shared=True) for given in inputs]
    places = [OutputPlace(wanted.name, *region, classification=MOST, shared=True) for wanted in outputs]
    message = Infer(MOST, name, encode(tensors), encode(places))  # type: ignore[arg-type]
    assert len(encode(message)) + 64 * 1024 < MAX_FRAME_BYTES
