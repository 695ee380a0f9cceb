# SPDX-License-Identifier: Apache-2.0
"""Where slots lie: pooled regions, cut into blocks of equal slots.

Within a block, the same tensor of slot k+1 follows that of slot k, and outputs lie apart from inputs: requests that are
batched together then form runs, which the worker copies (or sends to the device) as one. Regions never grow; another is
added. A block whose slots are all free is given back when room is needed, a region without blocks is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .extents import ALIGNMENT, Extents, aligned
from .regions import Region

REGION_BYTES = 4 * 1024 * 1024
"""Smallest pooled region. Registering costs a round trip and a mapping per worker: few and large ones."""
FIRST_BLOCK_BYTES = 256 * 1024
MAX_SLOTS_PER_BLOCK = 64

Sizes = tuple[int, ...]


class Broker:
    """The broker that the arena's memory is registered with. Read by any thread at any time; written by who reconnects.

    `epoch` counts how often it was met anew without the memory of before: POSIX segments whose names are unlinked cannot be
    registered again, sealed memory can.
    """

    __slots__ = ("epoch", "identity")

    def __init__(self) -> None:
        self.epoch = 0
        self.identity = b""

    def meet(self, identity: bytes, keeps_memory: bool) -> None:
        """A new session has begun, with the same broker or another."""
        self.identity = identity
        if not keeps_memory:
            self.epoch += 1


class PooledRegion:
    """A region of the pool and what is free in it."""

    def __init__(self, region: Region, epoch: int) -> None:
        self.region = region
        self.epoch = epoch
        self.extents = Extents(region.byte_size)


class Placement:
    """The memory of one slot: `offsets` into the region, one per size. `prepared` keeps what was made for it last."""

    __slots__ = ("_broker", "block", "offsets", "prepared", "suspect")

    def __init__(self, broker: Broker, block: Block, offsets: tuple[int, ...]) -> None:
        self._broker = broker
        self.block = block
        self.offsets = offsets
        self.prepared: Any = None
        #: identity of the broker whose workers may still write here
        self.suspect: bytes | None = None

    @property
    def region(self) -> Region:
        """Where it lies."""
        return self.block.pooled.region

    @property
    def is_usable(self) -> bool:
        """Whether a request may be placed here."""
        return self.block.pooled.epoch == self._broker.epoch and self.suspect != self._broker.identity

    def lose(self) -> None:
        """Its request was lost with the connection: a worker may write into it for as long as that broker lives.

        When another broker answers, that one is dead, and its workers with it (they die with their parent).
        """
        self.suspect = self._broker.identity


class Block:
    """`count` slots of equal sizes."""

    def __init__(self, broker: Broker, pooled: PooledRegion, begin: int, sizes: Sizes, count: int) -> None:
        self.pooled = pooled
        self.begin = begin
        self.sizes = sizes
        self.byte_size = count * slot_bytes(sizes)
        self.idle = count
        areas, at = [], begin
        for size in sizes:
            areas.append(at)
            at += count * aligned(size)
        self.placements = [
            Placement(broker, self, tuple(area + slot * aligned(size) for area, size in zip(areas, sizes, strict=True)))
            for slot in range(count)
        ]

    def retire(self) -> None:
        """No placement is handed out any more. Without them there is no cycle that keeps the region's memory."""
        self.placements.clear()


def slot_bytes(sizes: Sizes) -> int:
    """What one slot takes; never nothing, so that no two slots begin at the same place."""
    return max(sum(map(aligned, sizes)), ALIGNMENT)


class Arena:
    """Hands out placements. Not thread-safe: its owner, the slot pool, serialises the calls."""

    def __init__(self, broker: Broker, add_region: Callable[[int], Region], drop_region: Callable[[Region], None]) -> None:
        self._broker = broker
        self._add_region = add_region
        self._drop_region = drop_region
        self._regions: list[PooledRegion] = []
        #: sizes -> blocks of such slots
        self._blocks: dict[Sizes, list[Block]] = {}
        #: sizes -> free placements that are usable
        self._free: dict[Sizes, deque[Placement]] = {}
        #: placements that came back while suspect
        self._suspects: list[Placement] = []

    def __repr__(self) -> str:
        blocks = [block for blocks in self._blocks.values() for block in blocks]
        slots = sum(len(block.placements) for block in blocks)
        free = sum(map(len, self._free.values()))
        counts = f"{len(self._regions)} regions, {len(blocks)} blocks, {free} of {slots} slots free"
        return f"<Arena {counts}, {len(self._suspects)} suspect>"

    def check_invariants(self) -> None:
        """What is free is counted, and lies in living blocks; blocks are where the extents say that something is."""
        assert self._blocks.keys() == self._free.keys() and all(self._blocks.values()), self
        for sizes, blocks in self._blocks.items():
            assert sum(block.idle for block in blocks) == len(self._free[sizes]), self
            assert all(placement.block in blocks for placement in self._free[sizes]), self
        for pooled in self._regions:
            pooled.extents.check_invariants()
            pooled.region.check_invariants()
            assert pooled.extents.is_empty == (not any(b.pooled is pooled for blocks in self._blocks.values() for b in blocks))

    def take(self, sizes: Sizes) -> Placement:
        """A placement for tensors of these sizes. Raises MachineError when there is no memory for another region."""
        self._catch_up()
        while not (free := self._free.get(sizes)):
            missing = self.lacks(sizes)
            if missing:
                epoch = self._broker.epoch  # before it is registered: should the broker change meanwhile, it is of no use
                self.add(self._add_region(missing), epoch)
        placement = free.popleft()
        placement.block.idle -= 1
        return placement

    def lacks(self, sizes: Sizes) -> int:
        """How large a region must be added before `take` has such a placement; 0: it has one. Makes what room there is."""
        self._catch_up()
        if self._free.get(sizes):
            return 0
        existing = sum(len(block.placements) for block in self._blocks.get(sizes, ()))
        count = max(1, min(MAX_SLOTS_PER_BLOCK, max(existing, FIRST_BLOCK_BYTES // slot_bytes(sizes))))
        byte_size = count * slot_bytes(sizes)
        found = self._room_for(byte_size)
        if found is None:
            self._drop_empty_regions()
            return max(byte_size, REGION_BYTES)
        block = Block(self._broker, *found, sizes, count)
        self._blocks.setdefault(sizes, []).append(block)
        self._free.setdefault(sizes, deque()).extend(block.placements)
        return 0

    def add(self, region: Region, epoch: int) -> None:
        """A region that was registered with the broker of that epoch."""
        self._regions.append(PooledRegion(region, epoch))

    def give(self, placement: Placement) -> None:
        """The placement is not in use any more."""
        block = placement.block
        if block.pooled not in self._regions:
            return  # it was registered with a broker that is gone
        if not placement.is_usable:
            self._suspects.append(placement)
            return
        block.idle += 1
        self._free[block.sizes].appendleft(placement)  # used last: warm in the caches

    @property
    def byte_size(self) -> int:
        """Of all its regions."""
        return sum(pooled.region.byte_size for pooled in self._regions)

    def trim(self, keep_bytes: int) -> None:
        """Gives back regions that nothing lies in, the latest first, until no more than this is left."""
        self._catch_up()
        if self.byte_size > keep_bytes:
            self._reclaim()
            for pooled in [pooled for pooled in reversed(self._regions) if pooled.extents.is_empty]:
                if self.byte_size > keep_bytes:
                    self._regions.remove(pooled)
                    self._drop_region(pooled.region)

    def close(self) -> None:
        """Forgets all memory: what views still show stays mapped for them alone. Idempotent."""
        for blocks in self._blocks.values():
            for block in blocks:
                block.retire()
        for pooled in self._regions:
            pooled.region.close()
        self._regions.clear()
        self._blocks.clear()
        self._free.clear()
        self._suspects.clear()

    def _catch_up(self) -> None:
        """Follows what became of the broker: drops regions of an earlier epoch, takes back what is suspect no more."""
        epoch = self._broker.epoch
        if any(pooled.epoch != epoch for pooled in self._regions):
            self.close()
        if self._suspects:
            suspects, self._suspects = self._suspects, []
            for placement in suspects:
                self.give(placement)

    # --- growing ----------------------------------------------------------------------------------------------------------

    def _room_for(self, byte_size: int) -> tuple[PooledRegion, int] | None:
        found = self._fit(byte_size)
        if found is None:
            self._reclaim()
            found = self._fit(byte_size)
        return found

    def _fit(self, byte_size: int) -> tuple[PooledRegion, int] | None:
        for pooled in self._regions:
            begin = pooled.extents.take(byte_size)
            if begin is not None:
                return pooled, begin
        return None

    def _reclaim(self) -> None:
        """Gives back the blocks of which every slot is free; sizes that have no block left are forgotten."""
        for sizes, blocks in list(self._blocks.items()):
            idle = [block for block in blocks if block.idle == len(block.placements)]
            for block in idle:
                block.pooled.extents.give(block.begin, block.byte_size)
                blocks.remove(block)
            if idle:
                self._free[sizes] = deque(placement for placement in self._free[sizes] if placement.block in blocks)
            for block in idle:
                block.retire()
            if not blocks:
                del self._blocks[sizes], self._free[sizes]

    def _drop_empty_regions(self) -> None:
        for pooled in [pooled for pooled in self._regions if pooled.extents.is_empty]:
            self._regions.remove(pooled)
            self._drop_region(pooled.region)
