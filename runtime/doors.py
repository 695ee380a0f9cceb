# SPDX-License-Identifier: Apache-2.0
"""The two doors clients come in by: the local socket and ZeroMQ. Each knows its connections and watches over their owners."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..ipc.codec import FrameDecoder
from ..ipc.errors import PenstockError
from ..ipc.local import LinkClosed, LocalLink, LocalListener
from ..ipc.messages import FromClient, FromWorker
from ..ipc.zeromq import RouterDoor, RouterPeer
from .event_loop import READ, WRITE, EventLoop
from .farewells import Farewells
from .sessions import Session
from .settings import Settings

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("penstock.broker")

RETRY_NS = 5_000_000
"""ZeroMQ does not say when one peer's full pipe has room again, so those peers are tried again after this long."""

FromAnyone = FromClient | FromWorker
"""A local connection says in its Hello whether it is a client or a worker."""


class Door(Protocol):
    """One bound address."""

    address: str

    def has(self, session: Session) -> bool: ...
    def forget(self, session: Session) -> None: ...
    def wait_for_room(self, session: Session, now_ns: int) -> None: ...
    def close(self) -> None: ...


class LocalDoor:
    """The unix socket. A full connection is not read from either, so that it cannot make its backlog grow."""

    def __init__(self, path: str, loop: EventLoop, core: Core, settings: Settings) -> None:
        self.address = f"unix://{path}"
        self._loop = loop
        self._core = core
        self._settings = settings
        self._decoder: FrameDecoder[Any] = FrameDecoder(FromAnyone)
        self._links: dict[Session, LocalLink[Any]] = {}
        self._listener = LocalListener(path)
        loop.add(self._listener.fileno(), self._accept)

    def __repr__(self) -> str:
        return f"<LocalDoor {self.address} {len(self._links)} sessions>"

    def has(self, session: Session) -> bool:
        """Whether the session came in here."""
        return session in self._links

    def _accept(self, _events: int) -> None:
        refused = self._listener.refused
        accepted = self._listener.accept()
        if self._listener.refused > refused:
            log.error("a connection was refused: this process has too many files open (RLIMIT_NOFILE)")
        if accepted is None:
            return
        sock, peer = accepted
        link: LocalLink[Any] = LocalLink(sock, self._decoder, self._settings.max_frame_bytes)
        session = self._core.reception.open(link, peer, takes_fds=True)
        self._links[session] = link
        self._loop.add(link.fileno(), lambda events: self._ready(session, link, events))
        if peer.pidfd is not None:
            self._loop.add(peer.pidfd, lambda _events: self._core.reception.end(session, "its process died"))

    def _ready(self, session: Session, link: LocalLink[Any], events: int) -> None:
        if events & WRITE:
            self._loop.modify(link.fileno(), READ)
            self._core.reception.unflushed.add(session)
        if not events & ~WRITE:
            return
        try:
            messages = link.receive()
        except LinkClosed:
            self._core.reception.end(session, "disconnected")
            return
        except PenstockError as error:
            self._core.reception.bad_messages += 1
            self._core.reception.refuse(session, None, error)
            with suppress(LinkClosed):  # it does not want to know
                link.flush()
            self._core.reception.end(session, error.message)
            return
        self._core.reception.receive(session, messages)

    def wait_for_room(self, session: Session, _now_ns: int) -> None:
        """Watches for room instead of for requests."""
        self._loop.modify(self._links[session].fileno(), WRITE)

    def forget(self, session: Session) -> None:
        """Stops listening to a session and to its owner's death."""
        _, pidfd = self._take_out(session)
        if pidfd >= 0:
            os.close(pidfd)

    def release(self, session: Session) -> tuple[LocalLink[Any], int]:
        """Hands the connection and its owner's pidfd over."""
        return self._take_out(session)

    def _take_out(self, session: Session) -> tuple[LocalLink[Any], int]:
        link = self._links.pop(session)
        self._loop.remove(link.fileno())
        pidfd = session.peer.pidfd if session.peer is not None and session.peer.pidfd is not None else -1
        self._loop.remove(pidfd)
        return link, pidfd

    def close(self) -> None:
        """Stops listening and removes the socket."""
        self._loop.remove(self._listener.fileno())
        self._listener.close()


class ZmqDoor:
    """A ROUTER. Owners of ipc:// sessions are watched by pidfd; tcp:// sessions live on leases."""

    def __init__(self, address: str, loop: EventLoop, core: Core, settings: Settings) -> None:
        self._loop = loop
        self._core = core
        self._settings = settings
        self._door: RouterDoor[Any] = RouterDoor(address, FrameDecoder(FromClient), settings.max_frame_bytes)
        self.address = self._door.address
        self._sessions: dict[RouterPeer[Any], Session] = {}
        self._peers: dict[Session, RouterPeer[Any]] = {}
        self._full: set[Session] = set()
        #: sessions whose owner cannot be watched
        self._leased: set[Session] = set()
        self._retry_ns: int | None = None
        self._farewells = Farewells(self._door.send)
        self._more = False  # the last read returned something: only one that returns nothing has read everything
        loop.add(self._door.fileno(), self._readable)

    def __repr__(self) -> str:
        return f"<ZmqDoor {self.address} {len(self._peers)} sessions, {len(self._full)} full>"

    def has(self, session: Session) -> bool:
        """Whether the session came in here."""
        return session in self._peers

    def _readable(self, _events: int) -> None:
        self._read()

    def _read(self) -> bool:
        """Reads what is there, bounded; the descriptor is edge-triggered, so `read_more` looks again."""
        arrived = self._door.receive()
        self._more = bool(arrived)
        for peer, messages in arrived:
            if peer.closed:
                continue  # it said goodbye, or was ended, earlier in this very read
            session = self._sessions.get(peer)
            if session is None:
                session = self._welcome(peer)
            self._core.reception.receive(session, messages)
        return bool(arrived)

    def _welcome(self, peer: RouterPeer[Any]) -> Session:
        session = self._core.reception.open(peer, peer.peer, takes_fds=False)
        self._sessions[peer] = session
        self._peers[session] = peer
        if peer.peer is None:
            self._leased.add(session)
        elif peer.peer.pidfd is not None:
            self._loop.add(peer.peer.pidfd, lambda _events: self._core.reception.end(session, "its process died"))
        return session

    def read_more(self, now_ns: int) -> bool:
        """Picks up what arrived meanwhile, and tries full peers again. True when something had arrived."""
        if self._retry_ns is not None and now_ns >= self._retry_ns:
            self._retry_ns = None
            self._core.reception.unflushed.update(self._full)
            self._full.clear()
        if self._farewells.due_ns is not None and now_ns >= self._farewells.due_ns:
            self._farewells.say(now_ns, {peer.routing_id for session, peer in self._peers.items() if session.greeted})
        return self._read() if self._peers or self._more else False

    def wait_for_room(self, session: Session, now_ns: int) -> None:
        """Tries again in RETRY_NS."""
        self._full.add(session)
        if self._retry_ns is None:
            self._retry_ns = now_ns + RETRY_NS

    def wake_ns(self, next_sweep_ns: int) -> int | None:
        """When this door must be looked at although nothing happens; None: no need."""
        wake_ns, farewell_ns = self._retry_ns, self._farewells.due_ns
        if self._leased and (wake_ns is None or next_sweep_ns < wake_ns):
            wake_ns = next_sweep_ns
        if farewell_ns is not None and (wake_ns is None or farewell_ns < wake_ns):
            wake_ns = farewell_ns
        return wake_ns

    def forget(self, session: Session) -> None:
        """Stops listening to a session and to its owner's death."""
        peer = self._peers.pop(session)
        del self._sessions[peer]
        self._full.discard(session)
        self._leased.discard(session)
        if session.peer is not None and session.peer.pidfd is not None:
            self._loop.remove(session.peer.pidfd)
            os.close(session.peer.pidfd)
        if session.expelled:
            self._farewells.add(peer.routing_id, session.expelled)

    def sweep(self, now_ns: int, stalled_ns: int) -> None:
        """Ends the sessions whose lease is over."""
        limit_ns = int(self._settings.lease_s * 1e9)
        for session in list(self._leased):
            session.heard_ns = min(now_ns, session.heard_ns + stalled_ns)
            if now_ns - session.heard_ns > limit_ns:
                self._core.reception.expel(session, f"not heard of for {self._settings.lease_s:g} s")

    def close(self) -> None:
        """Unbinds."""
        self._loop.remove(self._door.fileno())
        self._door.close()
