# SPDX-License-Identifier: Apache-2.0
"""Inference over HTTP: JSON, binary tensor data behind it, and tensors in regions."""

from __future__ import annotations

from typing import Any

import msgspec

from ....ipc.errors import invalid
from ....ipc.tensors import deserialize_bytes, numpy_dtype, serialize_bytes
from ..documents import version_of
from ..parts import Parts
from ..requests import InferAnswer, InferRequest, Input, InRegion, Output, OutputTensor
from .exchange import JSON, Call, Response

LENGTH_HEADER = "Inference-Header-Content-Length"


class HttpInference:
    """Answers POST .../infer."""

    def __init__(self, parts: Parts) -> None:
        self._inference = parts.inference

    async def infer(self, call: Call, model: str, version: str | None) -> Response:
        """One request."""
        document, binary = _split(call)
        request, wanted_binary = _request(document, binary, model, version_of(version))
        answer = await self._inference.infer(request, call.caller)
        return _response(answer, wanted_binary, (document.get("parameters") or {}).get("binary_data_output", False))


def _split(call: Call) -> tuple[Any, memoryview]:
    length = call.headers.get(LENGTH_HEADER)
    end = len(call.body) if length is None else int(length)
    return msgspec.json.decode(call.body[:end]), memoryview(call.body)[end:]


def _request(document: Any, binary: memoryview, model: str, version: int) -> tuple[InferRequest, dict[str, bool]]:
    inputs = []
    for given in document["inputs"]:
        parameters = given.get("parameters") or {}
        place = _place(parameters)
        content: Any = place
        if place is None and "binary_data_size" in parameters:
            size = parameters["binary_data_size"]
            content, binary = binary[:size], binary[size:]
        elif place is None:
            content = _encoded(given)
        inputs.append(Input(given["name"], given["datatype"], given["shape"], content))
    outputs = []
    wanted_binary = {}
    for wanted in document.get("outputs") or ():
        parameters = wanted.get("parameters") or {}
        outputs.append(Output(wanted["name"], _place(parameters), parameters.get("classification", 0)))
        wanted_binary[wanted["name"]] = parameters.get("binary_data", False)
    return InferRequest(model, version, document.get("id", ""), inputs, outputs), wanted_binary


def _place(parameters: dict[str, Any]) -> InRegion | None:
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    return InRegion(region, parameters.get("shared_memory_offset", 0), parameters["shared_memory_byte_size"])


def _encoded(given: dict[str, Any]) -> bytes:
    import numpy as np

    data = given.get("data")
    if data is None:
        raise invalid(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. But no field is set"
        )
    if given["datatype"] == "BYTES":
        return serialize_bytes(np.array(data, object).ravel())
    return np.array(data, numpy_dtype(given["datatype"])).tobytes()


def _response(answer: InferAnswer, wanted_binary: dict[str, bool], all_binary: bool) -> Response:
    rows = []
    pieces: list[memoryview] = []
    for output in answer.outputs:
        row: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if output.content is not None:
            if wanted_binary.get(output.name, all_binary):
                row["parameters"] = {"binary_data_size": len(output.content)}
                pieces.append(output.content)
            else:
                row["data"] = _values(output)
        rows.append(row)
    document: dict[str, Any] = {"model_name": answer.model, "model_version": str(answer.version), "outputs": rows}
    if answer.id:
        document["id"] = answer.id
    header = msgspec.json.encode(document)
    if not pieces:
        return Response(200, JSON, (header,))
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(header))}
    return Response(200, headers, (header, *pieces))


def _values(output: OutputTensor) -> Any:
    import numpy as np

    assert output.content is not None
    if output.datatype == "BYTES":
        return [value.decode() for value in deserialize_bytes(output.content, output.shape, output.name).ravel()]
    return np.frombuffer(output.content, numpy_dtype(output.datatype)).tolist()
