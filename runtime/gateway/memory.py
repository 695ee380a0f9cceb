# SPDX-License-Identifier: Apache-2.0
"""Memory for tensors that come with their requests: slots of shared memory that the broker and the workers know."""

from __future__ import annotations

import asyncio
import copy
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ...clients.arena import Arena, Broker, Placement
from ...clients.async_session import AsyncSession
from ...clients.pending import Entry
from ...clients.regions import MemfdRegion, Region
from ...ipc.errors import MachineError

SMALLEST = 64
KEPT_BYTES = 64 * 1024 * 1024
"""Kept however little there is to do: making memory anew costs more than sending what goes into it."""
UNUSED_S = 10.0
"""How often it is seen whether what goes beyond KEPT_BYTES is still in use."""


class Leased:
    """The memory of one request, until its owner has read what came and no worker may touch it any more."""

    __slots__ = ("_holders", "_memory", "placement")

    def __init__(self, memory: InlineMemory | None = None, placement: Placement | None = None) -> None:
        self._memory = memory
        self.placement = placement
        self._holders = 1  # who leased it; the broker too while it has the request

    def __repr__(self) -> str:
        return f"<Leased {self.placement!r}, {self._holders} hold it>"

    def hold(self) -> None:
        """The request is about to be sent."""
        self._holders += 1

    def write(self, position: int, content: Any) -> tuple[str, int, int]:
        """Puts a tensor into its place; the region's name, the offset and the byte size."""
        assert self.placement is not None
        (name, begin), byte_size = self.place(position), len(content)
        if byte_size:  # numpy makes no array of nothing
            source: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8)
            self.placement.region.memory[begin : begin + byte_size] = source
        return name, begin, byte_size

    def place(self, position: int) -> tuple[str, int]:
        """Where a tensor goes: the region's name, and the offset."""
        assert self.placement is not None
        return self.placement.region.name, self.placement.offsets[position]

    def read(self, begin: int, byte_size: int) -> bytes:
        """A copy of what lies in the region that this is a part of: another request may have the memory soon."""
        assert self.placement is not None
        content: bytes = self.placement.region.memory[begin : begin + byte_size].tobytes()
        return content

    def build_result(self, entry: Entry) -> Any:
        """Answers are read by inference.py."""
        return entry.message

    def release(self) -> None:
        """No worker can touch it any more; or its owner has done with it."""
        self._holders -= 1
        if self._holders == 0 and self._memory is not None and self.placement is not None:
            self._memory.give(self.placement)

    def lose(self) -> None:
        """Nobody can say whether a worker still touches it."""
        if self.placement is not None:
            self.placement.lose()
        self.release()


class InlineMemory:
    """Belongs to the session's loop. Grows with what is in flight, up to a bound, and gives back what is not used for long."""

    def __init__(self, session: AsyncSession, most_bytes: int) -> None:
        self._session = session
        self._most_bytes = most_bytes
        self.broker = Broker()
        self._arena = Arena(self.broker, self._cannot_add, session.sync.drop)
        self._growth: asyncio.Task[None] | None = None
        self._trimming: asyncio.TimerHandle | None = None
        self._count = 0
        self._waiting = 0  # requests for which it grows
        self.leased = 0

    def __repr__(self) -> str:
        return f"<InlineMemory {self.leased} leased, {self._arena.byte_size} of {self._most_bytes} bytes, {self._arena!r}>"

    def check_invariants(self) -> None:
        """Those of the arena; what is large is looked at again."""
        self._arena.check_invariants()
        assert self.leased >= 0, self
        assert self._arena.byte_size <= KEPT_BYTES or self._trimming is not None, self

    async def lease(self, sizes: tuple[int, ...]) -> Leased:
        """Memory for tensors of these sizes, in bytes. Raises MachineError when there is none, BrokerError without a broker."""
        classes = tuple(map(size_class, sizes))
        while True:
            await self._session.live()
            missing = self._arena.lacks(classes)
            if not missing:
                self.leased += 1
                return Leased(self, self._arena.take(classes))
            self._waiting += 1
            try:
                await self._grow(missing)
            finally:
                self._waiting -= 1

    def give(self, placement: Placement) -> None:
        """The placement is not in use any more."""
        self.leased -= 1
        self._arena.give(placement)

    async def _grow(self, byte_size: int) -> None:
        if self._growth is None:
            self._check_bound(byte_size)
            self._growth = asyncio.create_task(self._add(byte_size))
            self._growth.add_done_callback(self._grown)
        growth = self._growth
        await asyncio.wait((growth,))  # should this task be cancelled, the region is of use to others
        error = growth.exception()
        if error is not None:
            raise copy.copy(error)  # each its own: an exception collects the frames that it passes

    def _check_bound(self, byte_size: int) -> None:
        held = self._arena.byte_size
        if held + byte_size > self._most_bytes and self.leased:
            raise MachineError(
                f"this gateway holds {held} bytes of tensors for {self.leased} requests in flight and may hold "
                f"{self._most_bytes}: send fewer at once, or put large tensors into shared memory"
            )

    def _grown(self, growth: asyncio.Task[None]) -> None:
        self._growth = None
        if not growth.cancelled():
            growth.exception()  # looked at: those who waited for it may all have been cancelled

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
        if self._trimming is None and self._arena.byte_size > KEPT_BYTES:
            self._trim_later()

    def _trim_later(self) -> None:
        self._trimming = asyncio.get_running_loop().call_later(UNUSED_S, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        if not self._waiting:  # else it is about to be used
            self._arena.trim(KEPT_BYTES)
        if self._arena.byte_size > KEPT_BYTES:
            self._trim_later()

    @staticmethod
    def _cannot_add(_byte_size: int) -> Region:
        raise AssertionError("regions are added ahead, while the loop goes on")

    def close(self) -> None:
        """Lets go of the memory. Idempotent."""
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None
        self._arena.close()


def size_class(byte_size: int) -> int:
    """A size that many sizes share, at most an eighth larger: slots are cut once per distinct size."""
    if byte_size <= SMALLEST:
        return SMALLEST
    step = max(1 << (byte_size - 1).bit_length() - 4, SMALLEST)
    return -(-byte_size // step) * step
