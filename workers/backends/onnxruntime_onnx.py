# SPDX-License-Identifier: Apache-2.0
"""ONNX models through onnxruntime, from host memory: on the CPU, and on a GPU where the model has text.

Inputs are bound by address where they lie; outputs of known shape are computed straight into their places. Work that comes
again keeps its binding, so that it costs one call (3 us; making the binding costs 10 us more).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ipc.errors import Code, ModelError, PenstockError, invalid
from ...ipc.messages import LoadModel, ModelSpec, Signature, TensorSpec
from ..shapes import Shapes
from .base import Backend, Tensor, Work
from .execution_providers import cpu_providers, gpu_providers
from .onnx_sessions import ONNX_TYPES, check_names, open_session, ort, outputs_apart, signature_of
from .zeros import execute_zeros


class OnnxRuntime(Backend):
    """One session, used by one thread."""

    def __init__(self) -> None:
        self._session: Any = None  # an InferenceSession
        self._spec: ModelSpec | None = None
        self._shapes: Shapes | None = None
        self._binding: Any = None  # an IOBinding
        self._takes_text = False
        #: see outputs_apart
        self._apart: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<OnnxRuntime {'closed' if self._session is None else 'loaded' if self._spec is None else self._spec.name}>"

    def load(self, order: LoadModel) -> Signature:
        """Reads DIRECTORY/FILENAME (model.onnx). Raises ModelError with the file's name and the reason."""
        spec = order.spec
        providers = cpu_providers(spec) if order.gpu is None else gpu_providers(spec, order.gpu.ordinal)
        self._session = open_session(order, providers)
        return signature_of(self._session, order)

    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:
        """Checks names, then executes zeros, and the largest batch where that is cheap.

        With `samples_follow`, only the former.
        """
        assert self._session is not None, "warm_up before load"
        self._shapes = Shapes(spec)
        check_names(self._session, spec, self._shapes)
        self._takes_text = any(tensor.datatype == "BYTES" for tensor in spec.inputs)
        if self._takes_text and any(tensor.datatype == "BF16" for tensor in spec.inputs):
            raise ModelError(f"model '{spec.name}': BYTES and BF16 inputs in one model are not supported", Code.UNSUPPORTED)
        self._apart = outputs_apart(self._session, spec, self._shapes)
        self._binding = self._session.io_binding()
        self._spec = spec
        if not samples_follow:
            execute_zeros(spec, self._shapes, self.execute)

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

    def _bind(self, binding: Any, work: Work) -> None:
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

    def _results(self, binding: Any, work: Work) -> Sequence[Tensor | None]:
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
