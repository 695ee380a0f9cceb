# SPDX-License-Identifier: Apache-2.0
"""Sessions: one per client connection, from Hello to its end. What a session holds is given back when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..ipc.errors import BrokerError, Code
from ..ipc.messages import Message
from ..ipc.peers import Peer
from .bindings import Binding
from .regions import RegionNames
from .requests import InferRequest

MAX_BINDINGS = 1024
"""Placements a session may have remembered; a client that shows more distinct ones starts over."""


BindingKey = tuple[str, int, bytes, bytes, int]
"""Model, version, inputs, outputs, and on whose behalf."""


class Link(Protocol):
    """What the broker needs of a connection: ipc.local.LocalLink, ipc.zeromq.RouterPeer, or a test's fake."""

    @property
    def backlog(self) -> int: ...
    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None: ...
    def flush(self) -> bool: ...
    def take_fds(self, count: int) -> list[int]: ...
    def take_parts(self, count: int) -> list[bytes]: ...
    def close(self) -> None: ...


class Session:
    """One client. `peer` is None over tcp://: such a session may only send tensors inline."""

    def __init__(self, number: int, link: Link, peer: Peer | None, takes_fds: bool, now_ns: int) -> None:
        self.number = number
        self.link = link
        self.peer = peer
        self.takes_fds = takes_fds  # local link: outputs without a place come as a descriptor; else as parts
        self.greeted = False
        self.is_gateway = False  # it serves others, and is ready to
        self.ended = False
        self.expelled = ""  # why the broker ended it, if it did
        self.name = ""
        self.heard_ns = now_ns  # for the lease of tcp:// sessions
        self.regions = RegionNames()
        #: client's request id -> request accepted and not yet both answered and released
        self.in_flight: dict[int, InferRequest] = {}
        #: what identifies a placement, as received -> what was checked the first time; see bindings.py
        self.bindings: dict[BindingKey, Binding] = {}
        self.names_shared = False  # some of these may be in regions that are shared for a user

    def __repr__(self) -> str:
        who = f"pid {self.peer.pid}" if self.peer else "remote"
        state = "ended" if self.ended else "greeted" if self.greeted else "silent"
        return f"<Session {self.number} {who} {self.name!r} {state}, {len(self.in_flight)} in flight, {self.regions!r}>"

    def remember(self, key: BindingKey, binding: Binding) -> None:
        """Keeps a checked placement for the next request that is the same to the byte."""
        if len(self.bindings) >= MAX_BINDINGS:
            self.bindings.clear()
        self.bindings[key] = binding
        self.names_shared = self.names_shared or any(region.names is not self.regions for region in binding.regions)

    def describe(self) -> dict[str, Any]:
        """The session as `penstock status` shows it."""
        return {
            "session": self.number,
            "pid": self.peer.pid if self.peer else None,
            "name": self.name,
            "in_flight": len(self.in_flight),
            "regions": len(self.regions),
            "reply_backlog_bytes": self.link.backlog,
        }


def require_greeting(session: Session) -> None:
    """Raises BrokerError for a client that has not said Hello."""
    if not session.greeted:
        raise BrokerError("say Hello first", Code.INVALID_ARG)
