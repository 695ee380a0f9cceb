# SPDX-License-Identifier: Apache-2.0
"""The cache in the broker's memory: its bound, what goes first, outputs that come one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.runtime.response_cache import ENTRY_BYTES, CachedOutput, LocalCache

ROOM_FOR_THREE = 3 * (ENTRY_BYTES + 100)


@pytest.fixture
def cache() -> Iterator[LocalCache]:
    made = LocalCache(ROOM_FOR_THREE)
    yield made
    made.check_invariants()


def output(byte_size: int = 100, byte: bytes = b"x") -> CachedOutput:
    return CachedOutput("UINT8", [byte_size], byte * byte_size)


def keys(cache: LocalCache) -> set[bytes]:
    return set(cache._entries)


def test_what_was_put_in_is_found(cache: LocalCache) -> None:
    assert cache.lookup(b"a") is None
    assert cache.insert(b"a", {"y": output()})
    assert cache.lookup(b"a") == {"y": output()}
    assert cache.lookup(b"b") is None


def test_what_was_used_last_stays_longest(cache: LocalCache) -> None:
    for key in (b"a", b"b", b"c"):
        cache.insert(key, {"y": output()})
    cache.lookup(b"a")
    cache.insert(b"d", {"y": output()})
    assert keys(cache) == {b"a", b"c", b"d"}
    cache.insert(b"e", {"y": output(200)})
    assert keys(cache) == {b"d", b"e"}, "it takes the place of two"
    assert cache.describe() == {
        "byte_size": 2 * ENTRY_BYTES + 300, "capacity_bytes": ROOM_FOR_THREE, "entries": 2, "evictions": 3,
    }  # fmt: skip


def test_what_can_never_fit_is_refused_and_costs_nothing_else_its_place(cache: LocalCache) -> None:
    cache.insert(b"a", {"y": output()})
    assert cache.insert(b"b", {"y": output(ROOM_FOR_THREE - ENTRY_BYTES)})
    assert keys(cache) == {b"b"}
    assert not cache.insert(b"c", {"y": output(ROOM_FOR_THREE - ENTRY_BYTES + 1)})
    assert keys(cache) == {b"b"}


def test_outputs_of_one_key_come_together(cache: LocalCache) -> None:
    cache.insert(b"a", {"y": output()})
    cache.insert(b"a", {"z": output(50)})
    cache.insert(b"a", {"y": output(100, b"!")})
    assert cache.lookup(b"a") == {"y": output(100, b"!"), "z": output(50)}
    assert cache.describe()["byte_size"] == ENTRY_BYTES + 150


def test_many_small_responses_are_bounded_too(cache: LocalCache) -> None:
    for number in range(100):
        cache.insert(bytes([number]), {"y": output(0)})
        cache.check_invariants()
    assert len(cache) == 3
    assert "3 entries" in repr(cache) and "97 evicted" in repr(cache)
