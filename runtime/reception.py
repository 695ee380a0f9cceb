# SPDX-License-Identifier: Apache-2.0
"""Where clients are received: their sessions, from Hello to the end, and each thing they may say."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..ipc.codec import BadMessage
from ..ipc.errors import BrokerError, CallerError, Code, MachineError, PenstockError, invalid
from ..ipc.messages import (
    PROTOCOL,
    Adjust,
    Answer,
    Cancel,
    Failed,
    Goodbye,
    Hello,
    Infer,
    Load,
    Message,
    Ping,
    Pong,
    Query,
    Register,
    Unload,
    Unregister,
    Welcome,
)
from ..ipc.peers import Peer
from .admission import admit
from .control import Control
from .queries import Queries
from .registrations import Registrations
from .scheduling.events import Cancelled, SessionEnded
from .sessions import Link, Session, require_greeting

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("penstock.broker")


class Reception:
    """The sessions of one broker. What they hold is given back when they end."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.queries = Queries(core)
        self._control = Control(core)
        registrations = Registrations(core)
        self._settings = core.settings
        self._session_count = 0
        self._request_count = 0
        self.bad_messages = 0
        #: number -> session that has not ended
        self.sessions: dict[int, Session] = {}
        #: sessions that have messages to be flushed
        self.unflushed: set[Session] = set()
        self._handlers: dict[type, Callable[[Session, Any], None]] = {
            Infer: self._infer,
            Cancel: self._cancel,
            Register: registrations.register,
            Unregister: registrations.unregister,
            Query: self._query,
            Load: self._load,
            Unload: self._unload,
            Adjust: core.adjustments.adjust,
            Ping: self._ping,
            Hello: self._hello,
            Goodbye: self._goodbye,
        }

    def __repr__(self) -> str:
        return f"<Reception {len(self.sessions)} sessions, {self.bad_messages} bad messages>"

    def check_invariants(self) -> None:
        """Only living sessions are listed."""
        assert all(session.number == number and not session.ended for number, session in self.sessions.items()), self
        assert self.unflushed <= set(self.sessions.values()), self

    # --- sessions --------------------------------------------------------------------------------------------------------

    def open(self, link: Link, peer: Peer | None, takes_fds: bool) -> Session:
        """A connection was made. It must say Hello before anything else."""
        self._session_count += 1
        session = Session(self._session_count, link, peer, takes_fds, self._core.clock())
        self.sessions[session.number] = session
        return session

    def end(self, session: Session, why: str) -> None:
        """The client is gone or must go: its queued work is dropped, its memory goes as soon as no worker uses it."""
        if session.ended:
            return
        session.ended = True
        log.info("session %d (%s): ended: %s", session.number, session.name or "client", why)
        del self.sessions[session.number]
        self.unflushed.discard(session)
        session.bindings.clear()
        self._core.feed(SessionEnded(session.number))
        for region in session.regions.take(""):
            self._core.fleet.unflushed.update(self._core.regions.retire(region))
        self._core.host.forget(session)
        self._core.traces.forget(session)
        session.link.close()

    def expel(self, session: Session, why: str) -> None:
        """The broker ends the session of a client that may well live on, and must learn of it."""
        session.expelled = why
        self.end(session, why)

    def receive(self, session: Session, messages: Sequence[Any]) -> None:
        """Carries out what a client said, in order."""
        session.heard_ns = self._core.clock()
        handlers = self._handlers
        for message in messages:
            handler = handlers.get(type(message), self._unexpected)
            try:
                handler(session, message)
            except PenstockError as error:
                self.refuse(session, getattr(message, "id", None), error)
            except OSError as error:
                self.refuse(session, getattr(message, "id", None), machine_error(error))
            if session.ended:
                return

    def send(self, session: Session, message: Message) -> None:
        """Queues one message for a client."""
        session.link.put(message)
        self.unflushed.add(session)

    def refuse(self, session: Session, message_id: int | None, error: PenstockError) -> None:
        """Answers a message that could not be carried out; without its id where that would seem another request's outcome."""
        if not session.ended:
            answered = None if message_id in session.in_flight else message_id
            self.send(session, Failed(error.code.value, error.message, error.fault, answered))

    def _unexpected(self, session: Session, message: Any) -> None:
        self.bad_messages += 1
        is_bad = isinstance(message, BadMessage)
        wrong = f"malformed message: {message.reason}" if is_bad else f"a client does not send {type(message).__name__}"
        try:
            _drop(session.link, getattr(message, "fds", 0), getattr(message, "parts", 0))
        except CallerError as error:
            raise invalid(f"{wrong}; {error.message}") from error
        raise invalid(wrong)

    def _hello(self, session: Session, message: Hello) -> None:
        if session.greeted:
            raise invalid("this session has already said Hello")
        if message.protocol != PROTOCOL:
            raise BrokerError(f"this broker speaks protocol {PROTOCOL}, not {message.protocol}", Code.UNSUPPORTED)
        session.name = message.name
        if message.role == "worker":
            self._attach(session, message)
            return
        session.greeted = True
        remote = session.peer is None
        self.send(
            session,
            Welcome(
                self._core.identity, os.getpid(), self._settings.max_in_flight, self._settings.max_frame_bytes,
                inline_only=remote, lease_s=self._settings.lease_s if remote else 0.0,
            ),
        )  # fmt: skip

    def _attach(self, session: Session, message: Hello) -> None:
        if not session.takes_fds:
            raise CallerError("a worker attaches over the local link only", Code.UNSUPPORTED)
        if session.peer is None or session.peer.uid != os.geteuid():
            raise invalid(f"a worker must run as uid {os.geteuid()}, the broker's own")
        model = self._core.models.find(message.name, -1)
        self._core.fleet.refuse_unrunnable(model)
        del self.sessions[session.number]
        session.ended = True
        self._core.fleet.attach(self._core.host.adopt(session), model)

    def _goodbye(self, session: Session, _message: Goodbye) -> None:
        self.end(session, "said goodbye")

    def _ping(self, session: Session, _message: Ping) -> None:
        require_greeting(session)  # so a client whose lease is over learns of it
        self.send(session, Pong())

    def _query(self, session: Session, message: Query) -> None:
        require_greeting(session)
        self.send(session, Answer(message.id, self.queries.answer(session, message)))

    def _load(self, session: Session, message: Load) -> None:
        fds = session.link.take_fds(message.fds)
        try:
            parts = session.link.take_parts(message.parts)
            require_greeting(session)
            self._control.load(session, message, fds, parts)
        finally:
            for fd in fds:
                os.close(fd)

    def _unload(self, session: Session, message: Unload) -> None:
        require_greeting(session)
        self._control.unload(session, message)

    # --- inference -------------------------------------------------------------------------------------------------------

    def _infer(self, session: Session, message: Infer) -> None:
        now = self._core.clock()
        parts = session.link.take_parts(message.parts) if message.parts else ()
        if message.id in session.in_flight:
            raise invalid(f"request id {message.id} is already in flight in this session")
        require_greeting(session)
        if self._core.stopping and not self._core.gateways.has(session):  # its own finish what they have accepted
            raise BrokerError("the broker is stopping and takes no more requests", Code.UNAVAILABLE)
        if len(session.in_flight) >= self._settings.max_in_flight:
            raise BrokerError(f"{len(session.in_flight)} requests are in flight, the limit per session", Code.OVERLOADED)
        self._request_count += 1
        request = admit(
            self._core.regions, self._core.shared, self._core.models, session, message, parts, self._request_count, now
        )
        if request.binding.plan is not None and self._core.answered(request):
            return
        session.in_flight[message.id] = request
        self._core.arrived.append(request)

    def _cancel(self, session: Session, message: Cancel) -> None:
        request = session.in_flight.get(message.id)
        if request is not None:  # else it already has ended, and its outcome is on its way
            self._core.feed(Cancelled(request.number))


def _drop(link: Link, fds: int, parts: int) -> None:
    """Takes what a message brings that nobody wants, so that the next one gets its own."""
    try:
        for fd in link.take_fds(fds):
            os.close(fd)
    finally:
        link.take_parts(parts)


def machine_error(error: OSError) -> MachineError:
    """What the operating system refused, in one sentence."""
    name = errno.errorcode.get(error.errno or 0, "?")
    return MachineError(f"the machine refused: {error.strerror or error} ({name})")
