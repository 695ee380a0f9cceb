# SPDX-License-Identifier: Apache-2.0
"""Memory for tensors that come with their requests: slots of shared memory that the broker and the workers know."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ...clients.arena import Arena, Broker, Placement
from ...clients.async_session import AsyncSession
from ...clients.pending import Entry
from ...clients.regions import MemfdRegion, Region

SMALLEST = 64


class Leased:
    """The memory of one request, as long as a worker may touch it and as long as its owner reads it, whichever is longer."""

    __slots__ = ("_memory", "_owed", "placement")

    def __init__(self, memory: InlineMemory | None = None, placement: Placement | None = None) -> None:
        self._memory = memory
        self.placement = placement
        self._owed = 2  # the broker's release and the owner's

    def __repr__(self) -> str:
        return f"<Leased {self.placement!r}, {self._owed} hold it>"

    def write(self, position: int, content: Any) -> tuple[str, int, int]:
        """Puts a tensor into its place; the region's name, the offset and the byte size."""
        assert self.placement is not None
        begin, byte_size = self.placement.offsets[position], len(content)
        if byte_size:  # numpy makes no array of nothing
            source: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8)
            self.placement.region.memory[begin : begin + byte_size] = source
        return self.placement.region.name, begin, byte_size

    def build_result(self, entry: Entry) -> Any:
        """Answers are read by inference.py."""
        return entry.message

    def release(self) -> None:
        """No worker can touch it any more; or its owner has done with it."""
        self._owed -= 1
        if self._owed == 0 and self._memory is not None and self.placement is not None:
            self._memory.give(self.placement)

    def lose(self) -> None:
        """Nobody can say whether a worker still touches it."""
        if self.placement is not None:
            self.placement.lose()
        self.release()


class InlineMemory:
    """Belongs to the session's loop."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.broker = Broker()
        self._arena = Arena(self.broker, self._cannot_add, session.sync.drop)
        self._growth: asyncio.Task[None] | None = None
        self._count = 0

    def __repr__(self) -> str:
        return f"<InlineMemory {self._arena!r}>"

    def check_invariants(self) -> None:
        """Those of the arena."""
        self._arena.check_invariants()

    async def lease(self, sizes: tuple[int, ...]) -> Leased:
        """Memory for tensors of these sizes, in bytes. Raises MachineError when there is none, BrokerError without a broker."""
        classes = tuple(map(size_class, sizes))
        while True:
            await self._session.live()
            missing = self._arena.lacks(classes)
            if not missing:
                return Leased(self, self._arena.take(classes))
            await self._grow(missing)

    def give(self, placement: Placement) -> None:
        """The placement is not in use any more."""
        self._arena.give(placement)

    async def _grow(self, byte_size: int) -> None:
        if self._growth is None:
            self._growth = asyncio.create_task(self._add(byte_size))
            self._growth.add_done_callback(self._grown)
        growth = self._growth
        await asyncio.wait((growth,))  # should this task be cancelled, the region is of use to others
        growth.result()

    def _grown(self, _growth: asyncio.Task[None]) -> None:
        self._growth = None

    async def _add(self, byte_size: int) -> None:
        epoch = self.broker.epoch
        self._count += 1
        region = MemfdRegion(f"~gateway-{os.getpid()}-{self._count}", byte_size)
        try:
            await self._session.register(region, pooled=True)
        except BaseException:
            region.close()
            raise
        self._arena.add(region, epoch)

    @staticmethod
    def _cannot_add(_byte_size: int) -> Region:
        raise AssertionError("regions are added ahead, while the loop goes on")

    def close(self) -> None:
        """Lets go of the memory. Idempotent."""
        self._arena.close()


def size_class(byte_size: int) -> int:
    """A size that many sizes share, at most an eighth larger: slots are cut once per distinct size."""
    if byte_size <= SMALLEST:
        return SMALLEST
    step = max(1 << (byte_size - 1).bit_length() - 4, SMALLEST)
    return -(-byte_size // step) * step
