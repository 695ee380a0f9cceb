# SPDX-License-Identifier: Apache-2.0
"""Where a model's instances go: the kind of each instance group, its GPUs, and the workers that it becomes.

Triton's rules (NormalizeInstanceGroup and ValidateInstanceGroup of core/src/model_config_utils.cc): KIND_AUTO is KIND_GPU where
the backend can use a GPU and there is one; a KIND_GPU group that names no GPUs has all of them, with `count` instances on each.
Ours: `--fallback cpu`, and lanes, which are instances of one group on one GPU that share a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from ...ipc.gpus import Gpus
from ..scheduling.policy import MAX_LANES
from ..scheduling.requests import NO_GPU
from . import schema
from .backends import BACKENDS, GpuUse
from .locations import ConfigFile
from .problem import Problem
from .schema import Proto

MAX_INSTANCES = 256
"""Instances are processes; more of one group than this is taken for a slip of the pen."""


class Placing(NamedTuple):
    """What decides beside the configuration. `gpus` is called only where it matters, and may block."""

    gpus: Callable[[], Gpus] = Gpus
    fallback: bool = False  # serve KIND_GPU on the CPU where there is no GPU
    lanes: int = 1  # of models that do not say it themselves


ANYWHERE = Placing()


class Placed(NamedTuple):
    """What came of it. `uuids`: of the GPUs that groups name, by ordinal."""

    uuids: dict[int, str]
    warnings: list[str]
    problems: list[Problem]


class Seat(NamedTuple):
    """One instance: its name, and its GPU (or NO_GPU)."""

    name: str
    gpu: int = NO_GPU


def place_groups(config: Proto, file: ConfigFile, placing: Placing) -> Placed:
    """Settles name, kind, count and GPUs of every group, changing the message. Needs name and backend."""
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    placed = Placed({}, [], [])
    placing = placing._replace(gpus=cache(placing.gpus))  # one answer for all groups
    for index, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{index}"
        path = f"instance_group[{index}]"
        _settle_kind(config, group, path, file, placing, placed)
        if schema.kind_name(group) == "KIND_GPU" and (gpus := placing.gpus()).found:
            if not group.gpus:
                group.gpus.extend(gpu.ordinal for gpu in gpus.found)
            placed.problems.extend(_unknown_gpus(config, group, path, gpus))
            placed.uuids.update((gpu, gpus.uuid_of(gpu) or "") for gpu in group.gpus)
        group.count = group.count or (1 if group.gpus else BACKENDS[config.backend].cpu_instances)
    return placed


def _settle_kind(
    config: Proto, group: Proto, path: str, file: ConfigFile, placing: Placing, placed: Placed
) -> None:  # fmt: skip
    use, kind = BACKENDS[config.backend].gpu, schema.kind_name(group)
    if kind == "KIND_AUTO":
        wants = use is GpuUse.ONLY or (use is not GpuUse.NEVER and _may_use(config.backend, use, group, placing))
        group.kind = group.KIND_GPU if wants else group.KIND_CPU
        if not wants:
            del group.gpus[:]
    elif kind == "KIND_GPU" and placing.fallback and use is not GpuUse.ONLY and not placing.gpus().found:
        group.kind = group.KIND_CPU
        del group.gpus[:]
        text = f"{path}.kind is KIND_GPU, served on the CPU because of --fallback cpu: {placing.gpus().reason}"
        placed.warnings.append(f"{file.at(f'{path}.kind')}: {text}")
    if schema.kind_name(group) == "KIND_GPU" and (reason := _no_gpu(config, use, placing)):
        text = f"{_title(config, group)} has kind KIND_GPU but {reason}"
        placed.problems.append(Problem(f"{path}.kind", text))


def _may_use(backend: str, use: GpuUse, group: Proto, placing: Placing) -> bool:
    """Whether an instance of KIND_AUTO goes to a GPU: one is named, or the backend prefers them and can use them here."""
    if group.gpus:
        return bool(placing.gpus().found)
    return use is GpuUse.PREFERRED and bool(placing.gpus().found) and backend in placing.gpus().backends


def _no_gpu(config: Proto, use: GpuUse, placing: Placing) -> str:
    """Why there can be no instance on a GPU; "": there can."""
    if use is GpuUse.NEVER:
        return f"backend '{config.backend}' computes on the CPU only; write KIND_CPU"
    gpus = placing.gpus()
    if gpus.found:
        return ""
    fix = "write KIND_CPU or KIND_AUTO, or serve with --fallback cpu"
    if use is GpuUse.ONLY:
        fix = f"backend '{config.backend}' computes on GPUs only"
    return f"server does not support GPUs: {gpus.reason}; {fix}"


def _unknown_gpus(config: Proto, group: Proto, path: str, gpus: Gpus) -> Iterator[Problem]:
    title = _title(config, group)
    for gpu in dict.fromkeys(group.gpus):
        if gpus.uuid_of(gpu) is None:
            text = f"{title} specifies invalid or unsupported gpu id {gpu}. GPUs of this broker are: {gpus.listed()}"
            yield Problem(f"{path}.gpus", text)
        elif list(group.gpus).count(gpu) > 1:
            yield Problem(f"{path}.gpus", f"{title} names GPU {gpu} more than once; for more instances on it write count")


def group_problems(config: Proto) -> Iterator[Problem]:
    """What is wrong with the groups, once they have been settled, apart from what GPUs there are."""
    for index, group in enumerate(config.instance_group):
        path, title, kind = f"instance_group[{index}]", _title(config, group), schema.kind_name(group)
        if kind == "KIND_CPU" and BACKENDS[config.backend].gpu is GpuUse.ONLY:
            text = f"{title} has kind KIND_CPU, but backend '{config.backend}' computes on GPUs only; write KIND_GPU"
            yield Problem(f"{path}.kind", text)
        elif kind == "KIND_CPU" and group.gpus:
            yield Problem(f"{path}.gpus", f"{title} has kind KIND_CPU but specifies one or more GPU; write KIND_GPU")
        elif kind not in ("KIND_CPU", "KIND_GPU"):
            text = f"{title} has kind {kind}, which is not implemented; write KIND_CPU, KIND_GPU or KIND_AUTO"
            yield Problem(f"{path}.kind", text)
        if not 1 <= group.count <= MAX_INSTANCES:
            text = f"{title} has count {group.count}; it must be between 1 and {MAX_INSTANCES}, each is a process"
            yield Problem(f"{path}.count", text)
        if group.profile and config.backend != "tensorrt":
            text = f"{title} has a profile, which is TensorRT's, but backend '{config.backend}'; remove it"
            yield Problem(f"{path}.profile", text)
    groups = [(group.name, group.count, list(dict.fromkeys(group.gpus))) for group in config.instance_group]
    names = [seat.name for group in groups for seat in seats_of(*group)]
    for name in dict.fromkeys(names):
        if (count := names.count(name)) > 1:
            text = f"{count} instances of model {config.name} are called {name}; name the groups apart"
            yield Problem("instance_group", text)


def lanes_of(config: Proto) -> int | None:
    """Our parameter `lanes`, None where it is not given. Raises ValueError."""
    if "lanes" not in config.parameters:
        return None
    text = config.parameters["lanes"].string_value
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_LANES):
        raise ValueError(f"parameter 'lanes' must be a whole number from 1 to {MAX_LANES}, got '{text}' for {config.name}")
    return int(text)


def seats_of(group: str, count: int, gpus: Sequence[int]) -> list[Seat]:
    """The instances of a group, at most MAX_INSTANCES on each device.

    They have Triton's names, GROUP_0, GROUP_1; with several GPUs, where Triton calls one on each the same, the GPU's ordinal
    is added: GROUP_0_gpu0, GROUP_0_gpu1, GROUP_1_gpu0, ...
    """
    indices = range(min(count, MAX_INSTANCES))
    if len(gpus) > 1:
        return [Seat(f"{group}_{index}_gpu{gpu}", gpu) for index in indices for gpu in gpus]
    return [Seat(f"{group}_{index}", gpus[0] if gpus else NO_GPU) for index in indices]


def shared_out(seats: Iterable[Seat], lanes: int) -> list[list[Seat]]:
    """The instances by worker: on a GPU up to `lanes` to each, on the CPU one."""
    workers: list[list[Seat]] = []
    filling: dict[int, list[Seat]] = {}
    for seat in seats:
        worker = filling.get(seat.gpu, [])
        if seat.gpu == NO_GPU or not 0 < len(worker) < lanes:
            worker = filling[seat.gpu] = []
            workers.append(worker)
        worker.append(seat)
    return workers


def _title(config: Proto, group: Proto) -> str:
    return f"instance group {group.name} of model {config.name}"
