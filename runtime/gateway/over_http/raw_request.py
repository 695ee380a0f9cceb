# SPDX-License-Identifier: Apache-2.0
"""Raw binary requests: the body is the content of a model's only input, and what else is to be known its metadata says. Pure.

Triton's: Inference-Header-Content-Length: 0; outputs come back binary.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from ....ipc.errors import CallerError, invalid
from ....ipc.tensors import ITEM_BYTES, elements
from ..requests import Bytes, InferRequest, Input
from .infer_request import Asked, Form

RAW_FORM = Form(otherwise=True)


def raw_request(
    body: Bytes, metadata: Mapping[str, Any], model: str, version: int, forwarded: Mapping[str, str]
) -> Asked:  # fmt: skip
    """The request for one row. `metadata`: the broker's document. Raises CallerError when the shape cannot be deduced."""
    inputs = metadata["inputs"]
    if len(inputs) != 1:
        raise _refused(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(inputs)} inputs in '{model}' model "
            "configuration"
        )
    (only,) = inputs
    name, datatype, shape = only["name"], only["datatype"], list(only["shape"])
    if metadata["max_batch_size"] > 0:
        shape[0] = 1
    content = body
    if datatype == "BYTES":
        if elements(shape) != 1:
            raise _refused(f"For BYTE datatype raw input '{name}', the model must have input shape [1]")
        content = struct.pack("<I", len(body)) + body
    elif shape.count(-1) > 1:
        raise _refused(
            f"The shape of the raw input '{name}' can not be deduced because there are more than one variable-sized dimension"
        )
    elif -1 in shape:
        at = shape.index(-1)
        shape[at] = 1
        shape[at] = len(body) // max(elements(shape) * ITEM_BYTES[datatype], 1)
    request = InferRequest(model, version, "", (Input(name, datatype, shape, content),), parameters=forwarded)
    return Asked(request, RAW_FORM)


def _refused(message: str) -> CallerError:
    return invalid(f"[request id: <id_unknown>] {message}")
