# SPDX-License-Identifier: Apache-2.0
"""One client of a ZeroMQ ROUTER, as the broker sees it: an outgoing queue of its own, and who it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from .local import LinkClosed
from .multiparts import MultipartLink
from .peers import Peer, peer_from_zmq

M = TypeVar("M")


class Door(Protocol):
    """What a peer needs of the RouterDoor it came in by."""

    is_tcp: bool

    def send(self, routing_id: bytes, multipart: Sequence[bytes]) -> bool: ...
    def forget(self, peer: RouterPeer[Any]) -> None: ...


class RouterPeer(MultipartLink, Generic[M]):
    """One client of a RouterDoor, with LocalLink's interface for sending. Made by the door with the peer's first frame.

    `peer` is None over tcp:// and for processes that cannot be watched: such a session lives on a lease. Whoever receives this
    object owns `peer.pidfd`. `parts` are those of the frame that was returned last, and go with the next
    `RouterDoor.receive`.
    """

    __slots__ = ("_door", "is_tcp", "peer", "peer_address", "routing_id")

    def __init__(self, door: Door, routing_id: bytes, peer_address: str, max_frame_bytes: int) -> None:
        super().__init__(max_frame_bytes)
        self._door = door
        self.routing_id = routing_id
        self.peer_address = peer_address
        self.is_tcp = door.is_tcp
        self.peer: Peer | None = None if door.is_tcp else peer_from_zmq(peer_address)

    def __repr__(self) -> str:
        who = f"pid {self.peer.pid}" if self.peer else self.peer_address or "unknown"
        return f"<RouterPeer {who}{' closed' if self.closed else ''}, {self.outbox!r}>"

    def flush(self) -> bool:
        """Sends everything put, as one frame. False: the peer's pipe is full, try again on a timer. Raises LinkClosed."""
        if self.closed:
            raise LinkClosed("this peer was closed")
        outbox = self.outbox
        outbox.seal()
        while outbox.multiparts:
            try:
                sent = self._door.send(self.routing_id, outbox.multiparts[0])
            except LinkClosed:
                self.close()
                raise
            if not sent:
                return False
            outbox.sent()
        return True

    def close(self) -> None:
        """Forgets the peer. Idempotent; what it sends later is another peer's. The pidfd is its owner's to close."""
        if not self.closed:
            self._drop_all()
            self._door.forget(self)
