# SPDX-License-Identifier: Apache-2.0
"""What makes reshape, optional and ragged inputs, batch inputs and batch outputs wrong, and what they make of a tensor.

Rules and sentences are Triton's, with the remedy after them: ValidateIOShape and ValidateBatchIO of its
model_config_utils.cc. Ours beyond it: a name is used once, and what is computed from an input can rely on its being there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...ipc.messages import BatchInput, TensorSpec
from . import schema
from .problem import Problem
from .schema import Proto

BATCH_INPUT_TYPES = ("TYPE_INT32", "TYPE_FP32")


def tensor_specs(tensors: Any, shaped_as: dict[str, str]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as the rest of the system knows them. `shaped_as`: outputs that are split by an input's shapes."""
    return tuple(
        TensorSpec(
            tensor.name,
            schema.DATATYPES[tensor.data_type],
            list(tensor.dims),
            list(tensor.reshape.shape) if tensor.HasField("reshape") else None,
            getattr(tensor, "optional", False),
            getattr(tensor, "allow_ragged_batch", False),
            shaped_as.get(tensor.name, ""),
            tensor.is_shape_tensor,
        )
        for tensor in tensors
    )


def batch_inputs(config: Proto) -> tuple[BatchInput, ...]:
    """What the worker computes for each execution."""
    kind, datatypes = schema.batch_input_kind, schema.DATATYPES
    return tuple(
        BatchInput(kind(each), list(each.target_name), datatypes[each.data_type], each.source_input[0])
        for each in config.batch_input
    )


def scattered(config: Proto) -> dict[str, str]:
    """Output -> the input by whose shapes it is split."""
    return {target: each.source_input[0] for each in config.batch_output for target in each.target_name}


def model_dims(tensor: Any) -> list[int]:
    """The dims of a configured tensor that the model file must agree with, without the batch dimension."""
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def reshape_problems(tensor: Any, prefix: str, path: str) -> Iterator[Problem]:
    """The elements of `dims` and of `reshape` are the same, and so are those between their variable dimensions."""
    if not tensor.HasField("reshape"):
        return
    path, shape = f"{path}.reshape", list(tensor.reshape.shape)
    if any(dim < 1 and dim != -1 for dim in shape):
        yield Problem(
            path, f"{prefix} reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension, got {shape}"
        )
        return
    before, after = _between_variables(tensor.dims), _between_variables(shape)
    what = f"; dims are {list(tensor.dims)}, reshape is {shape}"
    if len(before) != len(after):
        yield Problem(path, f"{prefix} has different number of variable-size dimensions for dims and reshape{what}")
    elif before != after:
        yield Problem(path, f"{prefix} has different size for dims and reshape{what}")


def _between_variables(dims: Sequence[int]) -> list[int]:
    """The element counts of the stretches of fixed dims before, between and after the variable ones."""
    counts = [1]
    for dim in dims:
        if dim < 0:
            counts.append(1)
        else:
            counts[-1] *= dim
    return counts


def batch_problems(config: Proto) -> Iterator[Problem]:
    """What is wrong with batch inputs and batch outputs. Names are unknown only among others: a model file may bring them."""
    inputs = {tensor.name: tensor for tensor in config.input}
    for index, each in enumerate(config.batch_input):
        path = f"batch_input[{index}]"
        yield from _source_problems(config, each, "input", schema.batch_input_kind(each), path)
        if not each.target_name or not all(each.target_name):
            yield Problem(path, f"batch input must specify 'target_name', the model's input that it is for, for {config.name}")
        if schema.datatype_name(each.data_type) not in BATCH_INPUT_TYPES:
            yield Problem(f"{path}.data_type", f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {config.name}")
    for name, count in Counter(name for each in config.batch_input for name in each.target_name).items():
        if name in inputs:
            why = "is an input that requests bring; it cannot be computed as well: remove one of the two"
            yield Problem("batch_input", f"batch input target name '{name}' {why}, for {config.name}")
        elif count > 1:
            yield Problem("batch_input", f"batch input target name '{name}' can only be specified once for {config.name}")
    yield from _batch_output_problems(config)


def _batch_output_problems(config: Proto) -> Iterator[Problem]:
    outputs = {tensor.name: tensor for tensor in config.output}
    for index, each in enumerate(config.batch_output):
        path = f"batch_output[{index}]"
        yield from _source_problems(config, each, "output", schema.batch_output_kind(each), path)
        if not each.target_name:
            yield Problem(path, f"batch output must specify 'target_name' for {config.name}")
        for name in each.target_name:
            if outputs and name not in outputs:
                yield Problem(path, f"unknown target output name '{name}' for {config.name}; outputs are {', '.join(outputs)}")
        reshaped = [f"output '{name}'" for name in each.target_name if name in outputs and outputs[name].HasField("reshape")]
        reshaped += [f"input '{t.name}'" for t in config.input if t.name in each.source_input and t.HasField("reshape")]
        if reshaped:
            why = "a batch output has the shape of its source input as clients know it: remove reshape from"
            yield Problem(path, f"{why} {', '.join(reshaped)} for {config.name}")
    for name, count in Counter(name for each in config.batch_output for name in each.target_name).items():
        if count > 1:
            yield Problem("batch_output", f"target output name '{name}' can only be specified once for {config.name}")


def _source_problems(config: Proto, each: Any, side: str, kind: str, path: str) -> Iterator[Problem]:
    if len(each.source_input) != 1:
        given = len(each.source_input)
        yield Problem(path, f"batch {side} kind '{kind}' expects 1 source input, got {given}, for {config.name}")
    inputs = {tensor.name: tensor for tensor in config.input}
    for name in each.source_input if inputs else ():
        if name not in inputs:
            known = ", ".join(inputs)
            yield Problem(f"{path}.source_input", f"unknown source input name '{name}' for {config.name}; inputs are {known}")
        elif inputs[name].optional:
            why = "is optional, but what is computed from it needs it in every request: remove optional"
            yield Problem(f"{path}.source_input", f"source input '{name}' {why}, for {config.name}")
