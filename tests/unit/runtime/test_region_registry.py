# SPDX-License-Identifier: Apache-2.0
"""Regions in the broker's books: generations, names that are free at once, memory that stays until nobody uses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted import ScriptedLink

from penstock.ipc.errors import CallerError, Code
from penstock.ipc.messages import MapRegion, UnmapRegion
from penstock.ipc.regions import create_memfd
from penstock.runtime.instances import Instance
from penstock.runtime.regions import MAX_REGIONS_PER_SESSION, Region, RegionNames, RegionRegistry


class Worker:
    """As much of an instance as the registry touches."""

    def __init__(self, name: str = "m_0_0") -> None:
        self.name = name
        self.link = ScriptedLink()
        self.mapped: dict[int, Region] = {}

    def told(self) -> list[Any]:
        self.link.flush()
        return self.link.take()


@pytest.fixture
def registry() -> Iterator[RegionRegistry]:
    made = RegionRegistry()
    yield made
    made.check_invariants()
    for region in list(made):
        region.in_flight = 0
        made.retire(region)
    assert len(made) == 0


@pytest.fixture
def add(registry: RegionRegistry) -> Callable[..., Region]:
    def add(name: str = "r", byte_size: int = 64) -> Region:
        return registry.add(name, "memfd", create_memfd(name, byte_size), 0, byte_size, sealed=True)

    return add


def worker() -> tuple[Worker, Instance]:
    """One, and itself again as what the registry takes it for."""
    made: Any = Worker()
    return made, made


def is_open(region: Region) -> bool:
    """Whether its memory is still held: a descriptor of that number may be another's, so it is asked which memory it is."""
    try:
        status = os.fstat(region.fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == region.identity


def test_every_registration_is_a_generation_of_its_own(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    """Given a name that is used again, then the number is another one, also when the first is long closed."""
    numbers = []
    for _ in range(3):
        region = add()
        numbers.append(region.number)
        registry.retire(region)
    assert len(set(numbers)) == 3 and len(registry) == 0


def test_an_idle_region_is_closed_when_it_is_retired(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region = add()
    assert is_open(region)
    assert registry.retire(region) == []
    assert not is_open(region) and len(registry) == 0


def test_a_region_in_use_is_closed_with_the_last_release(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    """Given two requests in a region, when it is retired, then it stays open until both are released."""
    region = add()
    region.in_flight += 2
    assert registry.retire(region) == [] and region.closing
    registry.check_invariants()
    registry.release((region,))
    assert is_open(region) and len(registry) == 1
    registry.release((region,))
    assert not is_open(region) and len(registry) == 0


def test_a_release_closes_nothing_that_is_still_registered(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region = add()
    region.in_flight += 1
    assert registry.release((region,)) == []
    assert is_open(region) and not region.closing and len(registry) == 1


def test_a_release_of_several_closes_those_that_are_due(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    stays, goes = add("stays"), add("goes")
    for region in (stays, goes):
        region.in_flight += 1
    registry.retire(goes)
    registry.release((stays, goes))
    assert is_open(stays) and not is_open(goes)


def test_workers_that_mapped_a_region_are_told_once_when_it_is_closed(
    registry: RegionRegistry, add: Callable[..., Region]
) -> None:
    region, other = add(), add("other")
    (first, one), (second, two), (third, three) = worker(), worker(), worker()
    registry.map_into(region, one)
    registry.map_into(region, two)
    registry.map_into(other, three)
    assert first.told() == second.told() == [MapRegion(region.number, 64)]
    registry.check_invariants()
    region.in_flight += 1
    assert registry.retire(region) == [] and first.told() == [], "not while a request uses it"
    third.told()
    assert set(registry.release((region,))) == {one, two}
    assert first.told() == second.told() == [UnmapRegion(region.number)]
    assert third.told() == [] and first.mapped == second.mapped == {}
    assert third.mapped == {other.number: other}


def test_workers_are_told_what_one_request_alone_has(registry: RegionRegistry) -> None:
    region = registry.add("(inline)", "inline", os.memfd_create("inline"), 0, 64, True)
    told, instance = worker()
    registry.map_into(region, instance)
    assert told.told() == [MapRegion(region.number, 64, single_use=True)]
    registry.retire(region)


def test_a_dead_worker_is_told_nothing(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region = add()
    (dead, instance), (living, other) = worker(), worker()
    registry.map_into(region, instance)
    registry.map_into(region, other)
    registry.instance_gone(instance)
    assert dead.mapped == {} and region.mapped_by == {other}
    dead.told()
    assert registry.retire(region) == [other]
    assert dead.told() == [] and living.told()[-1] == UnmapRegion(region.number)


def test_two_names_of_one_memory_are_known_for_it(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region, other = add(), add()
    again = registry.add("again", "memfd", os.dup(region.fd), 8, 16, sealed=True)
    assert again.identity == region.identity != other.identity


def test_a_region_tells_what_it_is(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region = add("r", 64)
    _, instance = worker()
    registry.map_into(region, instance)
    region.in_flight = 3
    assert region.describe() == {
        "name": "r", "kind": "memfd", "byte_size": 64, "offset": 0, "in_flight": 3, "closing": False, "gpu": "",
        "mapped_by": ["m_0_0"], "pinned_by": [], "refused_by": {},
    }  # fmt: skip
    assert "'r' memfd 64 bytes, registered, 3 in flight" in repr(region)
    assert "1 regions, 64 bytes" in repr(registry)


def test_books_that_contradict_themselves_are_noticed(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    region = add()
    for field, value in (("in_flight", -1), ("closing", True)):
        before = getattr(region, field)
        setattr(region, field, value)
        with pytest.raises(AssertionError):
            registry.check_invariants()
        setattr(region, field, before)
    _, instance = worker()
    region.mapped_by.add(instance)
    with pytest.raises(AssertionError):
        registry.check_invariants()
    region.mapped_by.clear()


# --- names -----------------------------------------------------------------------------------------------------------------


def test_a_name_is_free_again_as_soon_as_it_is_taken_back(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    """Given a region in use, when its name is taken back, then another one may have it while the first is still closing."""
    names, first = RegionNames(), add()
    names.check_new("r")
    names.add(first)
    first.in_flight += 1
    with pytest.raises(CallerError, match="'r' already registered") as taken:
        names.check_new("r")
    assert taken.value.code is Code.ALREADY_EXISTS
    (back,) = names.take("r")
    registry.retire(back)
    names.check_new("r")
    second = add()
    names.add(second)
    assert names.find("r", "somebody") is second and is_open(first)
    registry.release((first,))
    assert not is_open(first) and is_open(second)


def test_a_name_that_nobody_has_is_not_found_and_taken_back_without_complaint() -> None:
    names = RegionNames()
    with pytest.raises(CallerError, match="input 'x' of model 'm': Unable to find shared memory region: 'r'") as missing:
        names.find("r", "input 'x' of model 'm'")
    assert missing.value.code is Code.NOT_FOUND
    assert names.take("r") == [] and names.take("") == []


def test_the_empty_name_takes_all_back_and_names_none(registry: RegionRegistry, add: Callable[..., Region]) -> None:
    names, regions = RegionNames(), [add("a"), add("b")]
    for region in regions:
        names.add(region)
    with pytest.raises(CallerError, match="needs a name"):
        names.check_new("")
    assert names.take("") == regions and len(names) == 0


def test_there_is_a_limit_to_names(add: Callable[..., Region]) -> None:
    names, region = RegionNames(), add()
    for number in range(MAX_REGIONS_PER_SESSION):
        region.name = str(number)
        names.check_new(region.name)
        names.add(region)
    with pytest.raises(CallerError, match="may register 1024 regions; 'more' is one more") as refused:
        names.check_new("more")
    assert refused.value.code is Code.OVERLOADED
