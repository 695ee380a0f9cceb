# SPDX-License-Identifier: Apache-2.0
"""The response to an inference request: JSON, and binary tensor data behind it where that was asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ..requests import Bytes, InferAnswer
from .exchange import JSON, Response
from .infer_request import LENGTH_HEADER, Form
from .json_tensors import data_of


class _Binary(Struct):
    binary_data_size: int


class _Output(Struct):
    """Without parameters and data it lies in the region that was asked for."""

    name: str
    datatype: str
    shape: Sequence[int]
    parameters: _Binary | UnsetType = UNSET
    data: Any = UNSET


class _Document(Struct, omit_defaults=True):
    id: str = ""
    model_name: str = ""
    model_version: str = ""
    outputs: Sequence[_Output] = ()


_encoder = msgspec.json.Encoder()


def response_of(answer: InferAnswer, form: Form) -> Response:
    """The response, as compact JSON. Raises CallerError when an output cannot be written as JSON."""
    outputs: list[_Output] = []
    pieces: list[Bytes] = []
    for found in answer.outputs:
        output = _Output(found.name, found.datatype, found.shape)
        if found.content is not None:
            if form.binary.get(found.name, form.otherwise):
                output.parameters = _Binary(len(found.content))
                if found.content:
                    pieces.append(found.content)
            else:
                output.data = data_of(found)
        outputs.append(output)
    header = _encoder.encode(_Document(answer.id, answer.model, str(answer.version), outputs))
    if not pieces:
        return Response(200, JSON, (header,))
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(header))}
    return Response(200, headers, (header, *pieces))
