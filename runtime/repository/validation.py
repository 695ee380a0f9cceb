# SPDX-License-Identifier: Apache-2.0
"""What makes a complete-looking configuration wrong. Sentences are Triton's where Triton has one, with the remedy after it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ...ipc.errors import invalid
from ...ipc.messages import FEW
from .accelerators import accelerator_problems, library_problems
from .backends import BACKENDS
from .locations import ConfigFile
from .optimization import graph_problems
from .placement import group_problems, lanes_of
from .problem import Problem, leaves_directory
from .schema import Proto
from .shapes import batch_problems, reshape_problems
from .warm_up import warmup_problems

MAX_NAME = 256
MAX_DIMS = 31
"""One less than the protocol's bound on a shape (ipc/messages/base.py), for the batch dimension."""

_TAG = re.compile("[a-zA-Z0-9][a-zA-Z0-9_]*")
"""A label with a _ in front of it; those with two are Prometheus' own."""


def check(config: Proto, file: ConfigFile, known: Iterable[Problem] = ()) -> None:
    """Raises one CallerError with a line for each problem of a normalised configuration, and for those that are known."""
    found = [f"{file.at(problem.path)}: {problem.text}" for problem in (*known, *problems(config))]
    if found:
        raise invalid("\n".join(found))


def problems(config: Proto) -> Iterator[Problem]:
    """Everything that is wrong, in the order of the schema."""
    yield from _versions(config)
    if config.max_batch_size < 0:
        yield Problem("max_batch_size", f"'max_batch_size' must be non-negative value for {config.name}")
    yield from tensor_problems(config)
    yield from batch_problems(config)
    yield from accelerator_problems(config)
    yield from library_problems(config)
    yield from graph_problems(config)
    yield from _dynamic_batching(config)
    yield from group_problems(config)
    yield from _resources(config)
    for name in config.metric_tags:
        if not _TAG.fullmatch(name):
            text = f"metric_tags: '{name}' cannot be a label for {config.name}: letters and digits, and _ behind them"
            yield Problem("metric_tags", text)
    filename = config.default_model_filename
    if leaves_directory(filename):
        yield Problem("default_model_filename", f"default_model_filename '{filename}' must stay within the version directory")
    for read in (max_execution_s, lanes_of):
        try:
            read(config)
        except ValueError as error:
            yield Problem("parameters", str(error))
    yield from warmup_problems(config)


def max_execution_s(config: Proto) -> float | None:
    """Our parameter `max_execution_s`, None where it is not given; 0: no limit. Raises ValueError."""
    if "max_execution_s" not in config.parameters:
        return None
    text = config.parameters["max_execution_s"].string_value
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ValueError(
            f"parameter 'max_execution_s' must be a number of seconds, 0 for no limit, got '{text}' for {config.name}"
        )
    return seconds


def _versions(config: Proto) -> Iterator[Problem]:
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "latest" and policy.latest.num_versions < 1:
        yield Problem("version_policy.latest", f"version_policy: num_versions must be at least 1 for {config.name}")
    if choice == "specific":
        versions = policy.specific.versions
        if not versions or min(versions) < 1:
            yield Problem(
                "version_policy.specific", f"version_policy: specific needs versions, each at least 1, for {config.name}"
            )


def tensor_problems(config: Proto) -> Iterator[Problem]:
    """What is wrong with inputs and outputs."""
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors and not BACKENDS[config.backend].is_self_describing:
            yield Problem(
                kind, f"must specify '{kind}' for {config.name}: backend '{config.backend}' has no model file to tell"
            )
        if len(tensors) > FEW:
            yield Problem(kind, f"{len(tensors)} {kind}s are more than the {FEW} that a request may carry, for {config.name}")
        for index, tensor in enumerate(tensors):
            path = f"{kind}[{index}]"
            for problem in (*_tensor(tensor, f"model {kind}", path), *_tensorrt_only(config, tensor, f"model {kind}", path)):
                yield Problem(problem.path, f"{problem.text} for {config.name}")
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield Problem(kind, f"model {kind} '{name}' is specified {count} times for {config.name}")


def _tensor(tensor: Any, prefix: str, path: str) -> Iterator[Problem]:
    """Triton's ValidateModelInput, ValidateModelOutput and ValidateIOShape."""
    if not tensor.name or len(tensor.name) > MAX_NAME:
        yield Problem(path, f"{prefix} must specify 'name', of at most {MAX_NAME} characters,")
        return
    prefix = f"{prefix} '{tensor.name}'"
    if not tensor.data_type:
        yield Problem(f"{path}.data_type", f"{prefix} must specify 'data_type'")
    if not tensor.dims or len(tensor.dims) > MAX_DIMS:
        yield Problem(f"{path}.dims", f"{prefix} must specify 'dims', at least 1 and at most {MAX_DIMS},")
    for index, dim in enumerate(tensor.dims):
        if dim < 1 and dim != -1:
            text = f"{prefix} dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
            yield Problem(f"{path}.dims[{index}]", text)
    yield from reshape_problems(tensor, prefix, path)
    if leaves_directory(getattr(tensor, "label_filename", "")):
        yield Problem(f"{path}.label_filename", f"{prefix}: label_filename must stay within the model directory")
    if getattr(tensor, "format", 0) and len(tensor.dims) != 3:
        yield Problem(f"{path}.format", f"{prefix}: NHWC and NCHW require 3 dims")


def _tensorrt_only(config: Proto, tensor: Any, prefix: str, path: str) -> Iterator[Problem]:
    if tensor.is_shape_tensor and config.backend != "tensorrt":
        text = f"{prefix} '{tensor.name}' must not have is_shape_tensor, which is TensorRT's, with backend '{config.backend}'"
        yield Problem(f"{path}.is_shape_tensor", text)


def _dynamic_batching(config: Proto) -> Iterator[Problem]:
    yield from _priority_levels(config)
    for index, size in enumerate(config.dynamic_batching.preferred_batch_size):
        path = f"dynamic_batching.preferred_batch_size[{index}]"
        if size < 1:
            yield Problem(path, f"dynamic batching preferred size must be positive for {config.name}, got {size}")
        elif size > config.max_batch_size:
            largest = config.max_batch_size
            fix = f"max_batch_size is {largest}" if largest else "max_batch_size is 0 or left out, so that nothing is batched"
            text = f"dynamic batching preferred size must be <= max batch size for {config.name}; it is {size}, {fix}"
            yield Problem(path, text)
    if config.dynamic_batching.preserve_ordering:
        yield from _preserve_ordering(config)


def _preserve_ordering(config: Proto) -> Iterator[Problem]:
    """What would let one request overtake another. `priority_queue_policy` counts too: there may be one level."""
    batching = config.dynamic_batching
    if batching.priority_levels > 1:
        text = f"Only one priority level is allowed when 'preserve_ordering' is true for {config.name}"
        yield Problem("dynamic_batching.priority_levels", text)
    policies = [("default_queue_policy", batching.default_queue_policy)]
    policies += [("priority_queue_policy", policy) for policy in batching.priority_queue_policy.values()]
    for key, policy in policies:
        if policy.default_timeout_microseconds and policy.timeout_action == policy.DELAY:
            text = f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {config.name}"
            yield Problem(f"dynamic_batching.{key}", text)


def _priority_levels(config: Proto) -> Iterator[Problem]:
    batching = config.dynamic_batching
    levels = batching.priority_levels
    if levels and not 1 <= batching.default_priority_level <= levels:
        given = batching.default_priority_level
        text = f"default priority level must be in range [1, {levels}] for {config.name}, got {given or 'none'}"
        yield Problem("dynamic_batching.default_priority_level", text)
    for level in sorted(batching.priority_queue_policy) if levels else ():
        if not 1 <= level <= levels:
            text = f"priority queue policy must have priority level in range [1, {levels}] for {config.name}, got {level}"
            yield Problem("dynamic_batching.priority_queue_policy", text)


def _resources(config: Proto) -> Iterator[Problem]:
    for index, group in enumerate(config.instance_group):
        for number, resource in enumerate(group.rate_limiter.resources):
            if not resource.name:
                path = f"instance_group[{index}].rate_limiter.resources[{number}]"
                text = (
                    f"instance group {group.name} of model {config.name} has a resource without a name; write name, and count"
                )
                yield Problem(path, text)
