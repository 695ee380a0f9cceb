# SPDX-License-Identifier: Apache-2.0
"""Regions as the broker knows them: opened once, checked once, handed on as that same descriptor.

A name belongs to a session and is free again as soon as the region is unregistered; the memory itself lives on until no
request at any worker uses it. Each registration gets a fresh number (its generation), which is what workers see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..ipc.errors import CallerError, Code, invalid, not_found
from ..ipc.messages import MapRegion, UnmapRegion

if TYPE_CHECKING:
    from .instances import Instance

MAX_REGIONS_PER_SESSION = 1024


class Region:
    """One registered stretch of shared memory. Owns its descriptor; `close` is called by the registry only."""

    __slots__ = (
        "byte_size",
        "closing",
        "fd",
        "identity",
        "in_flight",
        "kind",
        "mapped_by",
        "name",
        "number",
        "offset",
        "sealed",
    )

    def __init__(self, number: int, name: str, kind: str, fd: int, offset: int, byte_size: int, sealed: bool) -> None:
        self.number = number
        self.name = name
        self.kind = kind
        self.fd = fd
        self.offset = offset  # of the region's first byte in the object
        self.byte_size = byte_size
        self.sealed = sealed
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)  # tells two names of the same memory
        self.in_flight = 0  # requests whose outcome or release is still due
        self.closing = False  # unregistered; closes when in_flight reaches 0
        self.mapped_by: set[Instance] = set()

    def __repr__(self) -> str:
        state = "closing" if self.closing else "registered"
        return f"<Region {self.number} {self.name!r} {self.kind} {self.byte_size} bytes, {state}, {self.in_flight} in flight>"

    def describe(self) -> dict[str, object]:
        """The region as `penstock regions` shows it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "byte_size": self.byte_size,
            "offset": self.offset,
            "in_flight": self.in_flight,
            "closing": self.closing,
            "mapped_by": sorted(instance.name for instance in self.mapped_by),
        }


class RegionRegistry:
    """Every region of the broker, and who may name it."""

    def __init__(self) -> None:
        self._count = 0
        #: number -> region, for every region whose descriptor is open, closing ones included
        self._regions: dict[int, Region] = {}

    def __len__(self) -> int:
        return len(self._regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    def __repr__(self) -> str:
        return f"<RegionRegistry {len(self._regions)} regions, {sum(r.byte_size for r in self)} bytes>"

    def check_invariants(self) -> None:
        """Counts are sane and nothing that could be closed is open."""
        for number, region in self._regions.items():
            assert region.number == number and region.in_flight >= 0, region
            assert not (region.closing and region.in_flight == 0), f"{region} should have been closed"
            assert all(number in instance.mapped for instance in region.mapped_by), region

    def add(self, name: str, kind: str, fd: int, offset: int, byte_size: int, sealed: bool) -> Region:
        """Takes over `fd`, which the caller has checked."""
        self._count += 1
        region = Region(self._count, name, kind, fd, offset, byte_size, sealed)
        self._regions[region.number] = region
        return region

    def map_into(self, region: Region, instance: Instance) -> None:
        """Hands the region's descriptor to an instance that is about to use it for the first time."""
        message = MapRegion(region.number, region.byte_size, region.offset, region.sealed)
        instance.link.put(message, (region.fd,))
        instance.mapped[region.number] = region
        region.mapped_by.add(instance)

    def release(self, regions: tuple[Region, ...]) -> list[Instance]:
        """One request's use of these regions is over. Returns the instances that were told to unmap something."""
        told: list[Instance] = []
        for region in regions:
            region.in_flight -= 1
            if region.closing and region.in_flight == 0:
                told += self._close(region)
        return told

    def retire(self, region: Region) -> list[Instance]:
        """The region is unregistered: closed now, or with the release of the last request that uses it."""
        region.closing = True
        return self._close(region) if region.in_flight == 0 else []

    def instance_gone(self, instance: Instance) -> None:
        """A worker died, and its mappings with it."""
        for region in instance.mapped.values():
            region.mapped_by.discard(instance)
        instance.mapped.clear()

    def _close(self, region: Region) -> list[Instance]:
        del self._regions[region.number]
        os.close(region.fd)
        told = list(region.mapped_by)
        for instance in told:
            del instance.mapped[region.number]
            instance.link.put(UnmapRegion(region.number))
        region.mapped_by.clear()
        return told


class RegionNames:
    """The names of one session's regions."""

    def __init__(self) -> None:
        #: name -> region that is registered and not closing
        self._named: dict[str, Region] = {}

    def __len__(self) -> int:
        return len(self._named)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._named.values())

    def __repr__(self) -> str:
        return f"<RegionNames {sorted(self._named)}>"

    def check_new(self, name: str) -> None:
        """Raises CallerError when the name is empty or taken, or when there are too many."""
        if not name:
            raise invalid("a region needs a name: got an empty one")
        if name in self._named:
            raise CallerError(f"shared memory region '{name}' already registered by this session", Code.ALREADY_EXISTS)
        if len(self._named) >= MAX_REGIONS_PER_SESSION:
            raise CallerError(
                f"a session may register {MAX_REGIONS_PER_SESSION} regions; '{name}' is one more", Code.OVERLOADED
            )

    def add(self, region: Region) -> None:
        """Makes the region known by its name."""
        self._named[region.name] = region

    def find(self, name: str, asker: str) -> Region:
        """The region, or CallerError (NOT_FOUND). `asker` says what wanted it."""
        region = self._named.get(name)
        if region is None:
            raise not_found(f"{asker}: unable to find shared memory region: '{name}'")
        return region

    def take(self, name: str) -> list[Region]:
        """Forgets a name, or all of them when it is empty; returns the regions that had them."""
        if name:
            region = self._named.pop(name, None)
            return [] if region is None else [region]
        regions = list(self._named.values())
        self._named.clear()
        return regions
