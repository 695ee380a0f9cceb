# SPDX-License-Identifier: Apache-2.0
"""Regions as the broker knows them: opened once, checked once, handed on as that same descriptor.

CUDA memory has no descriptor: its 64-byte handle is handed on, which only workers can open (device_regions.py).

A name belongs to a session and is free again as soon as the region is unregistered; the memory itself lives on until no
request at any worker uses it. Each registration gets a fresh number (its generation), which is what workers see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..ipc.errors import CallerError, Code, invalid, not_found
from ..ipc.messages import MapRegion, RegionMapped, UnmapRegion

if TYPE_CHECKING:
    from .instances import Instance

MAX_REGIONS_PER_SESSION = 1024


class CudaMemory(NamedTuple):
    """What stands for memory on a GPU."""

    handle: bytes  # cudaIpcMemHandle_t, 64 bytes; equal for equal allocations
    gpu: str  # uuid of the GPU that it lies on
    pid: int  # of the client that registered it; 0: not known
    device_id: int = 0  # its GPU's number, as that client gave it


HOST = CudaMemory(b"", "", 0)


class Region:
    """One registered stretch of shared memory. Owns its descriptor, which CUDA memory (`cuda`, `gpu`) has not."""

    __slots__ = (
        "byte_size",
        "closing",
        "cuda",
        "fd",
        "gpu",
        "identity",
        "in_flight",
        "key",
        "kind",
        "mapped_by",
        "name",
        "names",
        "number",
        "offset",
        "reports",
        "sealed",
    )

    def __init__(
        self, number: int, name: str, kind: str, fd: int, offset: int, byte_size: int, sealed: bool, cuda: CudaMemory = HOST
    ) -> None:
        self.number = number
        self.name = name
        self.kind = kind
        self.fd = fd
        self.offset = offset  # of the region's first byte in the object
        self.byte_size = byte_size
        self.sealed = sealed
        self.key = ""  # of a POSIX segment, as its client gave it
        self.names: RegionNames | None = None  # where it has its name; inline memory has none
        self.cuda = cuda
        self.gpu = cuda.gpu  # "" for host memory
        self.identity = cuda.handle or _identity(fd)  # tells two names of the same memory
        self.in_flight = 0  # requests whose outcome or release is still due
        self.closing = False  # unregistered; closes when in_flight reaches 0
        self.mapped_by: set[Instance] = set()
        #: instance on a GPU, one of `mapped_by` -> what it said of the region
        self.reports: dict[Instance, RegionMapped] = {}

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
            "gpu": self.gpu,
            "mapped_by": sorted(instance.name for instance in self.mapped_by if not self._is_refused(instance)),
            "pinned_by": sorted(instance.name for instance, report in self.reports.items() if report.pinned),
            "refused_by": {instance.name: report.message for instance, report in self.reports.items() if report.message},
        }

    def _is_refused(self, instance: Instance) -> bool:
        report = self.reports.get(instance)
        return report is not None and bool(report.code)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class RegionRegistry:
    """Every region of the broker, and who may name it."""

    def __init__(self) -> None:
        self._count = 0
        #: number -> region, for every region whose descriptor is open, closing ones included
        self._regions: dict[int, Region] = {}
        #: number of CUDA memory that is no region any more -> instances that may still have it open
        self._open: dict[int, set[Instance]] = {}
        #: hears the number of CUDA memory that no instance has open any more
        self.tell_closed: Callable[[int], None] | None = None

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
            assert region.reports.keys() <= region.mapped_by, region
            assert (region.fd < 0) == bool(region.gpu), region
        assert all(self._open.values()) and not self._open.keys() & self._regions.keys(), self

    def find(self, number: int) -> Region | None:
        """The region of this number, unless it is closed."""
        return self._regions.get(number)

    def add(self, name: str, kind: str, fd: int, offset: int, byte_size: int, sealed: bool, cuda: CudaMemory = HOST) -> Region:
        """Takes over `fd`, which the caller has checked; -1 for CUDA memory."""
        self._count += 1
        region = Region(self._count, name, kind, fd, offset, byte_size, sealed, cuda)
        self._regions[region.number] = region
        return region

    def map_into(self, region: Region, instance: Instance, report: bool = False) -> None:
        """Hands the region to an instance that is about to use it for the first time."""
        handle, pid = region.cuda.handle, region.cuda.pid
        fds = () if handle else (region.fd,)
        is_single = region.kind == "inline"
        message = MapRegion(
            region.number, region.byte_size, region.offset, region.sealed, handle, pid, report, is_single, len(fds)
        )  # fmt: skip
        instance.link.put(message, fds)
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
            region.reports.pop(instance, None)
        instance.mapped.clear()
        for number in [number for number, instances in self._open.items() if instance in instances]:
            self.unmapped(instance, number)

    def unmapped(self, instance: Instance, number: int) -> None:
        """An instance has closed CUDA memory, or is gone."""
        instances = self._open.get(number, set())
        instances.discard(instance)
        if number in self._open and not instances:
            del self._open[number]
            self._tell_closed(number)

    def _close(self, region: Region) -> list[Instance]:
        del self._regions[region.number]
        if region.names is not None:
            region.names.closed(region)
        if region.fd >= 0:
            os.close(region.fd)
        told = list(region.mapped_by)
        for instance in told:
            del instance.mapped[region.number]
            instance.link.put(UnmapRegion(region.number, report=bool(region.gpu)))
        region.mapped_by.clear()
        region.reports.clear()
        if region.gpu and told:
            self._open[region.number] = set(told)
        elif region.gpu:
            self._tell_closed(region.number)
        return told

    def _tell_closed(self, number: int) -> None:
        if self.tell_closed is not None:
            self.tell_closed(number)


class Names(Protocol):
    """The regions that a request may name."""

    def find(self, name: str, shared: bool, asker: str) -> Region:
        """The region, or CallerError (NOT_FOUND). `shared`: in the user's shared scope. `asker` says what wanted it."""


class RegionNames:
    """The names of one session's regions, `most` at a time."""

    owner = "a session"
    taken = "already registered by this session"

    def __init__(self, most: int = MAX_REGIONS_PER_SESSION) -> None:
        self.most = most
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
            raise CallerError(f"shared memory region '{name}' {self.taken}", Code.ALREADY_EXISTS)
        if len(self._named) >= self.most:
            raise CallerError(f"{self.owner} may register {self.most} regions; '{name}' is one more", Code.OVERLOADED)

    def add(self, region: Region) -> None:
        """Makes the region known by its name."""
        self._named[region.name] = region
        region.names = self

    def find(self, name: str, asker: str) -> Region:
        """The region, or CallerError (NOT_FOUND). `asker` says what wanted it; empty: that is not said."""
        region = self._named.get(name)
        if region is None:
            who = asker and f"{asker}: "
            raise not_found(f"{who}Unable to find shared memory region: '{name}'")
        return region

    def take(self, name: str) -> list[Region]:
        """Forgets a name, or all of them when it is empty; returns the regions that had them."""
        if name:
            region = self._named.pop(name, None)
            return [] if region is None else [region]
        regions = list(self._named.values())
        self._named.clear()
        return regions

    def drop(self, region: Region) -> None:
        """Forgets this very region, should its name still be its own."""
        if self._named.get(region.name) is region:
            del self._named[region.name]

    def closed(self, region: Region) -> None:
        """The region's memory is given back."""
        self.drop(region)
