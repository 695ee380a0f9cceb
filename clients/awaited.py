# SPDX-License-Identifier: Apache-2.0
"""Awaited: a request whose answer an event loop waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .pending import Entry, Lease

if TYPE_CHECKING:
    import asyncio  # not at run time: the synchronous client needs none of it


class Awaited(Entry):
    """Belongs to the loop's thread, like the connection that it was sent on. `future` is done once it is answered."""

    __slots__ = ("future",)

    def __init__(self, number: int, lease: Lease | None, deadline_ns: int, future: asyncio.Future[None]) -> None:
        super().__init__(number, lease, deadline_ns)
        self.future = future

    def announce(self) -> None:
        """Wakes the task. It is past waiting when it was cancelled, or when its loop is gone."""
        if not self.future.done() and not self.future.get_loop().is_closed():
            self.future.set_result(None)
