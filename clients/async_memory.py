# SPDX-License-Identifier: Apache-2.0
"""Room in the slot pool of an AsyncClient: regions are registered while the loop goes on."""

from __future__ import annotations

import asyncio

from .async_session import AsyncSession
from .buffers import SharedSlot
from .leasing import Leasing
from .models import Layout
from .slots import Slot


class AsyncMemory:
    """Belongs to the session's loop. After `make_room`, leasing waits for nothing."""

    def __init__(self, session: AsyncSession, leasing: Leasing) -> None:
        self._session = session
        self._leasing = leasing
        self._growth: asyncio.Task[None] | None = None  # a region that is being added; who lacks room waits for it first

    def __repr__(self) -> str:
        return f"<AsyncMemory {'growing' if self._growth else 'at rest'}, {self._leasing!r}>"

    async def make_room(self, layout: Layout) -> bool:
        """Sees to it that a slot of this layout can be leased. True: the broker takes tensors inline only, and needs none."""
        while True:
            connection = self._session.standing() or await self._session.live()
            if connection.takes_inline_only:
                return True
            missing = self._leasing.lacks(layout)
            if not missing:
                return False
            connection.glance()  # slots that were released meanwhile are leased again
            missing = self._leasing.lacks(layout)
            if missing:
                await self._wait_for_growth(layout, missing)

    async def renew(self, slot: Slot) -> None:
        """Sees to it that a slot that the broker cannot use any more can be given a substitute."""
        if isinstance(slot, SharedSlot):
            if self._session.standing() is None:
                await self._session.live()
            if slot.lacks_substitute:
                await self.make_room(slot.prepared.layout)

    async def _wait_for_growth(self, layout: Layout, byte_size: int) -> None:
        """Adds a region; or waits until the one that another task adds is there, which may be enough. Raises for the first."""
        growth = self._growth
        if growth is not None:
            await asyncio.wait((growth,))
            return
        growth = self._growth = asyncio.create_task(self._grow(layout, byte_size))
        growth.add_done_callback(self._grown)
        await asyncio.wait((growth,))  # should this task be cancelled, the region is of use to others
        growth.result()

    async def _grow(self, layout: Layout, byte_size: int) -> None:
        epoch = self._leasing.epoch  # before it is registered: should the broker change meanwhile, it is of no use
        region = self._leasing.make_region(
            layout.device, byte_size
        )  # takes about as long as filling it, which is this thread's work too
        try:
            await self._session.register(region, pooled=True)
        except BaseException:
            region.close()
            raise
        self._leasing.add(layout, region, epoch)

    def _grown(self, growth: asyncio.Task[None]) -> None:
        self._growth = None
        if not growth.cancelled():
            growth.exception()  # raised where it is waited for

    async def close(self) -> None:
        """Lets go of the memory, now that the session has ended. Idempotent."""
        if self._growth is not None and self._growth.get_loop() is asyncio.get_running_loop():
            await asyncio.wait((self._growth,))
        if not self._session.sync.is_forked:  # else the pool's lock may be held by a thread of the parent
            self._leasing.close()
