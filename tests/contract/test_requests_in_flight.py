# SPDX-License-Identifier: Apache-2.0
"""Requests that a gateway has accepted: all are finished before it leaves, and no more are taken then."""

from __future__ import annotations

import asyncio

import pytest

from penstock.ipc.errors import BrokerError, Code
from penstock.runtime.gateway.in_flight import InFlight

HOPELESS_S = 30.0


def test_without_any_it_leaves_at_once() -> None:
    async def story() -> None:
        in_flight = InFlight()
        assert await in_flight.leave(HOPELESS_S)
        in_flight.check_invariants()
        with pytest.raises(BrokerError, match="Server not ready") as raised, in_flight:
            pass
        assert raised.value.code is Code.UNAVAILABLE
        in_flight.check_invariants()

    asyncio.run(story())


def test_the_last_outcome_is_waited_for_a_failure_too() -> None:
    async def story() -> None:
        in_flight, over = InFlight(), [asyncio.Event(), asyncio.Event()]

        async def request(ends: asyncio.Event) -> None:
            with in_flight:
                await ends.wait()
                raise BrokerError("lost")

        requests = [asyncio.ensure_future(request(ends)) for ends in over]
        leaving = asyncio.ensure_future(in_flight.leave(HOPELESS_S))
        await asyncio.sleep(0)  # each of the three has begun
        for ends, ended in zip(over, requests, strict=True):
            assert not leaving.done()
            ends.set()
            with pytest.raises(BrokerError, match="lost"):
                await ended
            in_flight.check_invariants()
        assert await leaving
        assert repr(in_flight) == "<InFlight 0, leaving>"

    asyncio.run(story())


def test_what_never_ends_is_not_waited_for_for_ever() -> None:
    async def story() -> None:
        in_flight = InFlight()
        with in_flight:
            assert not await in_flight.leave(0.0)

    asyncio.run(story())
