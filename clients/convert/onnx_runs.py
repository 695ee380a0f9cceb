# SPDX-License-Identifier: Apache-2.0
"""An ONNX file, run in this process on the CPU: what a source answers, and what a converted file does before it is served.

An importer of onnxruntime beside the workers' backend, on purpose: a check that went through the backend would miss the
backend's own mistakes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ...ipc.errors import CallerError, Code, ModelError, invalid
from ..models import Array, TensorInfo
from .signatures import Arrays

_TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float": "FP32", "double": "FP64",
    "string": "BYTES",
}  # fmt: skip
"""onnxruntime's names -> datatypes. bfloat16 is not here: numpy, through which it is run, has no such type."""


class OnnxRun:
    """A session. `inputs` and `outputs` have complete dims."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self.inputs: tuple[TensorInfo, ...] = ()
        self.outputs: tuple[TensorInfo, ...] = ()

    def __repr__(self) -> str:
        return f"<OnnxRun {self._path.name} {'closed' if self._session is None else 'open'}>"

    def check_invariants(self) -> None:
        """An open one knows its outputs."""
        assert self._session is None or self.outputs, self

    def open(self) -> OnnxRun:
        """Loads the file. Raises CallerError for what is no ONNX file, or none that onnxruntime can load."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in workers/backends/onnxruntime_onnx.py
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # every error is raised as well
        try:
            self._session = onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused(self._path, error) from error
        self.inputs = tuple(_info("input", node) for node in self._session.get_inputs())
        self.outputs = tuple(_info("output", node) for node in self._session.get_outputs())
        return self

    def answer(self, arrays: Arrays) -> dict[str, Array]:
        """Raises ModelError with what onnxruntime says."""
        feeds = {tensor.name: _as_fed(tensor, arrays[tensor.name]) for tensor in self.inputs}
        names = [tensor.name for tensor in self.outputs]
        try:
            answers = self._session.run(names, feeds)
        except Exception as error:
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ModelError(f"{self._path.name} fails for inputs of shapes {shapes}: {error}") from error
        return dict(zip(names, map(np.asarray, answers), strict=True))


def _as_fed(tensor: TensorInfo, array: Array) -> Array:
    if tensor.datatype != "BYTES":
        return array
    texts = np.empty(array.size, np.object_)
    texts[:] = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel()]
    return texts.reshape(array.shape)


def _info(kind: str, node: Any) -> TensorInfo:
    datatype = _TYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        raise CallerError(f"{kind} '{node.name}' is a {node.type}, which cannot be converted here", Code.UNSUPPORTED)
    return TensorInfo(node.name, datatype, tuple(dim if isinstance(dim, int) else -1 for dim in node.shape))


def _refused(path: Path, error: Exception) -> CallerError:
    said = str(error)
    if "INVALID_PROTOBUF" in said or "ModelProto does not have a graph" in said:
        return invalid(f"{path} is not an ONNX file: {said}")
    return CallerError(f"{path} cannot be loaded by onnxruntime: {said}", Code.UNSUPPORTED)
