# SPDX-License-Identifier: Apache-2.0
"""Variants of a model's configuration that are compared: how many instances, and whether requests are batched. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...ipc.errors import invalid

MOST_INSTANCES = 64
_RANGE = re.compile(r"([1-9]\d?)(?:\.\.([1-9]\d?))?")


def counts_of(text: str) -> tuple[int, ...]:
    """Instance counts from 1 on: `1..6`, `1,2,4`, `1..3,6`; each once, in the order given. Raises ValueError for others."""
    counts: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= MOST_INSTANCES:
            raise ValueError(
                f"{part.strip()!r} is not a count of instances such as 3, nor a range such as 1..6, of 1 to {MOST_INSTANCES}"
            )
        counts += [count for count in range(first, last + 1) if count not in counts]
    return tuple(counts)


def variant(config: Mapping[str, Any], count: int | None = None, dynamic_batching: bool | None = None) -> str:
    """The configuration with another instance count, or with dynamic batching switched on or off; as JSON, for a load.

    Where batching is on already it stays as it is configured; switched on, it is Triton's `dynamic_batching { }`. Raises
    CallerError for what the model cannot be given.
    """
    changed = dict(config)
    if count is not None:
        groups = changed["instance_group"]
        if len(groups) != 1:
            raise invalid(f"model '{config['name']}' has {len(groups)} instance groups: the count of which one is to change?")
        changed["instance_group"] = [{**groups[0], "count": count}]
    if dynamic_batching and "dynamic_batching" not in changed:
        if not config["max_batch_size"]:
            raise invalid(f"model '{config['name']}' has max_batch_size 0: its requests cannot be batched")
        changed["dynamic_batching"] = {}
    if dynamic_batching is False:
        changed.pop("dynamic_batching", None)
    return json.dumps(changed)
