# SPDX-License-Identifier: Apache-2.0
"""Requests that this gateway has accepted and that have no outcome yet, by whichever protocol they came."""

from __future__ import annotations

import asyncio

from ...ipc.errors import BrokerError


class InFlight:
    """Entered for each request. Belongs to one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._leaving = False
        self._finished = asyncio.Event()  # it is leaving, and the last has its outcome

    def __repr__(self) -> str:
        return f"<InFlight {self._count}{', leaving' if self._leaving else ''}>"

    def check_invariants(self) -> None:
        """It has finished when it is leaving and there are none."""
        assert self._count >= 0, self
        assert self._finished.is_set() == (self._leaving and not self._count), self

    def __enter__(self) -> None:
        """Raises BrokerError, in Triton's words, once the gateway is leaving."""
        if self._leaving:
            raise BrokerError("Server not ready")
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._leaving and not self._count:
            self._finished.set()

    async def leave(self, within_s: float) -> bool:
        """Takes no more from now on. Returns when all have their outcomes, or false after `within_s`."""
        self._leaving = True
        if not self._count:
            self._finished.set()
        try:
            await asyncio.wait_for(self._finished.wait(), within_s)
        except asyncio.TimeoutError:
            return False
        return True
