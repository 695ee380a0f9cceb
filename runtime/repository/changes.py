# SPDX-License-Identifier: Apache-2.0
"""What a load has to do, given what is loaded and what was found. Pure.

Triton's rules: what has not changed is not loaded again, version by version; a configuration that differs in its instance
groups alone starts and stops instances, and interrupts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from .configuration import ModelConfig, WorkerPlan, differ_beyond_instances
from .origins import Opened
from .stamps import Stamps

Places = Mapping[str, tuple[str, Stamps | None]]
"""Name of a model -> where it is, and what its files were."""
NOWHERE: Places = {}
"""What a first survey is compared with, so that everything is new."""


class Change(Struct, frozen=True):
    """Versions to be loaded, and to be left as they are (but for their instances, where `is_resized`). Others are to go."""

    fresh: tuple[int, ...]
    kept: tuple[int, ...] = ()
    is_resized: bool = False


def change(before: Opened | None, after: Opened) -> Change:
    """What leads from one to the other. `before` None: nothing that is loaded is of use."""
    versions = after.source.versions
    if before is None:
        return Change(versions)
    old = before.source.versions
    kept = () if _must_reload(before, after) else tuple(v for v in versions if v in old and _is_same(before, after, v))
    fresh = tuple(version for version in versions if version not in kept)
    resized = bool(kept) and workers(before.source.config) != workers(after.source.config)
    return Change(fresh, kept, resized)


def workers(config: ModelConfig) -> dict[str, WorkerPlan]:
    """Name of a worker -> where it is, its instances, and the settings that it has from its group."""
    return {
        worker.name: structs.replace(worker, group=structs.replace(worker.group, count=1, gpus=()))
        for worker in config.workers()
    }


def differences(before: Places, after: Places) -> tuple[list[str], list[str]]:
    """(models that are new or have changed, models that are gone), each in order."""
    changed = [name for name, found in after.items() if before.get(name) != found]
    return sorted(changed), sorted(before.keys() - after.keys())


def _must_reload(before: Opened, after: Opened) -> bool:
    """Whether what all versions share has changed. An instance of the same name with other settings is another one.

    All instances of a model take part in the rate limiter, or none does: that they do is a thing of the whole model. So are the
    devices that it is on: requests whose memory is on one of them have been accepted.
    """
    if before.stamps is None or after.stamps is None or before.stamps.shared != after.stamps.shared:
        return True
    if before.source.directory != after.source.directory or differ_beyond_instances(before.source.config, after.source.config):
        return True
    if before.source.config.names_limits != after.source.config.names_limits:
        return True
    if before.source.config.devices != after.source.config.devices:
        return True
    old, new = workers(before.source.config), workers(after.source.config)
    return any(old[name] != new[name] for name in old.keys() & new.keys())


def _is_same(before: Opened, after: Opened, version: int) -> bool:
    assert before.stamps is not None and after.stamps is not None
    return before.stamps.versions.get(version) == after.stamps.versions.get(version)
