# SPDX-License-Identifier: Apache-2.0
"""The rate limiter's resources: what an instance needs, how much there is, and what can never be had.

Source: `rate_limiter.cc` (ResourceManager) and Triton's page on the rate limiter. A resource is a name with a count, either one
pool for all of the system (`global`) or a pool for each device. Triton keys the latter by the instance's device id, which is 0
for an instance on a CPU; so here too those on the CPU share the pools of device 0 with those on GPU 0.

How much there is: what --rate-limit-resource says of the name, else the most that any one loaded instance needs. A limit that
names no device holds for each; of several, the largest counts. A global resource has the largest limit of its name, whatever
the device. A name that is limited for other devices only is not there at all. (Triton's code, unlike its page, also takes a
name without a limit for one that is not there as soon as any other name has a limit; here its default stays.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from ...ipc.errors import invalid

CPU_DEVICE = 0
"""The device of an instance on the CPU; that of one on a GPU is the GPU's ordinal."""
EACH = -1
"""In place of a device's number: a limit that holds for each device."""
GLOBAL = -2
"""In place of a device's number: the pool for all of the system."""

FORMAT = "NAME:COUNT, NAME:COUNT:DEVICE or NAME:COUNT:global"


class Pool(NamedTuple):
    """A resource at one device, or (GLOBAL) for all."""

    name: str
    device: int


class ResourceLimit(Struct, frozen=True):
    """What --rate-limit-resource says: so much of it, at this device, at EACH, or GLOBAL."""

    name: str
    count: int
    device: int = EACH


class Needs(Struct, frozen=True):
    """What an instance holds while it executes. Its turn comes 1/priority as often as one with priority 1."""

    amounts: tuple[tuple[Pool, int], ...] = ()
    priority: int = 1

    def __post_init__(self) -> None:
        if self.priority < 1 or any(amount < 1 for _, amount in self.amounts):
            raise invalid(f"a priority and all amounts must be at least 1, given {self}")


def parse_limit(text: str) -> ResourceLimit:
    """A limit as the command line has it. Raises CallerError."""
    name, *rest = text.split(":")
    if not (name and len(rest) in (1, 2) and rest[0].isascii() and rest[0].isdigit()):
        raise invalid(f"--rate-limit-resource must be {FORMAT}, with a whole COUNT, got '{text}'")
    device = rest[1].lower() if len(rest) == 2 else ""
    if len(rest) == 2 and device != "global" and not (device.isascii() and device.isdigit()):
        raise invalid(f"--rate-limit-resource must be {FORMAT}, where DEVICE is a number, got '{text}'")
    where = EACH if len(rest) == 1 else GLOBAL if device == "global" else int(device)
    return ResourceLimit(name, int(rest[0]), where)


def explicit_limit(pool: Pool, limits: Iterable[ResourceLimit]) -> int | None:
    """How much the limits leave of a pool; None: they say nothing of its name."""
    named = [limit for limit in limits if limit.name == pool.name]
    if not named:
        return None
    fits = (limit.count for limit in named if pool.device == GLOBAL or limit.device in (EACH, pool.device))
    return max(fits, default=0)


def refuse_impossible(wanted: Sequence[Needs], loaded: Iterable[Needs], limits: Sequence[ResourceLimit]) -> None:
    """Raises CallerError, in Triton's words, where instances that `wanted` could never run beside those that are loaded."""
    pools = {pool for needs in wanted for pool, _ in needs.amounts}
    others = pools.union(pool for needs in loaded for pool, _ in needs.amounts)
    in_common = {pool.name for pool in others if pool.device == GLOBAL}
    both = {pool.name for pool in others if pool.device != GLOBAL} & in_common & {pool.name for pool in pools}
    if both:
        raise invalid(
            f'Resource "{min(both)}" is present as both global and device-specific resource in the model configuration.'
        )
    for needs in wanted:
        for pool, amount in needs.amounts:
            limit = explicit_limit(pool, limits)
            if limit is not None and limit < amount:
                raise invalid(
                    f'Resource count for "{pool.name}" is limited to {limit} which will prevent scheduling of one or more '
                    f"model instances, the minimum required count is {_most(pool, wanted)}"
                )


def _most(pool: Pool, wanted: Iterable[Needs]) -> int:
    return max(amount for needs in wanted for other, amount in needs.amounts if other == pool)
