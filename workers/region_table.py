# SPDX-License-Identifier: Apache-2.0
"""The regions this worker may touch: each client region is mapped once and kept until the broker says that nothing uses it.

A region that cannot shrink is mapped. One that can (a `system` segment under --isolate-system-regions) is read and written
through its descriptor instead: truncating it then costs its owner an error, where a mapping would cost the worker a SIGBUS.
A worker on a GPU pins what it maps for longer than a request, and opens CUDA memory (on_gpu/regions.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Union

import numpy as np
import numpy.typing as npt

from ..ipc.cuda import CudaError
from ..ipc.errors import BrokerError, CallerError, Code, PenstockError, invalid
from ..ipc.messages import MapRegion, RegionMapped
from ..ipc.regions import Mapping

if TYPE_CHECKING:
    from .devices.cuda import Device, HostRegistration
    from .on_gpu.regions import Allocations, CudaRegion

Octets = npt.NDArray[np.uint8]
Space = Literal["host", "pinned", "isolated", "device"]
"""Where a region lies, for who must copy: host memory; host memory that GPUs reach themselves; behind a descriptor; a GPU."""


class MappedRegion:
    """A region in this process's address space. `unpinned`: why it is not pinned, where that was tried."""

    __slots__ = ("_mapping", "address", "array", "byte_size", "registration", "unpinned")
    is_mapped = True

    def __init__(self, fd: int, message: MapRegion) -> None:
        """Takes `fd`: a mapping needs its descriptor no longer."""
        try:
            self._mapping = Mapping(fd, message.byte_size, message.offset)
        finally:
            os.close(fd)
        self.byte_size = message.byte_size
        self.array: Octets = self._mapping.array
        self.address = self._mapping.address
        self.registration: HostRegistration | None = None  # with a GPU, which copies from and to the region by itself then
        self.unpinned = ""

    @property
    def pinned(self) -> bool:
        """Whether a GPU copies from and to it by itself."""
        return self.registration is not None

    @property
    def space(self) -> Space:
        """Where it lies."""
        return "host" if self.registration is None else "pinned"

    def pin(self) -> None:
        """Has it pinned, once. A refusal is remembered, and costs speed alone; raises CudaError when the GPU is lost."""
        from .devices.cuda import HostRegistration

        try:
            self.registration = HostRegistration(self.address, self.byte_size)
        except CudaError as error:
            if error.is_sticky:
                raise
            self.unpinned = error.message  # too much for this machine, or no pages that can be pinned

    def read(self, offset: int, into: Octets) -> None:
        """Copies bytes out of the region."""
        into[...] = self.array[offset : offset + into.size]

    def write(self, offset: int, data: Octets) -> None:
        """Copies bytes into the region."""
        self.array[offset : offset + data.size] = data

    def close(self) -> None:
        """Lets go of the memory as soon as no view is left. What a GPU copies from or to it must have ended."""
        if self.registration is not None:
            self.registration.close()
            self.registration = None
        self.array = np.empty(0, np.uint8)
        self._mapping.close()


class IsolatedRegion:
    """A region that its owner may truncate at any time: never mapped, so that this is an error and not a signal."""

    __slots__ = ("_base", "_fd", "address", "byte_size")
    is_mapped = False
    space: Space = "isolated"
    pinned = False
    unpinned = "it is isolated, as --isolate-system-regions asks, and so not mapped"

    def __init__(self, fd: int, message: MapRegion) -> None:
        """Takes `fd` and holds it."""
        self._fd = fd
        self._base = message.offset
        self.byte_size = message.byte_size
        self.address = 0

    def read(self, offset: int, into: Octets) -> None:
        """Copies bytes out of the region. Raises CallerError when they are no longer there."""
        found = 0
        while found < into.size:
            count = os.preadv(self._fd, [into[found:].data], self._base + offset + found)
            if count == 0:
                raise self._shrank(offset, into.size)
            found += count

    def write(self, offset: int, data: Octets) -> None:
        """Copies bytes into the region. Raises CallerError when their place is gone: writing would grow the segment again."""
        if os.fstat(self._fd).st_size < self._base + offset + data.size:
            raise self._shrank(offset, data.size)
        written = 0
        while written < data.size:
            written += os.pwritev(self._fd, [data[written:].data], self._base + offset + written)

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _shrank(self, offset: int, byte_size: int) -> Exception:
        left = max(0, os.fstat(self._fd).st_size - self._base)
        return invalid(
            f"region shrank: {byte_size} bytes at offset {offset} are wanted, {left} bytes are left of {self.byte_size}"
        )


Region = Union[MappedRegion, IsolatedRegion, "CudaRegion"]


class RegionTable:
    """Region number -> region. `device`: the GPU that this worker computes on, if it does."""

    def __init__(self, isolate: bool = False, device: Device | None = None) -> None:
        self._isolate = isolate
        self._allocations = None if device is None else _allocations(device)
        self._regions: dict[int, Region] = {}
        #: the numbers of regions that are not mapped; a subset of the keys above
        self.isolated: set[int] = set()
        #: number -> why the region could not be mapped: that is the business of the requests that refer to it
        self._refused: dict[int, PenstockError] = {}

    def map(self, message: MapRegion, fd: int) -> None:
        """Takes `fd`, the region's descriptor; -1 where it has a handle. What is wrong with it, requests will be told."""
        if message.region in self:
            if fd >= 0:
                os.close(fd)
            raise BrokerError(f"region {message.region} is mapped already", Code.INTERNAL)
        try:
            self._regions[message.region] = self._made(message, fd)
        except PenstockError as error:  # truncated before it came here, no address space left, a handle of nothing
            if isinstance(error, CudaError) and error.is_sticky:
                raise  # nothing works any more on this GPU: another worker has to take over
            self._refused[message.region] = error

    def _made(self, message: MapRegion, fd: int) -> Region:
        if message.handle:
            if self._allocations is None:
                raise CallerError("CUDA memory cannot be used by an instance on the CPU", Code.UNSUPPORTED)
            return self._allocations.region(message)
        if self._isolate and not message.sealed:
            self.isolated.add(message.region)
            return IsolatedRegion(fd, message)
        region = MappedRegion(fd, message)
        if self._allocations is not None and not message.single_use:
            region.pin()
        return region

    def report(self, number: int) -> RegionMapped:
        """What became of a region, for the broker."""
        refused = self._refused.get(number)
        if refused is not None:
            return RegionMapped(number, refused.code.value, refused.message, refused.fault)
        region = self._regions[number]
        return RegionMapped(number, message=region.unpinned, pinned=region.pinned)

    def unmap(self, number: int) -> None:
        """Forgets a region; unknown numbers are a broker's mistake that costs nothing."""
        region = self._regions.pop(number, None)
        self._refused.pop(number, None)
        self.isolated.discard(number)
        if region is not None:
            region.close()

    def get(self, number: int, offset: int, byte_size: int) -> Region:
        """The region, of which these bytes are part.

        Raises what mapping it raised, and BrokerError for what the broker should have found.
        """
        region = self._regions.get(number)
        if number in self._refused:
            raise self._refused[number]
        if region is None:
            raise BrokerError(f"region {number} is not mapped in this worker", Code.INTERNAL)
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise BrokerError(
                f"{byte_size} bytes at offset {offset} lie outside of region {number} of {region.byte_size} bytes",
                Code.INTERNAL,
            )
        return region

    def mapped(self, number: int) -> MappedRegion:
        """A region that is known to be mapped."""
        region = self._regions[number]
        assert isinstance(region, MappedRegion), f"{self!r}: region {number} is isolated"
        return region

    def __getitem__(self, number: int) -> Region:
        return self._regions[number]

    def __contains__(self, number: int) -> bool:
        return number in self._regions or number in self._refused

    def close(self) -> None:
        """Forgets every region."""
        for number in [*self._regions, *self._refused]:
            self.unmap(number)

    def check_invariants(self) -> None:
        """Raises AssertionError when the table contradicts itself."""
        if self._allocations is not None:
            self._allocations.check_invariants()
        apart = {number for number, region in self._regions.items() if region.space == "isolated"}
        assert not self._refused.keys() & self._regions.keys(), repr(self)
        assert apart == self.isolated, f"{self!r}: isolated {self.isolated}, not mapped {apart}"

    def __repr__(self) -> str:
        total = sum(region.byte_size for region in self._regions.values())
        exceptions = f"{len(self.isolated)} isolated, {len(self._refused)} refused"
        return f"<RegionTable {len(self._regions)} regions, {total} bytes, {exceptions}>"


def _allocations(device: Device) -> Allocations:
    """Imported with the first GPU: a worker on the CPU starts without it."""
    from .on_gpu.regions import Allocations

    return Allocations(device)
