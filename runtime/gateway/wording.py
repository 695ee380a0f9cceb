# SPDX-License-Identifier: Apache-2.0
"""What the broker says, in the words of Triton's server, which its clients and their tests match on. Pure.

The broker's texts mostly contain Triton's, and say more: what there is instead, or what a number was. Over KServe the error is
Triton's to the letter (asked of release 2.51), so that a client that compares whole texts finds what it looks for. Words that
Triton has none for stay the broker's.
"""

from __future__ import annotations

import re

from ...ipc.errors import CallerError, Code, PenstockError
from .requests import InferRequest
from .unknown_models import as_triton

_TOO_SMALL = (
    r"shared memory size specified with the request for output '\1' (\3 bytes) should be at least \2 bytes to hold the results"
)
_REWORDED = [
    (re.compile(pattern, re.DOTALL), words, code)  # names may have lines
    for pattern, words, code in (
        (r"(unexpected inference (?:in|out)put '.*' for model '.*'); its .*", r"\1", None),
        (r"((?:in|out)put '.*' already exists in request) for model '.*'", r"\1", None),
        (r"(inference request batch-size must be <= \d+) and >= 1( for '.*'), got [1-9]\d*", r"\1\2", None),
        (r"(input '.*' batch size does not match other inputs for '.*'): \d+ and \d+", r"\1", None),
        (r"(incomplete string data for inference input '.*') for model '.*'(, expecting .*)", r"\1\2", None),
        (r"output '(.*)' of model '.*' needs (\d+) bytes, its place has (\d+)", _TOO_SMALL, Code.INTERNAL),
    )
]
"""The whole of what the broker or a worker says, Triton's words for it, and its code where that is another.

What is said of shared regions is Triton's already (runtime/bindings.py); of models see unknown_models.py.
"""

_OF_THE_CORE = re.compile(
    r"expected (?:number of inputs between )?\d|inference input '|unexpected shape for input '|input byte size mismatch for |"
    r"inference request batch-size |input '.*' (?:batch size does not|has no shape|already exists)|"
    r"unexpected number of string elements |incomplete string length |All input dimensions "
)
"""What Triton's core says when it checks a request, which is when it knows the request's id."""


def in_tritons_words(error: PenstockError, request: InferRequest) -> PenstockError:
    """The error of a request as Triton's server says it: with the request's id in front where its core puts that."""
    if not isinstance(error, CallerError):
        return as_triton(error, request.model, request.version)
    for pattern, words, code in _REWORDED:
        found = pattern.fullmatch(error.message)
        if found is not None:
            error = CallerError(found.expand(words), code or error.code)
            break
    if _OF_THE_CORE.match(error.message) is not None:
        return CallerError(f"[request id: {request.id or '<id_unknown>'}] {error.message}", error.code)
    return as_triton(error, request.model, request.version)
