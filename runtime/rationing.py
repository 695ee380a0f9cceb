# SPDX-License-Identifier: Apache-2.0
"""The rate limiter as configurations and settings ask for it, in the scheduler's terms (scheduling/resources.py, limits.py)."""

from __future__ import annotations

from collections.abc import Iterable

from .repository.configuration import ModelConfig, WorkerPlan
from .scheduling.limits import CPU_DEVICE, GLOBAL, Needs, Pool, refuse_impossible
from .scheduling.requests import NO_GPU
from .settings import Settings

NO_EFFECT = "instance_group.rate_limiter has no effect without --rate-limit execution_count"


def is_rate_limited(config: ModelConfig, settings: Settings) -> bool:
    """Whether the model's instances take part in the rate limiter."""
    return settings.rate_limit and config.names_limits


def needs_of(worker: WorkerPlan) -> Needs:
    """What an instance of the worker must hold while it executes."""
    limiter, device = worker.group.rate_limiter, CPU_DEVICE if worker.gpu == NO_GPU else worker.gpu
    amounts = ((Pool(each.name, GLOBAL if each.is_global else device), each.count) for each in limiter.resources)
    return Needs(tuple((pool, amount) for pool, amount in amounts if amount), max(1, limiter.priority))


def refuse_unrunnable(config: ModelConfig, loaded: Iterable[ModelConfig], settings: Settings) -> None:
    """Raises CallerError, in Triton's words, where instances could never run: too little of a resource, or of two kinds."""
    if is_rate_limited(config, settings):
        refuse_impossible(
            _all_needs(config), [needs for other in loaded for needs in _all_needs(other)], settings.resource_limits
        )


def _all_needs(config: ModelConfig) -> list[Needs]:
    return [needs_of(worker) for worker in config.workers()]
