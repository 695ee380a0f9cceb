# SPDX-License-Identifier: Apache-2.0
"""ModelInferRequest and ModelInferResponse, from and to what they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ....ipc.errors import invalid
from ....ipc.tensors import numpy_dtype, serialize_bytes
from ..documents import version_of
from ..requests import Bytes, InferAnswer, InferRequest, Input, InRegion, Output
from .parameters import NONE, classification_of, parameters_of, place_of
from .schema import pb

NO_HEADERS: Mapping[str, str] = {}

#: field of typed contents -> its datatype as errors name it, and the datatypes that come in it. FP16 and BF16 come raw only
CONTENTS: dict[str, tuple[str, frozenset[str]]] = {
    "bool_contents": ("BOOL", frozenset({"BOOL"})),
    "int_contents": ("INT32", frozenset({"INT8", "INT16", "INT32"})),
    "int64_contents": ("INT64", frozenset({"INT64"})),
    "uint_contents": ("UINT32", frozenset({"UINT8", "UINT16", "UINT32"})),
    "uint64_contents": ("UINT64", frozenset({"UINT64"})),
    "fp32_contents": ("FP32", frozenset({"FP32"})),
    "fp64_contents": ("FP64", frozenset({"FP64"})),
    "bytes_contents": ("BYTES", frozenset({"BYTES"})),
}


def request_of(message: Any, headers: Mapping[str, str] = NO_HEADERS) -> InferRequest:
    """What a message asks. `headers`: forwarded ones. Raises CallerError in Triton's words."""
    version = version_of(message.model_version)
    asked = parameters_of(message.parameters) if message.parameters else NONE
    raw = iter(message.raw_input_contents)
    has_raw = bool(message.raw_input_contents)
    inputs = [
        Input(given.name, given.datatype, given.shape, _content(given, message.model_name, raw, has_raw))
        for given in message.inputs
    ]
    outputs = [_output(wanted) for wanted in message.outputs]
    custom = {**asked.custom, **headers} if headers else asked.custom
    return InferRequest(
        message.model_name, version, message.id, inputs, outputs, asked.priority, asked.timeout_us, custom
    )  # fmt: skip


def _content(given: Any, model: str, raw: Iterator[bytes], has_raw: bool) -> Bytes | InRegion:
    place = place_of(given) if given.parameters else None
    if place is not None:
        if given.HasField("contents"):
            raise invalid(
                f"unexpected 'content' provided when using shared memory for input tensor '{given.name}' for model '{model}'"
            )
        return place
    if given.HasField("contents"):
        if has_raw:
            raise invalid(
                f"contents field must not be specified when using raw_input_contents for '{given.name}' for model '{model}'"
            )
        return _typed(given, model)
    content = next(raw, None)
    if content is None:
        raise invalid(f"unable to find data for input tensor '{given.name}' for model '{model}' in request.")
    return content


def _typed(given: Any, model: str) -> bytes:
    content = b""
    for field, values in given.contents.ListFields():
        stands_for, datatypes = CONTENTS[field.name]
        if given.datatype not in datatypes:
            raise invalid(
                f"unexpected explicit tensor data for input tensor '{given.name}' for model '{model}' of type '{stands_for}', "
                f"expected datatype '{given.datatype}'"
            )
        if stands_for == "BYTES":
            content = serialize_bytes(values)
        else:  # by way of the field's own type: numbers too large for a smaller one lose their upper bits, as in C++
            content = np.array(values, numpy_dtype(stands_for)).astype(numpy_dtype(given.datatype)).tobytes()
    return content


def _output(wanted: Any) -> Output:
    if not wanted.parameters:
        return Output(wanted.name)
    place = place_of(wanted)
    return Output(wanted.name, place, classification_of(wanted, place))


def response_of(answer: InferAnswer) -> Any:
    """The message of an answer: `raw_output_contents` has an entry for each output, empty for those in regions."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=str(answer.version), id=answer.id)
    outputs, contents = message.outputs, message.raw_output_contents
    for output in answer.outputs:
        outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        contents.append(b"" if output.content is None else bytes(output.content))  # bytes are not copied
    return message
