# SPDX-License-Identifier: Apache-2.0
"""ONNX models through onnxruntime, on the CPU. The only importer of onnxruntime.

Inputs are bound by address where they lie; outputs of known shape are computed straight into their places. Work that comes
again keeps its binding, so that it costs one call (3 us; making the binding costs 10 us more).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from ...ipc.errors import Code, ModelError, PenstockError, invalid
from ...ipc.messages import GRAPH_LEVEL, LoadModel, ModelSpec, Signature, TensorSpec
from ...ipc.tensors import byte_size, numpy_dtype
from ..shapes import Shapes
from .base import Backend, Tensor, Work

# Since 1.29 onnxruntime's wheels for Linux report each session to Microsoft, from a thread and with files of their own, unless
# this is set before it is imported. What is served here is nobody else's business; 0 brings it back.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

#: datatype -> (onnxruntime's name of it, its number in onnx.TensorProto.DataType)
ONNX_TYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 9), "UINT8": ("uint8", 2), "UINT16": ("uint16", 4), "UINT32": ("uint32", 12), "UINT64": ("uint64", 13),
    "INT8": ("int8", 3), "INT16": ("int16", 5), "INT32": ("int32", 6), "INT64": ("int64", 7),
    "FP16": ("float16", 10), "BF16": ("bfloat16", 16), "FP32": ("float", 1), "FP64": ("double", 11), "BYTES": ("string", 8),
}  # fmt: skip
_DATATYPES = {f"tensor({name})": datatype for datatype, (name, _) in ONNX_TYPES.items()}

_GRAPH_LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Triton's optimization.graph.level -> onnxruntime's; any other is everything (onnxruntime_backend, ModelState)."""

WARM_UP_BUDGET_S = 2.0
"""The largest batch is warmed up as well when one row lets expect that it takes no longer."""


class OnnxRuntime(Backend):
    """One session, used by one thread."""

    def __init__(self) -> None:
        self._session: ort.InferenceSession | None = None
        self._spec: ModelSpec | None = None
        self._shapes: Shapes | None = None
        self._binding: ort.IOBinding | None = None
        self._takes_text = False
        #: outputs whose rank in the model is not that of their places, which they therefore cannot be computed into
        self._apart: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<OnnxRuntime {'closed' if self._session is None else 'loaded' if self._spec is None else self._spec.name}>"

    def load(self, order: LoadModel) -> Signature:
        """Reads DIRECTORY/FILENAME (model.onnx). Raises ModelError with the file's name and the reason."""
        name = order.filename or "model.onnx"
        path = os.path.join(order.directory, name)
        if not os.path.isfile(path):
            raise ModelError(f"model file '{name}' is missing in {order.directory}", Code.NOT_FOUND)
        options = session_options(order.spec.parameters, order.threads)
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"model file '{name}' cannot be loaded: {error}") from error
        named = {tensor.name for tensor in order.spec.inputs}
        return Signature(
            [_tensor_spec(node, "input", name) for node in self._session.get_inputs()]
            + [
                replace(_tensor_spec(node, "input", name), optional=True)
                for node in self._session.get_overridable_initializers()
                if node.name in named
            ],
            [_tensor_spec(node, "output", name) for node in self._session.get_outputs()],
        )

    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:
        """Checks names, then executes zeros once, and once more at the largest batch where that is cheap.

        With `samples_follow`, only the former.
        """
        assert self._session is not None, "warm_up before load"
        self._shapes = Shapes(spec)
        inputs = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        for tensors, nodes, kind in (
            (self._shapes.model_inputs, inputs, "input"),
            (spec.outputs, self._session.get_outputs(), "output"),
        ):
            known = [node.name for node in nodes]
            for tensor in tensors:
                if tensor.name not in known:
                    raise invalid(f"model '{spec.name}' has no {kind} '{tensor.name}'; it has {', '.join(known)}")
        self._takes_text = any(tensor.datatype == "BYTES" for tensor in spec.inputs)
        if self._takes_text and any(tensor.datatype == "BF16" for tensor in spec.inputs):
            raise ModelError(f"model '{spec.name}': BYTES and BF16 inputs in one model are not supported", Code.UNSUPPORTED)
        ranks = {node.name: len(node.shape) for node in self._session.get_outputs()}
        self._apart = frozenset(output for output in self._shapes.sources if ranks[spec.outputs[output].name] != 1)
        self._binding = self._session.io_binding()
        self._spec = spec
        if samples_follow:
            return
        started_s = time.monotonic()
        is_possible = self._execute_zeros(1)
        one_row_s = time.monotonic() - started_s
        if is_possible and spec.max_batch_size > 1 and one_row_s * spec.max_batch_size <= WARM_UP_BUDGET_S:
            self._execute_zeros(spec.max_batch_size)

    def execute(self, work: Work) -> Sequence[Tensor | None]:
        """Runs the session. Raises what onnxruntime raises."""
        if self._takes_text:
            return self._run_with_text(work)
        assert self._session is not None and self._binding is not None, "execute before warm_up"
        if work.prepared is not None:
            self._session.run_with_iobinding(work.prepared)
            return work.places
        binding = self._session.io_binding() if work.is_kept else self._binding
        try:
            self._bind(binding, work)
            self._session.run_with_iobinding(binding)
            results = self._results(binding, work)
        finally:
            if not work.is_kept:  # else what is bound would keep its memory mapped
                binding.clear_binding_inputs()
                binding.clear_binding_outputs()
        if work.is_kept and results is work.places:
            work.prepared = binding
        return results

    def close(self) -> None:
        """Frees the session."""
        self._binding = None
        self._session = None

    def _bind(self, binding: ort.IOBinding, work: Work) -> None:
        assert self._spec is not None and self._shapes is not None
        for tensor, content in zip(self._shapes.model_inputs, work.inputs, strict=True):
            if content is not None:
                binding.bind_ortvalue_input(tensor.name, _value(tensor, content))
        for output, place in zip(work.wanted, work.places, strict=True):
            tensor = self._spec.outputs[output]
            if place is None or output in self._apart:
                binding.bind_output(tensor.name, "cpu")
            else:
                binding.bind_ortvalue_output(tensor.name, _value(tensor, place))

    def _results(self, binding: ort.IOBinding, work: Work) -> Sequence[Tensor | None]:
        assert self._spec is not None
        if not self._apart and all(place is not None for place in work.places):
            return work.places
        return [
            place if place is not None and output not in self._apart else _content(self._spec.outputs[output], value)
            for output, place, value in zip(work.wanted, work.places, binding.get_outputs(), strict=True)
        ]

    def _run_with_text(self, work: Work) -> Sequence[Tensor | None]:
        """Strings cannot be bound (onnxruntime: "Only binding non-string Tensors is currently supported")."""
        assert self._session is not None and self._spec is not None and self._shapes is not None
        names = [self._spec.outputs[output].name for output in work.wanted]
        feeds = {
            tensor.name: _decoded(tensor.name, content) if tensor.datatype == "BYTES" else content
            for tensor, content in zip(self._shapes.model_inputs, work.inputs, strict=True)
            if content is not None
        }
        return [_encoded(result) for result in self._session.run(names, feeds)]

    def _execute_zeros(self, rows: int) -> bool:
        """Whether there was anything to execute: variable dims and text have no natural zero."""
        assert self._spec is not None and self._shapes is not None
        spec = self._spec
        shapes = [self._shapes.full(rows, tensor.dims) for tensor in spec.inputs]
        if any(byte_size(tensor.datatype, shape) is None for tensor, shape in zip(spec.inputs, shapes, strict=True)):
            return False
        zeros = [np.zeros(shape, numpy_dtype(tensor.datatype)) for tensor, shape in zip(spec.inputs, shapes, strict=True)]
        inputs = self._shapes.work_inputs(zeros)
        wanted = tuple(range(len(spec.outputs)))
        self.execute(Work((rows,), inputs, wanted, [None] * len(wanted), is_kept=False))
        return True


def session_options(parameters: Mapping[str, str], threads: int) -> Any:
    """Options of a session from the parameters that Triton's onnxruntime backend documents. Raises INVALID_ARG.

    An idle worker must not spin: threads wait for work by sleeping unless a `session.` entry says otherwise.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # every error is raised as well, and reported once
    options.intra_op_num_threads = _number(parameters, "intra_op_thread_count") or threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = _number(parameters, "inter_op_thread_count")
    options.graph_optimization_level = _GRAPH_LEVELS.get(
        parameters.get(GRAPH_LEVEL, ""), ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    if _number(parameters, "execution_mode"):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(_number(parameters, "enable_mem_arena", 1))
    options.enable_mem_pattern = bool(_number(parameters, "enable_mem_pattern", 1))
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    entries.update({key: value for key, value in parameters.items() if key.startswith("session.")})
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _number(parameters: Mapping[str, str], key: str, otherwise: int = 0) -> int:
    text = parameters.get(key, "")
    if not text:
        return otherwise
    if not text.isdecimal():
        raise invalid(f"parameter '{key}' must be a whole number that is not negative, got '{text}'")
    return int(text)


def _tensor_spec(node: Any, kind: str, filename: str) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelError(
            f"model file '{filename}': {kind} '{node.name}' is a {node.type}, which no datatype holds", Code.UNSUPPORTED
        )
    return TensorSpec(node.name, datatype, [dim if isinstance(dim, int) else -1 for dim in node.shape])


def _value(tensor: TensorSpec, content: Tensor) -> Any:
    """The tensor's memory as an OrtValue; no copy, at any byte address."""
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(content, ONNX_TYPES[tensor.datatype][1])


def _content(tensor: TensorSpec, value: Any) -> Tensor:
    """An output that onnxruntime allocated, as numpy holds it."""
    if tensor.datatype == "BF16" and value.data_type() == "tensor(bfloat16)":  # numpy has no such type: copy the raw bits
        shape: list[int] = value.shape()
        return np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint16).reshape(shape)
    result: Tensor = value.numpy()
    return _encoded(result)


def _encoded(result: Tensor) -> Tensor:
    """Text as bytes, UTF-8."""
    if result.dtype.kind != "O":
        return result
    texts = np.empty(result.size, np.object_)
    texts[:] = [str(text).encode() for text in result.ravel()]
    return texts.reshape(result.shape)


def _decoded(name: str, content: Tensor) -> Tensor:
    """BYTES as the text that onnxruntime takes. Raises CallerError where it is not UTF-8."""
    texts = np.empty(content.size, np.object_)
    try:
        texts[:] = [element.decode() for element in content.ravel()]
    except UnicodeDecodeError as error:
        raise _not_text(name, error) from error
    return texts.reshape(content.shape)


def _not_text(name: str, error: UnicodeDecodeError) -> PenstockError:
    return invalid(f"input '{name}': an element is not UTF-8, which is what the model's strings are: {error}")
