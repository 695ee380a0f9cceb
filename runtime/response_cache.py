# SPDX-License-Identifier: Apache-2.0
"""Responses kept for requests that are the same again: the seam, and the cache in the broker's own memory.

A cache maps keys to outputs and knows nothing of requests; how keys are made, and what becomes of a hit, is the business of
cached_answers.py. The broker calls it from its loop, so an implementation must answer at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class CachedOutput(NamedTuple):
    """An output as it was computed."""

    datatype: str
    shape: list[int]
    content: bytes


class ResponseCache(Protocol):
    """Outputs by key. Keys are digests that nobody can find two inputs for (docs/decisions/0005)."""

    @property
    def capacity_bytes(self) -> int:
        """More than that at once is never kept."""
        ...

    def lookup(self, key: bytes) -> Mapping[str, CachedOutput] | None:
        """The outputs of a key, by name. They need not be all that the model has."""
        ...

    def insert(self, key: bytes, outputs: Mapping[str, CachedOutput]) -> bool:
        """Keeps outputs, beside those that the key already has. False when it does not."""
        ...

    def describe(self) -> dict[str, Any]:
        """The cache as `penstock status` shows it."""
        ...


ENTRY_BYTES = 1024
"""What an entry counts beside its outputs' bytes: more than its keys, names and shapes take."""


class LocalCache:
    """In the broker's memory, at most `capacity_bytes`; what was not used for longest goes first."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._byte_size = 0
        self._evictions = 0
        #: key -> outputs by name, the one used last at the end
        self._entries: OrderedDict[bytes, dict[str, CachedOutput]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<LocalCache {len(self)} entries, {self._byte_size} of {self._capacity_bytes} bytes, {self._evictions} evicted>"

    def check_invariants(self) -> None:
        """The bound holds, for what there really is."""
        assert self._byte_size == sum(map(_byte_size, self._entries.values())) <= self._capacity_bytes, self

    @property
    def capacity_bytes(self) -> int:
        """As given."""
        return self._capacity_bytes

    def lookup(self, key: bytes) -> Mapping[str, CachedOutput] | None:
        """The outputs of a key, which is then the one used last."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def insert(self, key: bytes, outputs: Mapping[str, CachedOutput]) -> bool:
        """Keeps outputs, and drops others until there is room. False, and nothing has changed, when there never can be."""
        merged = {**self._entries.get(key, {}), **outputs}
        if _byte_size(merged) > self._capacity_bytes:
            return False
        self._drop(key)
        self._byte_size += _byte_size(merged)
        self._entries[key] = merged
        while self._byte_size > self._capacity_bytes:
            self._drop(next(iter(self._entries)))
            self._evictions += 1
        return True

    def describe(self) -> dict[str, Any]:
        """`byte_size`, `capacity_bytes`, `entries`, `evictions`."""
        return {
            "byte_size": self._byte_size,
            "capacity_bytes": self._capacity_bytes,
            "entries": len(self),
            "evictions": self._evictions,
        }

    def _drop(self, key: bytes) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self._byte_size -= _byte_size(dropped)


def _byte_size(outputs: Mapping[str, CachedOutput]) -> int:
    return ENTRY_BYTES + sum(len(output.content) for output in outputs.values())
