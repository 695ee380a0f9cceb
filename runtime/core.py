# SPDX-License-Identifier: Apache-2.0
"""The broker without its sockets: messages in, messages out, time as a function.

Everything a client or a worker says comes in here as a message; what must be said in return is put into the links, which the
event loop (broker.py) flushes once its inbox is drained. With scripted links and a clock of its own a test drives the whole
broker in one process.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any, Callable, Sequence

from ..ipc.codec import BadMessage
from ..ipc.errors import BrokerError, CallerError, Code, MachineError, PenstockError, invalid
from ..ipc.local import LinkClosed
from ..ipc.messages import (
    PROTOCOL,
    Answer,
    BatchDone,
    Cancel,
    Done,
    Failed,
    Goodbye,
    Hello,
    Infer,
    Loaded,
    LoadFailed,
    Message,
    Ping,
    Pong,
    Query,
    Ready,
    Register,
    Unregister,
    Welcome,
)
from ..ipc.peers import Peer
from .admission import admit, register
from .delivery import Delivery
from .fleet import Fleet
from .host import Host
from .instances import Instance
from .models import ModelState, ModelTable
from .queries import Queries
from .regions import RegionRegistry
from .scheduling.commands import AnyCommand
from .scheduling.events import AnyEvent, ArrivedTogether, BatchEnded, Cancelled, ModelDown, SessionEnded, Tick
from .scheduling.requests import Request
from .scheduling.scheduler import Scheduler
from .sessions import Link, Session
from .settings import Settings

if TYPE_CHECKING:
    from .repository.directory import ScanResult

log = logging.getLogger("penstock.broker")


class Core:
    """One broker: its sessions, regions, models, instances and the scheduler, wired together."""

    def __init__(self, settings: Settings, host: Host, clock: Callable[[], int]) -> None:
        self.settings = settings
        self.clock = clock
        self.identity = os.urandom(16)  # fresh per start: a client that meets another one registers its regions again
        self.regions = RegionRegistry()
        self.models = ModelTable()
        self.scheduler = Scheduler()
        self.fleet = Fleet(settings, host, self.regions, self.feed, clock)
        #: number -> session that has not ended
        self.sessions: dict[int, Session] = {}
        #: sessions that have messages to be flushed
        self.unflushed: set[Session] = set()
        self.delivery = Delivery(self.models, self.regions, self.fleet, self.unflushed, clock)
        self.queries = Queries(self)
        self.stopping = False
        self.loading = True  # until the repositories have been read
        self.bad_messages = 0
        #: accepted requests that the scheduler has not been told of yet
        self._arrived: list[Request] = []
        self._host = host
        self._session_count = 0
        self._request_count = 0
        self._client_handlers: dict[type, Callable[[Session, Any], None]] = {
            Infer: self._infer,
            Cancel: self._cancel,
            Register: self._register,
            Unregister: self._unregister,
            Query: self._query,
            Ping: self._ping,
            Hello: self._hello,
            Goodbye: self._goodbye,
        }
        self._worker_handlers: dict[type, Callable[[Instance, Any], None]] = {
            BatchDone: self._batch_done,
            Loaded: self.fleet.loaded,
            LoadFailed: self.fleet.load_failed,
            Ready: self.fleet.ready,
        }

    def __repr__(self) -> str:
        return f"<Core {len(self.sessions)} sessions, {self.regions!r}, {self.models!r}, {self.fleet!r}>"

    def check_invariants(self) -> None:
        """Checks every part, and what they say of each other."""
        self.scheduler.check_invariants()
        self.regions.check_invariants()
        self.models.check_invariants()
        self.fleet.check_invariants()
        named = {region.number for session in self.sessions.values() for region in session.regions}
        used: dict[int, int] = {}
        for session in self.sessions.values():
            for request in session.in_flight.values():
                for region in request.binding.regions:
                    used[region.number] = used.get(region.number, 0) + 1
        for region in self.regions:
            assert region.closing or region.number in named, f"{region} belongs to nobody"
            assert region.in_flight >= used.get(region.number, 0), region

    # --- sessions --------------------------------------------------------------------------------------------------------

    def open_session(self, link: Link, peer: Peer | None, takes_fds: bool) -> Session:
        """A connection was made. It must say Hello before anything else."""
        self._session_count += 1
        session = Session(self._session_count, link, peer, takes_fds, self.clock())
        self.sessions[session.number] = session
        return session

    def end_session(self, session: Session, why: str) -> None:
        """The client is gone or must go: its queued work is dropped, its memory goes as soon as no worker uses it."""
        if session.ended:
            return
        session.ended = True
        log.info("session %d (%s): ended: %s", session.number, session.name or "client", why)
        del self.sessions[session.number]
        self.unflushed.discard(session)
        session.bindings.clear()
        self.feed(SessionEnded(session.number))
        for region in session.regions.take(""):
            self.fleet.unflushed.update(self.regions.retire(region))
        self._host.forget(session)
        session.link.close()

    def receive(self, session: Session, messages: Sequence[Any]) -> None:
        """Carries out what a client said, in order."""
        session.heard_ns = self.clock()
        handlers = self._client_handlers
        for message in messages:
            handler = handlers.get(type(message), self._unexpected)
            try:
                handler(session, message)
            except _UnaddressedError as error:
                self.refuse(session, None, error)
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
        """Answers a message that could not be carried out."""
        if not session.ended:
            self.send(session, Failed(error.code.value, error.message, error.fault, message_id))

    def _unexpected(self, session: Session, message: Any) -> None:
        self.bad_messages += 1
        if isinstance(message, BadMessage):
            for fd in session.link.take_fds(message.fds):
                os.close(fd)
            session.link.take_parts(message.parts)
            raise invalid(f"malformed message: {message.reason}")
        raise invalid(f"a client does not send {type(message).__name__}")

    def _hello(self, session: Session, message: Hello) -> None:
        if session.greeted:
            raise invalid("this session has already said Hello")
        if message.protocol != PROTOCOL:
            raise BrokerError(f"this broker speaks protocol {PROTOCOL}, not {message.protocol}", Code.UNSUPPORTED)
        session.greeted = True
        session.name = message.name
        if message.role == "worker":
            self._attach(session, message)
            return
        remote = session.peer is None
        self.send(
            session,
            Welcome(
                self.identity, os.getpid(), self.settings.max_in_flight, self.settings.max_frame_bytes,
                inline_only=remote, lease_s=self.settings.lease_s if remote else 0.0,
            ),
        )  # fmt: skip

    def _attach(self, session: Session, message: Hello) -> None:
        if not session.takes_fds:
            raise CallerError("a worker attaches over the local link only", Code.UNSUPPORTED)
        if session.peer is None or session.peer.uid != os.geteuid():
            raise invalid(f"a worker must run as uid {os.geteuid()}, the broker's own")
        model = self.models.find(message.name, -1)
        del self.sessions[session.number]
        session.ended = True
        self.fleet.attach(self._host.adopt(session), model)

    def _goodbye(self, session: Session, _message: Goodbye) -> None:
        self.end_session(session, "said goodbye")

    def _ping(self, session: Session, _message: Ping) -> None:
        self.send(session, Pong())

    def _register(self, session: Session, message: Register) -> None:
        fds = session.link.take_fds(message.fds)
        try:
            _require_greeting(session)
            register(self.regions, session, message, fds)
        finally:
            for fd in fds:
                os.close(fd)
        self.send(session, Done(message.id))

    def _unregister(self, session: Session, message: Unregister) -> None:
        session.bindings.clear()
        for region in session.regions.take(message.name):
            self.fleet.unflushed.update(self.regions.retire(region))
        self.send(session, Done(message.id))

    def _query(self, session: Session, message: Query) -> None:
        _require_greeting(session)
        self.send(session, Answer(message.id, self.queries.answer(session, message)))

    # --- inference -------------------------------------------------------------------------------------------------------

    def _infer(self, session: Session, message: Infer) -> None:
        now = self.clock()
        parts = session.link.take_parts(message.parts) if message.parts else ()
        if message.id in session.in_flight:
            raise _UnaddressedError(f"request id {message.id} is already in flight in this session")
        _require_greeting(session)
        if self.stopping:
            raise BrokerError("the broker is stopping and takes no more requests", Code.UNAVAILABLE)
        if len(session.in_flight) >= self.settings.max_in_flight:
            raise BrokerError(f"{len(session.in_flight)} requests are in flight, the limit per session", Code.OVERLOADED)
        self._request_count += 1
        request = admit(self.regions, self.models, session, message, parts, self._request_count, now)
        session.in_flight[message.id] = request
        self._arrived.append(request)

    def _cancel(self, session: Session, message: Cancel) -> None:
        request = session.in_flight.get(message.id)
        if request is not None:  # else it already has ended, and its outcome is on its way
            self.feed(Cancelled(request.number))

    def feed(self, event: AnyEvent) -> None:
        """Hands one event to the scheduler, after all that came before it, and carries out what it commands."""
        self._settle()
        self.carry_out(self.scheduler.handle(event, self.clock()))

    def _settle(self) -> None:
        """Requests read in one go reach the scheduler in one go: what is there together can be batched together."""
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self.carry_out(self.scheduler.handle(ArrivedTogether(arrived), self.clock()))

    def carry_out(self, commands: Sequence[AnyCommand]) -> None:
        """Turns the scheduler's commands into messages."""
        for command in commands:
            self.delivery.carry_out(command)

    # --- workers ---------------------------------------------------------------------------------------------------------

    def receive_from_worker(self, instance: Instance, messages: Sequence[Any]) -> None:
        """Carries out what a worker said. A worker that breaks the protocol is replaced."""
        for message in messages:
            handler = self._worker_handlers.get(type(message))
            if handler is None:
                instance.kill(f"worker broke the protocol: {message!r:.200}")
                return
            handler(instance, message)

    def _batch_done(self, instance: Instance, message: BatchDone) -> None:
        fds = instance.link.take_fds(message.fds) if message.fds else []
        self._settle()
        now = self.clock()
        commands = self.scheduler.handle(BatchEnded(instance.number, message.batch), now)
        try:
            self.delivery.batch_done(commands, message, fds, now)
        finally:
            for fd in fds:
                os.close(fd)

    def worker_exited(self, instance: Instance) -> None:
        """The process is dead and its socket drained."""
        self.fleet.exited(instance)

    # --- models ----------------------------------------------------------------------------------------------------------

    def serve(self, found: ScanResult) -> None:
        """Takes in what was read from the repositories, and starts workers where it is this broker's job."""
        self.loading = False
        for name, reason in found.failures.items():
            log.error("model %s: %s", name, reason)
        self.models.failures.update(found.failures)
        for source in found.sources:
            for warning in source.config.warnings:
                log.warning("model %s: %s", source.name, warning)
            for version in source.versions:
                model = self.models.add(source.config, version, str(source.directory / str(version)))
                if self.settings.spawn_workers:
                    self.fleet.serve(model)
        for session in self.sessions.values():
            session.bindings.clear()  # they may be about another version of the same name

    def abandon(self, why: str) -> None:
        """Fails what waits for an instance; what runs may still end by itself."""
        for model in self.models:
            if model.accepts:
                model.become(ModelState.UNAVAILABLE, why)
                self.feed(ModelDown(model.number, why))

    # --- time and flushing -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When `tick` must be called at the latest, in the clock's ns; None: no need."""
        times = [at for at in (self.scheduler.next_deadline(), self.fleet.next_deadline()) if at is not None]
        return min(times, default=None)

    def tick(self, now_ns: int) -> None:
        """Does what has become due."""
        self.carry_out(self.scheduler.handle(Tick(), now_ns))
        self.fleet.tick(now_ns)

    def flush(self) -> tuple[list[Session], list[Instance]]:
        """Sends what is queued. Returns those whose sockets are full, to be tried again when there is room."""
        self._settle()
        full_instances: list[Instance] = []
        while self.fleet.unflushed:
            instance = self.fleet.unflushed.pop()
            try:
                if not instance.link.flush():
                    full_instances.append(instance)
            except LinkClosed:
                instance.hung_up()
        full_sessions: list[Session] = []
        while self.unflushed:
            session = self.unflushed.pop()
            try:
                if session.link.flush():
                    continue
            except LinkClosed:
                self.end_session(session, "connection lost")
                continue
            if session.link.backlog > self.settings.max_reply_backlog_bytes:
                self.end_session(session, f"does not read its replies: {session.link.backlog} bytes are waiting")
            else:
                full_sessions.append(session)
        return full_sessions, full_instances

    def is_settled(self) -> bool:
        """Whether the repositories have been read and each model whose workers this broker starts has been loaded, or given up."""
        if self.loading:
            return False
        return not self.settings.spawn_workers or all(model.state is not ModelState.LOADING for model in self.models)

    def is_idle(self) -> bool:
        """Whether no accepted request waits for an outcome or a release."""
        return not any(session.in_flight for session in self.sessions.values())


class _UnaddressedError(CallerError):
    """An error that must not be taken for the outcome of another request with the same id."""


def _require_greeting(session: Session) -> None:
    if not session.greeted:
        raise BrokerError("say Hello first", Code.INVALID_ARG)


def machine_error(error: OSError) -> MachineError:
    """What the operating system refused, in one sentence."""
    name = errno.errorcode.get(error.errno or 0, "?")
    return MachineError(f"the machine refused: {error.strerror or error} ({name})")
