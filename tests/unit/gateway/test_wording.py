# SPDX-License-Identifier: Apache-2.0
"""Errors of the broker as Triton's server (2.51) says them; the texts on the right were asked of it."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import BrokerError, Code, ModelError, invalid, not_found
from penstock.runtime.gateway.requests import InferRequest
from penstock.runtime.gateway.wording import in_tritons_words

REWORDED = {
    "unexpected inference input 'z' for model 'm'; its inputs are 'x'": "unexpected inference input 'z' for model 'm'",
    "unexpected inference input 'z\nz' for model 'm'; its inputs are 'x'": "unexpected inference input 'z\nz' for model 'm'",
    "unexpected inference output 'z' for model 'm'; its outputs are 'y'": "unexpected inference output 'z' for model 'm'",
    "incomplete string data for inference input 'x' for model 'm', expecting string of length 5 but only 2 bytes available": (
        "incomplete string data for inference input 'x', expecting string of length 5 but only 2 bytes available"
    ),
    "Request for unknown model: 'm' is not found; known are a, b": "Request for unknown model: 'm' is not found",
}  # fmt: skip
OF_THE_CORE = {
    "input 'x' already exists in request for model 'm'": "input 'x' already exists in request",
    "inference request batch-size must be <= 8 and >= 1 for 'm', got 9": "inference request batch-size must be <= 8 for 'm'",
    "input 'b' batch size does not match other inputs for 'm': 2 and 1": "input 'b' batch size does not match other inputs for 'm'",
    **dict.fromkeys(
        (
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['x']. Please provide",
            "expected number of inputs between 1 and 2 but got 0 inputs for model 'm'. Got input(s) []",
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
            "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3].",
            "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 12",
            "inference request batch-size must be <= 8 and >= 1 for 'm', got 0",  # of which Triton says something that is not so
            "input 'b' has no shape but model requires batch dimension for 'm'",
            "expected 2 string elements for inference input 'x' for model 'm', got 1",
            "unexpected number of string elements 3 for inference input 'x' for model 'm', expecting 2",
            "incomplete string length indicator for inference input 'x' for model 'm', expecting 4 bytes but only 2 bytes available.",
            "All input dimensions should be specified for input 'x' for model 'm', got [-1,2]",
        ),
        "",
    ),
}  # fmt: skip
KEPT = (
    "Unable to find shared memory region: 'r'",
    "Invalid offset for shared memory region: 'r'",
    "model 'm': output 'y' overlaps 'x' in memory (bytes 0 to 8 and 4 to 12)",
    "class result not available for output due to unsupported type 'BOOL'",
)


def request(request_id: str = "") -> InferRequest:
    return InferRequest("m", -1, request_id, [])


@pytest.mark.parametrize("said", REWORDED)
def test_what_triton_has_words_for_is_said_in_them(said: str) -> None:
    error = in_tritons_words(not_found(said), request("7"))

    assert (error.message, error.code, error.fault) == (REWORDED[said], Code.NOT_FOUND, "caller")


@pytest.mark.parametrize("said", OF_THE_CORE)
def test_what_its_core_finds_has_the_requests_id_in_front(said: str) -> None:
    words = OF_THE_CORE[said] or said

    assert in_tritons_words(invalid(said), request("7")).message == f"[request id: 7] {words}"
    assert in_tritons_words(invalid(said), request()).message == f"[request id: <id_unknown>] {words}"
    assert in_tritons_words(invalid(said), request()).code is Code.INVALID_ARG


def test_a_place_that_turns_out_to_be_too_small_for_an_output_is_tritons_internal_error() -> None:
    error = in_tritons_words(invalid("output 'y' of model 'm' needs 8 bytes, its place has 4"), request("7"))

    assert error.code is Code.INTERNAL
    assert error.message == (
        "shared memory size specified with the request for output 'y' (4 bytes) should be at least 8 bytes to hold the results"
    )


@pytest.mark.parametrize("said", KEPT)
def test_what_others_find_stays_as_it_is(said: str) -> None:
    error = invalid(said)

    assert in_tritons_words(error, request("7")) is error


def test_only_callers_are_answered_in_its_words() -> None:
    for error in (ModelError("input 'x' already exists in request for model 'm'"), BrokerError("gone")):
        assert in_tritons_words(error, request("7")) is error
