# SPDX-License-Identifier: Apache-2.0
"""Sessions of onnxruntime, for any kind of device. The only importer of onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from ...ipc.errors import Code, ModelError, invalid
from ...ipc.messages import GRAPH_LEVEL, LoadModel, ModelSpec, Signature, TensorSpec
from ..shapes import Shapes
from .execution_providers import Provider, refuse_inactive, refuse_missing

# Since 1.29 onnxruntime's wheels for Linux report each session to Microsoft, from a thread and with files of their own, unless
# this is set before it is imported. What is served here is nobody else's business; 0 brings it back.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ONNX_TYPES", "check_names", "open_session", "ort", "outputs_apart", "session_options", "signature_of"]

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


def open_session(order: LoadModel, providers: Sequence[Provider]) -> Any:
    """A session on DIRECTORY/FILENAME (model.onnx), on exactly these providers.

    Raises ModelError with the file's name and the reason, MachineError for a provider that is not installed.
    """
    name = order.filename or "model.onnx"
    path = os.path.join(order.directory, name)
    if not os.path.isfile(path):
        raise ModelError(f"model file '{name}' is missing in {order.directory}", Code.NOT_FOUND)
    refuse_missing(providers, ort.get_available_providers(), ort.__version__)
    options = session_options(order.spec.parameters, order.threads)
    for library in order.spec.op_libraries:
        _register(options, library, order.spec.name)
    chosen = [(provider.name, dict(provider.options)) for provider in providers]
    try:
        session = ort.InferenceSession(path, options, providers=chosen, enable_fallback=0)
    except Exception as error:
        raise ModelError(f"model file '{name}' cannot be loaded: {error}") from error
    refuse_inactive(name, providers, session.get_providers())
    return session


def signature_of(session: Any, order: LoadModel) -> Signature:
    """What the model file says of itself. An initializer that may be overridden is an input where it is configured as one."""
    name = order.filename or "model.onnx"
    named = {tensor.name for tensor in order.spec.inputs}
    return Signature(
        [_tensor_spec(node, "input", name) for node in session.get_inputs()]
        + [
            replace(_tensor_spec(node, "input", name), optional=True)
            for node in session.get_overridable_initializers()
            if node.name in named
        ],
        [_tensor_spec(node, "output", name) for node in session.get_outputs()],
    )


def check_names(session: Any, spec: ModelSpec, shapes: Shapes) -> None:
    """Raises INVALID_ARG for a tensor that the model does not have."""
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    for tensors, nodes, kind in ((shapes.model_inputs, inputs, "input"), (spec.outputs, session.get_outputs(), "output")):
        known = [node.name for node in nodes]
        for tensor in tensors:
            if tensor.name not in known:
                raise invalid(f"model '{spec.name}' has no {kind} '{tensor.name}'; it has {', '.join(known)}")


def outputs_apart(session: Any, spec: ModelSpec, shapes: Shapes) -> frozenset[int]:
    """Outputs whose rank in the model is not that of their places, which they therefore cannot be computed into."""
    ranks = {node.name: len(node.shape) for node in session.get_outputs()}
    return frozenset(output for output in shapes.sources if ranks[spec.outputs[output].name] != 1)


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


def _register(options: Any, library: str, model: str) -> None:
    """Makes the custom operators of a library known to a session. Raises ModelError that names it."""
    if not os.path.isfile(library):
        raise ModelError(f"model '{model}': library of custom operators '{library}' is missing", Code.NOT_FOUND)
    try:
        options.register_custom_ops_library(library)
    except Exception as error:
        raise ModelError(f"model '{model}': library of custom operators '{library}' cannot be loaded: {error}") from error
