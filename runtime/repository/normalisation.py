# SPDX-License-Identifier: Apache-2.0
"""Filling in what a configuration leaves out, as Triton does before it shows or uses one (core/src/model_config_utils.cc).

All functions change the message they are given. What they fill in is visible in the configuration that clients can ask for.
"""

from __future__ import annotations

from . import schema
from .backends import BACKENDS, resolve
from .locations import ConfigFile
from .schema import Proto


def use_cpu_for_gpu(config: Proto, file: ConfigFile) -> list[str]:
    """Makes KIND_GPU groups KIND_CPU ones (--fallback cpu). Returns a warning for each."""
    warnings = []
    for index, group in enumerate(config.instance_group):
        if schema.kind_name(group) == "KIND_GPU":
            group.kind = group.KIND_CPU
            del group.gpus[:]
            path = f"instance_group[{index}].kind"
            warnings.append(f"{file.at(path)}: {path} is KIND_GPU, served on the CPU because of --fallback cpu")
    return warnings


def warn_of_idle_levels(config: Proto, file: ConfigFile) -> list[str]:
    """A warning for each key that says something of priority levels when there are none: Triton passes over them in silence."""
    batching = config.dynamic_batching
    if batching.priority_levels:
        return []
    paths = [f"dynamic_batching.{key}" for key in ("default_priority_level", "priority_queue_policy") if getattr(batching, key)]
    return [f"{file.at(path)}: {path} has no effect, because priority_levels is 0 or left out" for path in paths]


def name_backend(config: Proto, detected: str) -> None:
    """Fills in platform and backend, each from the other. Raises CallerError where they do not exist or do not match.

    `detected` counts only when platform, backend and default_model_filename are all left out.
    """
    if not (config.platform or config.backend):
        by_filename = (name for name, rules in BACKENDS.items() if rules.filename == config.default_model_filename)
        config.backend = next(by_filename, "") if config.default_model_filename else detected
    config.platform, config.backend = resolve(config.name, config.platform, config.backend)


def fill_in(config: Proto) -> None:
    """Fills in all the rest. Needs name and backend."""
    rules = BACKENDS[config.backend]
    config.default_model_filename = config.default_model_filename or rules.filename
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    for buffer in (config.optimization.input_pinned_memory, config.optimization.output_pinned_memory):
        buffer.enable = True
    fill_in_preferred_sizes(config)
    _fill_in_instances(config, rules.cpu_instances)


def fill_in_preferred_sizes(config: Proto) -> None:
    """`dynamic_batching {}` prefers full batches."""
    if config.HasField("dynamic_batching") and config.max_batch_size > 0:
        preferred = config.dynamic_batching.preferred_batch_size
        if not preferred:
            preferred.append(config.max_batch_size)


def _fill_in_instances(config: Proto, default_count: int) -> None:
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    for index, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{index}"
        group.count = group.count or default_count
        if schema.kind_name(group) == "KIND_AUTO":
            group.kind = group.KIND_CPU
