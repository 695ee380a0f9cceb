# SPDX-License-Identifier: Apache-2.0
"""What a model file says of its inputs and outputs, against what its configuration says: completing the one from the other.

Triton's rules for ONNX models: AutoCompleteConfig, ValidateInputs and ValidateOutputs of onnxruntime_backend, and
CompareDimsSupported of the backend library, whose sentences these are, with the remedy after them. A model that says its
largest batch (a TensorRT plan) gets that, and no more (AutoCompleteConfig of tensorrt_backend).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ipc.errors import invalid
from ...ipc.messages import Signature, TensorSpec
from . import schema
from .normalisation import fill_in_preferred_sizes
from .schema import Proto
from .shapes import model_dims, scattered

DEFAULT_MAX_BATCH_SIZE = 4
"""Triton's backend configuration `default-max-batch-size`."""


def fill_in_signature(config: Proto, signature: Signature, is_batching_chosen: bool) -> None:
    """Adds what the configuration leaves out: max_batch_size, the dynamic batcher, all inputs or all outputs.

    Unlike Triton, which cannot tell, an explicit `max_batch_size: 0` is a choice (`is_batching_chosen`) and is kept.
    Raises CallerError for a model that cannot be completed.
    """
    tensors = [*signature.inputs, *signature.outputs]
    if all(tensor.dims and tensor.dims[0] == -1 for tensor in tensors):
        if not is_batching_chosen:
            config.max_batch_size = signature.max_batch_size or DEFAULT_MAX_BATCH_SIZE
        if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
            config.dynamic_batching.SetInParent()
        fill_in_preferred_sizes(config)
    elif config.max_batch_size:
        raise invalid(
            f"autofill failed for model '{config.name}': model does not support batching while non-zero max_batch_size "
            f"is specified; its tensors are {_listed(tensors)}, and not all begin with a variable dimension: "
            "write max_batch_size: 0"
        )
    computed = {name for each in config.batch_input for name in each.target_name}
    for existing, provided in ((config.input, signature.inputs), (config.output, signature.outputs)):
        if not existing:
            for tensor in provided:
                if tensor.name not in computed:
                    _add(existing, tensor, config)


def _add(tensors: Any, tensor: TensorSpec, config: Proto) -> None:
    """What leaves no dims is one element for clients: Triton's reshape from [1] to []."""
    source = scattered(config).get(tensor.name)
    dims = tensor.dims[1:] if config.max_batch_size else tensor.dims
    if source is not None:
        dims = next((list(each.dims) for each in config.input if each.name == source), dims)
    added = tensors.add(name=tensor.name, data_type=_number(tensor), dims=dims or [1], is_shape_tensor=tensor.shape_tensor)
    if not dims:
        added.reshape.SetInParent()


def compare(config: Proto, signature: Signature) -> None:
    """Raises CallerError where the configuration does not agree with the model. Outputs may be left out, inputs may not."""
    expected = len(config.input) + sum(len(each.target_name) for each in config.batch_input)
    if expected != len(signature.inputs):
        raise invalid(
            f"unable to load model '{config.name}', configuration expects {expected} inputs, "
            f"model provides {len(signature.inputs)}; they are {_listed(signature.inputs)}"
        )
    most = signature.max_batch_size
    if 0 < most < config.max_batch_size:
        raise invalid(
            f"unable to load model '{config.name}', configuration specified max-batch {config.max_batch_size} but the model "
            f"only supports max-batch {most}; write max_batch_size: {most}, or build the model for more"
        )
    _compare_computed(config, signature)
    divided = scattered(config)
    for kind, configured, provided in (
        ("input", config.input, signature.inputs),
        ("output", config.output, signature.outputs),
    ):
        by_name = {tensor.name: tensor for tensor in provided}
        for tensor in configured:
            found = _found(config.name, kind, tensor.name, by_name)
            _compare_datatypes(config.name, kind, tensor.name, tensor.data_type, found)
            if kind == "input" and tensor.allow_ragged_batch:
                _compare_ragged(config.name, found)
            elif kind == "input" or tensor.name not in divided:
                _compare_dims(config, kind, tensor, found.dims)
            if kind == "input" and tensor.optional and not found.optional:
                raise invalid(
                    f"model '{config.name}': input '{tensor.name}' is optional, but the model has no value for it; give it an "
                    "initializer of the same name as that graph input, or remove optional"
                )


def _found(model: str, kind: str, name: str, by_name: dict[str, TensorSpec]) -> TensorSpec:
    found = by_name.get(name)
    if found is None:
        allowed = ", ".join(sorted(by_name))
        raise invalid(f"model '{model}': unexpected inference {kind} '{name}', allowed {kind}s are: {allowed}")
    return found


def _compare_computed(config: Proto, signature: Signature) -> None:
    """What the worker computes must be inputs of the model too; their shape is their kind's affair."""
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    for each in config.batch_input:
        for name in each.target_name:
            _compare_datatypes(
                config.name, "batch input", name, each.data_type, _found(config.name, "batch input", name, by_name)
            )


def _compare_ragged(model: str, provided: TensorSpec) -> None:
    if provided.dims != [-1]:
        raise invalid(
            f"unable to load model '{model}', configuration expects model provides input with shape [-1] for ragged input "
            f"'{provided.name}', model provides {_text(provided.dims)}"
        )


def _compare_datatypes(model: str, kind: str, name: str, configured: int, provided: TensorSpec) -> None:
    if configured != _number(provided):
        raise invalid(
            f"unable to load model '{model}', configuration expects datatype {schema.datatype_name(configured)} for {kind} "
            f"'{name}', model provides {schema.datatype_name(_number(provided))}"
        )


def _number(tensor: TensorSpec) -> int:
    try:
        return schema.DATATYPE_NUMBERS[tensor.datatype]
    except KeyError:
        raise invalid(f"tensor '{tensor.name}' of the model has the unknown datatype '{tensor.datatype}'") from None


def _compare_dims(config: Proto, kind: str, tensor: Any, provided: Sequence[int]) -> None:
    """An input's variable dimension takes any configured one; an output's dims must be equal (Triton: compare_exact)."""
    title = f"model '{config.name}', tensor '{tensor.name}'"
    dims, batches = model_dims(tensor), config.max_batch_size > 0
    if batches and (not provided or provided[0] != -1):
        raise invalid(
            f"{title}: for the model to support batching the shape should have at least 1 dimension and the first dimension "
            f"must be -1; but shape expected by the model is {_text(provided)}; write max_batch_size: 0"
        )
    full = [-1, *dims] if batches else dims
    if not _fits(full, provided, is_exact=kind == "output"):
        form = (
            "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape"
            if batches
            else "shape"
        )
        raise invalid(
            f"{title}: the model expects {len(provided)} dimensions (shape {_text(provided)}) but the model configuration "
            f"specifies {len(full)} dimensions ({form} {_text(full)}){_remedy(tensor, provided, batches)}"
        )


def _fits(configured: Sequence[int], provided: Sequence[int], is_exact: bool) -> bool:
    return len(configured) == len(provided) and all(
        have == want or (have == -1 and not is_exact) for want, have in zip(configured, provided, strict=True)
    )


def _remedy(tensor: Any, provided: Sequence[int], batches: bool) -> str:
    """The classic trap: whether dims count the batch dimension is decided by max_batch_size."""
    dims, own = tensor.dims, provided[1:] if batches else provided
    if not own:
        return "; write dims: [ 1 ] reshape { shape: [ ] }"
    if tensor.HasField("reshape"):
        return f"; write reshape {{ shape: {_text(own)} }}"
    if batches and len(dims) == len(provided):
        return f"; dims must leave out the batch dimension: write dims: {_text(provided[1:])}"
    if not batches and len(dims) == len(provided) - 1 and provided[0] == -1:
        return f"; without max_batch_size dims must be complete: write max_batch_size, or dims: {_text(provided)}"
    return f"; write dims: {_text(own)}"


def _listed(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {tensor.datatype} {_text(tensor.dims)}" for tensor in tensors) or "none"


def _text(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"
