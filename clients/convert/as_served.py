# SPDX-License-Identifier: Apache-2.0
"""What a converted model answers when it is served: the same requests, through the public client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ipc.errors import ModelError, PenstockError
from ...ipc.tensors import numpy_dtype
from ..client import Client
from ..models import Array, TensorInfo
from .correctness import Comparison, compare
from .samples import Samples
from .signatures import Arrays, Signature
from .tolerances import Precision, Tolerances

TIMEOUT_S = 120.0
"""For one answer: the first ones of a model may take a while on a GPU."""


def loaded_or_raise(client: Client, name: str, version: int) -> None:
    """Raises ModelError with the reason when the broker could not load this version."""
    row = next((row for row in client.index() if row["name"] == name and row["version"] in ("", str(version))), None)
    if row is None or row["state"] != "READY":
        why = "the broker does not know it" if row is None else row["reason"] or row["state"]
        raise ModelError(f"{name}/{version} cannot be served: {why}")


def compare_served(
    client: Client, name: str, version: int, signature: Signature, samples: Samples, answers: Sequence[Arrays],
    tolerances: Tolerances, precision: Precision,
) -> tuple[Comparison, ...]:  # fmt: skip
    """Every request alone, and then all at once, which the broker may batch: the largest first, behind which the others queue.

    In what it returns, the latter are counted on from the former. Raises PenstockError.
    """
    requests = [_as_taken(signature, request) for request in samples.requests]
    try:
        alone = [_outputs(client.infer(name, request, version=version, timeout_s=TIMEOUT_S)) for request in requests]
        largest_first = sorted(range(len(requests)), key=lambda number: -samples.rows[number])
        futures = {each: client.submit(name, requests[each], version=version, timeout_s=TIMEOUT_S) for each in largest_first}
        together = [_outputs(futures[number].result()) for number in range(len(requests))]
    except PenstockError as error:
        raise type(error)(f"as served: {error.message}", error.code) from error
    expected = [_as_given(signature, answer) for answer in answers]
    return compare(signature.outputs, [*expected, *expected], [*alone, *together], tolerances, precision)


def _as_taken(signature: Signature, request: Arrays) -> dict[str, Array]:
    """In the datatypes of the entry: TensorRT before 10 has made INT32 of the source's INT64. In its shapes, too."""
    found = {}
    for tensor in signature.inputs:
        array, dtype = _shaped(tensor, request[tensor.name]), numpy_dtype(tensor.datatype)
        found[tensor.name] = array if array.dtype == dtype else array.astype(dtype)
    return found


def _as_given(signature: Signature, answer: Arrays) -> dict[str, Array]:
    """The source's answer in the shapes of the entry."""
    return {tensor.name: _shaped(tensor, answer[tensor.name]) for tensor in signature.outputs}


def _shaped(tensor: TensorInfo, array: Array) -> Array:
    """What has no dims is served as one element (see entry_config)."""
    return array if tensor.dims else array.reshape((*array.shape, 1))


def _outputs(result: Any) -> dict[str, Array]:
    """Copies: the memory of a result is leased again."""
    return {name: np.array(array) for name, array in result.outputs.items()}
