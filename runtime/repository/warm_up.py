# SPDX-License-Identifier: Apache-2.0
"""model_warmup: what is wrong with its samples, and what workers need of them.

Rules and sentences are those with which Triton refuses a sample while it loads a model: GenerateWarmupData in
core/src/backend_model_instance.cc, and the checks of a request in core/src/infer_request.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ...ipc.messages import WarmupInput, WarmupSample
from . import schema
from .locations import ConfigFile
from .problem import Problem, leaves_directory
from .schema import Proto

_KINDS: dict[str, Literal["zero", "random", "file"]] = {"zero_data": "zero", "random_data": "random", "input_data_file": "file"}


def samples_of(config: Proto) -> tuple[WarmupSample, ...]:
    """The samples to be executed, of a configuration without problems; those of batch size 0 are left out, as by Triton."""
    return tuple(
        WarmupSample(
            sample.name,
            sample.batch_size,
            max(sample.count, 1),
            [_input(name, given) for name, given in sorted(sample.inputs.items())],
        )
        for sample in config.model_warmup
        if sample.batch_size
    )


def _input(name: str, given: Any) -> WarmupInput:
    kind = _KINDS[given.WhichOneof("input_data_type")]
    return WarmupInput(name, schema.DATATYPES[given.data_type], list(given.dims), kind, given.input_data_file)


def skipped_samples(config: Proto, file: ConfigFile) -> list[str]:
    """A warning for each sample that is not executed."""
    return [
        f"{file.at(f'model_warmup[{index}]')}: warm-up sample '{sample.name}' is skipped, since its batch_size is 0; "
        "write batch_size: 1"
        for index, sample in enumerate(config.model_warmup)
        if not sample.batch_size
    ]


def warmup_problems(config: Proto) -> Iterator[Problem]:
    """What is wrong with the samples. Inputs that the model file has yet to tell are checked once it has."""
    for index, sample in enumerate(config.model_warmup):
        path = f"model_warmup[{index}]"
        prefix = f"warm-up sample '{sample.name}' of model {config.name}"
        for name, given in sorted(sample.inputs.items()):
            for text in _data(name, given):
                yield Problem(f"{path}.inputs", f"{prefix}: {text}")
        largest = max(config.max_batch_size, 1)
        if sample.batch_size > largest:
            text = f"batch size {sample.batch_size} for '{config.name}', max allowed is {largest}"
            yield Problem(f"{path}.batch_size", f"{prefix}: {text}")
        for text in _tensors(config, sample) if config.input else ():
            yield Problem(f"{path}.inputs", f"{prefix}: {text}")


def _data(name: str, given: Any) -> Iterator[str]:
    if given.data_type not in schema.DATATYPES:
        yield f"input '{name}' must specify 'data_type'"
    if given.WhichOneof("input_data_type") is None:
        yield f"warmup setting expects input '{name}' to have input_data_type set"
    if any(dim < 0 for dim in given.dims):
        yield f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
    if leaves_directory(given.input_data_file):
        yield f"input_data_file '{given.input_data_file}' of input '{name}' must stay within the model directory"


def _tensors(config: Proto, sample: Any) -> Iterator[str]:
    known = {tensor.name: tensor for tensor in config.input}
    missing = [name for name, tensor in known.items() if name not in sample.inputs and not tensor.optional]
    if missing:
        yield (
            f"expected {len(known)} inputs but got {len(sample.inputs)} inputs for model '{config.name}'. Got input(s) "
            f"[{_quoted(sorted(sample.inputs))}], but missing required input(s) [{_quoted(missing)}]. "
            "Please provide all required input(s)."
        )
    for name, given in sorted(sample.inputs.items()):
        tensor = known.get(name)
        if tensor is None:
            yield f"unexpected inference input '{name}' for model '{config.name}'; its inputs are {_quoted(list(known))}"
        elif given.data_type != tensor.data_type:
            has, wants = (schema.DATATYPES.get(number, "nothing") for number in (given.data_type, tensor.data_type))
            yield f"inference input '{name}' data-type is '{has}', but model '{config.name}' expects '{wants}'"
        elif len(given.dims) != len(tensor.dims) or any(
            want not in (-1, dim) for want, dim in zip(tensor.dims, given.dims, strict=True)
        ):
            yield (
                f"unexpected shape for input '{name}' for model '{config.name}'. Expected {_numbers(tensor.dims)}, "
                f"got {_numbers(given.dims)}; dims leave out the batch dimension"
            )


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


def _numbers(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"
