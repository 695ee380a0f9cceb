# SPDX-License-Identifier: Apache-2.0
"""ModelInferRequest and ModelInferResponse, from and to what they mean."""

from __future__ import annotations

from typing import Any

from ....ipc.errors import invalid
from ..documents import version_of
from ..requests import InferAnswer, InferRequest, Input, InRegion, Output
from .schema import pb


def request_of(message: Any) -> InferRequest:
    """What a message asks. Raises CallerError in Triton's words."""
    raw = iter(message.raw_input_contents)
    inputs = []
    for given in message.inputs:
        place = _place(given)
        content = next(raw, None) if place is None else place
        if content is None:
            raise invalid(f"unable to find data for input tensor '{given.name}' for model '{message.model_name}' in request.")
        inputs.append(Input(given.name, given.datatype, list(given.shape), content))
    outputs = [
        Output(
            wanted.name,
            _place(wanted),
            wanted.parameters["classification"].int64_param if "classification" in wanted.parameters else 0,
        )
        for wanted in message.outputs
    ]
    return InferRequest(message.model_name, version_of(message.model_version), message.id, inputs, outputs)


def _place(tensor: Any) -> InRegion | None:
    parameters = tensor.parameters
    if "shared_memory_region" not in parameters:
        return None
    offset = parameters["shared_memory_offset"].int64_param if "shared_memory_offset" in parameters else 0
    return InRegion(parameters["shared_memory_region"].string_param, offset, parameters["shared_memory_byte_size"].int64_param)


def response_of(answer: InferAnswer) -> Any:
    """The message of an answer: `raw_output_contents` has an entry for each output, empty for those in regions."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=str(answer.version), id=answer.id)
    for output in answer.outputs:
        tensor = message.outputs.add()
        tensor.name, tensor.datatype = output.name, output.datatype
        tensor.shape.extend(output.shape)
        message.raw_output_contents.append(b"" if output.content is None else bytes(output.content))
    return message
