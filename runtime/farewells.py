# SPDX-License-Identifier: Apache-2.0
"""The last word to ZeroMQ clients that the broker expelled: they may live on, and a ROUTER cannot hang up on one peer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence

from ..ipc.codec import encode_frame
from ..ipc.errors import BrokerError
from ..ipc.local import LinkClosed
from ..ipc.messages import Failed

log = logging.getLogger("penstock.broker")

RETRY_NS = 100_000_000
"""Who was expelled for not reading has a full pipe, and may never read again: tried rarely, until it does or is gone."""

Send = Callable[[bytes, Sequence[bytes]], bool]
"""ipc.zeromq.RouterDoor.send: False when the peer's pipe is full; raises LinkClosed."""


class Farewells:
    """Those that have not been told yet."""

    def __init__(self, send: Send) -> None:
        self._send = send
        #: routing id -> the frame that says so
        self._frames: dict[bytes, bytes] = {}
        self.due_ns: int | None = None  # when `say` should be called; None: nobody is to be told

    def __repr__(self) -> str:
        return f"<Farewells {len(self._frames)} due>"

    def check_invariants(self) -> None:
        """There is a time for as long as there is somebody."""
        assert (self.due_ns is None) == (not self._frames), self

    def add(self, routing_id: bytes, why: str) -> None:
        """A session was ended by the broker. Its connection goes on."""
        error = BrokerError(f"the broker ended this session: {why}")
        self._frames[routing_id] = encode_frame([Failed(error.code.value, error.message, error.fault)])
        self.due_ns = 0

    def say(self, now_ns: int, greeted: Container[bytes]) -> None:
        """Tells who can be told. `greeted`: routing ids that have said Hello again, and so know."""
        for routing_id, frame in list(self._frames.items()):
            try:
                if routing_id not in greeted and not self._send(routing_id, [frame]):
                    continue
            except LinkClosed:
                log.debug("a client that was expelled has left by itself")
            del self._frames[routing_id]
        self.due_ns = now_ns + RETRY_NS if self._frames else None
