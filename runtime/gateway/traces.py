# SPDX-License-Identifier: Apache-2.0
"""The trace of one request, as it is collected and as Triton writes it (server/docs/user_guide/trace.md, "JSON trace output").

All times are CLOCK_MONOTONIC nanoseconds, as Triton's. What happened in the broker and the worker comes as durations, which
are placed from when the gateway had sent the request: COMPUTE_* are earlier than they were by the time that it took to get
there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from ...ipc.errors import PenstockError
from ...ipc.messages import Explanation
from ...ipc.tensors import deserialize_bytes, numpy_dtype
from ...ipc.trace_settings import TraceSettings
from .requests import InferAnswer, InferRequest, Input, InRegion, OutputTensor

CACHED = "cached"
"""Why a batch closed that there was none of."""


class Trace:
    """Belongs to one request, from when it is sampled."""

    def __init__(self, settings: TraceSettings, request: InferRequest) -> None:
        self._settings = settings
        self._request = request
        self._answer: InferAnswer | None = None
        self._stamps: list[tuple[str, int]] = []

    def __repr__(self) -> str:
        return f"<Trace of {self.model}, {[name for name, _ in self._stamps]}>"

    @property
    def model(self) -> str:
        """Whose request it is."""
        return self._request.model

    def stamp(self, name: str, ns: int) -> None:
        """Something happened."""
        self._stamps.append((name, ns))

    @property
    def file(self) -> str:
        """Where it is to be written, unless it is to be in a part of that."""
        return self._settings.trace_file

    def answered(self, answer: InferAnswer, now_ns: int) -> None:
        """The request has its answer."""
        self._answer = answer
        if answer.explain is not None:
            for name, ns in _in_the_broker(answer.explain, answer.sent_ns):
                self.stamp(name, ns)
        self.stamp("INFER_RESPONSE_COMPLETE", now_ns)

    def entries(self, number: int) -> Iterator[dict[str, Any]]:
        """Under this id: the model, then what was recorded of the tensors and when things happened, in order."""
        request, answer = self._request, self._answer
        about = {"id": number, "model_name": request.model, "model_version": answer.version if answer else request.version}
        yield {**about, "request_id": request.id} if request.id else about
        if "TIMESTAMPS" in self._settings.trace_level:
            for name, ns in sorted(self._stamps, key=lambda stamp: stamp[1]):
                yield {"id": number, "timestamps": [{"name": name, "ns": ns}]}
        if "TENSORS" in self._settings.trace_level:
            for tensor in request.inputs:
                yield {"id": number, "activity": "TENSOR_QUEUE_INPUT", "tensor": _described(tensor)}
            for output in answer.outputs if answer else ():
                yield {"id": number, "activity": "TENSOR_BACKEND_OUTPUT", "tensor": _described(output)}


def _in_the_broker(explained: Explanation, sent_ns: int) -> Iterator[tuple[str, int]]:
    yield "QUEUE_START", sent_ns
    if explained.closed == CACHED:
        return  # nothing was computed
    at_ns = sent_ns + explained.queue_ns
    yield "COMPUTE_START", at_ns
    at_ns += explained.compute_input_ns
    yield "COMPUTE_INPUT_END", at_ns
    at_ns += explained.compute_infer_ns
    yield "COMPUTE_OUTPUT_START", at_ns
    yield "COMPUTE_END", at_ns + explained.compute_output_ns


def _described(tensor: Input | OutputTensor) -> dict[str, str]:
    """As Triton describes a tensor; what lies in a region is nobody's to read but its user's and the worker's."""
    content = tensor.content
    data = "" if content is None or isinstance(content, InRegion) else _text(tensor.datatype, tensor.shape, memoryview(content))
    return {"name": tensor.name, "data": data, "shape": ",".join(map(str, tensor.shape)), "dtype": tensor.datatype}


def _text(datatype: str, shape: Sequence[int], content: memoryview) -> str:
    """The elements, with commas between; texts in quotes, as JSON has them."""
    try:
        if datatype == "BYTES":
            texts = (value.decode(errors="replace") for value in deserialize_bytes(content, shape, "").ravel())
            return ",".join(msgspec.json.encode(text).decode() for text in texts)
        if datatype == "BF16":  # the upper half of an FP32
            return _joined((np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32))
        return _joined(np.frombuffer(content, numpy_dtype(datatype)))
    except (PenstockError, ValueError):
        return ""  # it is not what it was said to be, and the request was refused for it


def _joined(array: np.ndarray[Any, Any]) -> str:
    return ",".join((array.astype(np.uint8) if array.dtype == np.bool_ else array).astype(str).tolist())
