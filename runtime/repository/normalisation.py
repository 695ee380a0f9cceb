# SPDX-License-Identifier: Apache-2.0
"""Filling in what a configuration leaves out, as Triton does before it shows or uses one (core/src/model_config_utils.cc).

All functions change the message they are given. What they fill in is visible in the configuration that clients can ask for.
"""

from __future__ import annotations

from .backends import BACKENDS, resolve
from .locations import ConfigFile
from .schema import Proto


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
    """Fills in all the rest but the instance groups (placement.py). Needs name and backend."""
    rules = BACKENDS[config.backend]
    config.default_model_filename = config.default_model_filename or rules.filename
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    for key in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(key):
            getattr(config.optimization, key).enable = True
    fill_in_preferred_sizes(config)


def fill_in_preferred_sizes(config: Proto) -> None:
    """`dynamic_batching {}` prefers full batches."""
    if config.HasField("dynamic_batching") and config.max_batch_size > 0:
        preferred = config.dynamic_batching.preferred_batch_size
        if not preferred:
            preferred.append(config.max_batch_size)
