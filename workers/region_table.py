# SPDX-License-Identifier: Apache-2.0
"""The regions this worker may touch: each client region is mapped once and kept until the broker says that nothing uses it.

A region that cannot shrink is mapped. One that can (a `system` segment under --isolate-system-regions) is read and written
through its descriptor instead: truncating it then costs its owner an error, where a mapping would cost the worker a SIGBUS.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from ..ipc.errors import BrokerError, Code, PenstockError, invalid
from ..ipc.messages import MapRegion
from ..ipc.regions import Mapping

Octets = npt.NDArray[np.uint8]


class MappedRegion:
    """A region in this process's address space."""

    __slots__ = ("_mapping", "address", "array", "byte_size")
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

    def read(self, offset: int, into: Octets) -> None:
        """Copies bytes out of the region."""
        into[...] = self.array[offset : offset + into.size]

    def write(self, offset: int, data: Octets) -> None:
        """Copies bytes into the region."""
        self.array[offset : offset + data.size] = data

    def close(self) -> None:
        """Lets go of the memory as soon as no view is left."""
        self.array = np.empty(0, np.uint8)
        self._mapping.close()


class IsolatedRegion:
    """A region that its owner may truncate at any time: never mapped, so that this is an error and not a signal."""

    __slots__ = ("_base", "_fd", "address", "byte_size")
    is_mapped = False

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


Region = MappedRegion | IsolatedRegion


class RegionTable:
    """Region number -> region."""

    def __init__(self, isolate: bool = False) -> None:
        self._isolate = isolate
        self._regions: dict[int, Region] = {}
        #: the numbers of regions that are not mapped; a subset of the keys above
        self.isolated: set[int] = set()
        #: number -> why the region could not be mapped: that is the business of the requests that refer to it
        self._refused: dict[int, PenstockError] = {}

    def map(self, message: MapRegion, fd: int) -> None:
        """Takes `fd`, the region's descriptor."""
        if message.region in self:
            os.close(fd)
            raise BrokerError(f"region {message.region} is mapped already", Code.INTERNAL)
        if self._isolate and not message.sealed:
            self._regions[message.region] = IsolatedRegion(fd, message)
            self.isolated.add(message.region)
        else:
            try:
                self._regions[message.region] = MappedRegion(fd, message)
            except PenstockError as error:  # truncated before it came here, or no address space left
                self._refused[message.region] = error

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
        apart = {number for number, region in self._regions.items() if not region.is_mapped}
        assert not self._refused.keys() & self._regions.keys(), repr(self)
        assert apart == self.isolated, f"{self!r}: isolated {self.isolated}, not mapped {apart}"

    def __repr__(self) -> str:
        total = sum(region.byte_size for region in self._regions.values())
        exceptions = f"{len(self.isolated)} isolated, {len(self._refused)} refused"
        return f"<RegionTable {len(self._regions)} regions, {total} bytes, {exceptions}>"
