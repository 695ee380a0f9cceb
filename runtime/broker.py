# SPDX-License-Identifier: Apache-2.0
"""The broker process: one thread, one epoll, around the core.

    unix listener --accept--> local link --+                        +-- socketpair --> worker
    ZeroMQ router ----------> router peer -+--> Core (core.py) ---->+-- ...
    pidfds of clients and workers, signals, workers' output, the helper thread: all in the same epoll

Each turn: read what is readable (at most one buffer per socket), feed the core, do what has become due, flush.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..ipc.addresses import parse_address
from ..ipc.errors import BrokerError
from ..ipc.processes import allow_descriptors
from .adjustments import remove_old_traces
from .aside import HelperThread, Then
from .core import Core
from .doors import Door, LocalDoor, ZmqDoor
from .draining import drain
from .event_loop import EventLoop
from .gateways import GatewayProcess
from .instances import Instance, WorkerProcess
from .mps.watched import WatchedMps
from .processes import AttachedWorker
from .repository.jobs import Job
from .sessions import Session
from .settings import Settings
from .signals import StopSignals
from .watched import WatchedWorkers
from .watched_gateways import WatchedGateways

if TYPE_CHECKING:
    from .metrics.door import MetricsDoor

log = logging.getLogger("penstock.broker")

NS = 1_000_000_000
SWEEP_NS = NS
"""How often leases are looked at, where there are any. A longer gap means that the broker itself was stalled."""
SWITCH_S = 0.0005
"""How long the loop may have to wait for the helper thread to give up the interpreter lock; Python's own default is 5 ms."""
STALLED_NS = NS // 20
"""A deadline missed by more than this means the same. epoll_wait, interrupted by SIGCONT, may then have reported nothing."""


class Broker:
    """Runs one broker until it is told to stop."""

    def __init__(self, settings: Settings, on_settled: Callable[[Broker], None] | None = None) -> None:
        self.settings = settings
        self._on_settled = on_settled  # called once, from the loop, when every model is loaded or has failed to be
        self._loop = EventLoop()
        self._workers = WatchedWorkers(self._loop)
        self._core = Core(settings, self, time.monotonic_ns)
        self._workers.serve(self._core)
        self._mps = WatchedMps(self._loop)
        self._mps.serve(self._core)
        self.gateways = WatchedGateways(self._loop, settings)
        self.gateways.serve(self._core)
        self._doors: list[Door] = []
        self._zmq_doors: list[ZmqDoor] = []  # those of them that need looking after in every turn
        self.metrics: MetricsDoor | None = None
        self._helper = HelperThread(self._loop)
        self._swept_ns = time.monotonic_ns()
        self._due_ns: int | None = None  # when the core wants a tick
        self._again = False  # a door had more to read than one turn takes

    def __repr__(self) -> str:
        return f"<Broker {[door.address for door in self._doors]} {self._core!r}>"

    # --- the process -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Binds, serves, and on SIGTERM, SIGINT or a stop query drains and leaves. Raises BrokerError when it cannot bind."""
        _prepare_process()
        with StopSignals(self._loop, self._stop):
            try:
                self._open_doors()
                self._remove_old_traces()
                self._core.start()
                self._settle()
                while not self._core.stopping:
                    self._turn(None)
                drain(self._core, self._turn, self._flush, self.gateways.stop_accepting)
            finally:
                self._close()

    def stop(self) -> None:
        """Makes `run` drain and leave, as the first signal does. To be called from the loop's thread."""
        self._core.stopping = True

    @property
    def addresses(self) -> list[str]:
        """Where it listens; a tcp port 0 is resolved."""
        return [door.address for door in self._doors]

    def index(self) -> list[dict[str, Any]]:
        """Triton's repository index: name, version, state and reason of every model version."""
        return self._core.models.summary()

    def _settle(self) -> None:
        """Serves until every model is loaded or has failed to be, then says so."""
        while not self._core.stopping and not self._core.is_settled():
            self._turn(None)
        if self._on_settled is not None and not self._core.stopping:
            self._on_settled(self)

    def _open_doors(self) -> None:
        for text in self.settings.addresses:
            kind, target = parse_address(text)
            door: LocalDoor | ZmqDoor
            if kind == "local":
                door = LocalDoor(target, self._loop, self._core, self.settings)
            else:
                door = ZmqDoor(target, self._loop, self._core, self.settings)
                self._zmq_doors.append(door)
            self._doors.append(door)
            log.info("listening on %s", door.address)
        self.metrics = _metrics_door(self.settings, self._loop, self._core)
        self.gateways.open_ports()

    def _remove_old_traces(self) -> None:
        file = self.settings.trace.trace_file
        try:
            if file:
                remove_old_traces(file)
        except OSError as error:
            raise BrokerError(f"old traces at {file} cannot be removed: {error.strerror}") from error

    def _turn(self, until_ns: int | None) -> None:
        """One round of the loop; waits at most until `until_ns`."""
        core = self._core
        self._loop.turn(self._patience_s(until_ns))
        now = time.monotonic_ns()
        if self._due_ns is not None and self._due_ns <= now:
            if now - self._due_ns > STALLED_NS:
                self._loop.turn(0.0)  # what came while this process did not run came in time
            core.tick(now)
        if now - self._swept_ns >= SWEEP_NS:
            self._sweep(now)
        self._again = False
        for door in self._zmq_doors:
            door.read_more(now)
        self._flush(now)
        for door in self._zmq_doors:  # flushing may have swallowed the edge that announced more to read
            self._again |= door.read_more(now)
        self._due_ns = core.next_deadline()

    def _patience_s(self, until_ns: int | None) -> float:
        """How long the loop may wait for something to happen; -1: for ever."""
        if self._again:
            return 0.0
        due_ns = self._due_ns
        if until_ns is not None:
            due_ns = until_ns if due_ns is None else min(due_ns, until_ns)
        for door in self._zmq_doors:
            wake_ns = door.wake_ns(self._swept_ns + SWEEP_NS)
            if wake_ns is not None:
                due_ns = wake_ns if due_ns is None else min(due_ns, wake_ns)
        return -1.0 if due_ns is None else max(0.0, (due_ns - time.monotonic_ns()) / NS)

    def _flush(self, now_ns: int) -> None:
        full_sessions, full_instances = self._core.flush()
        for session in full_sessions:
            self._door_of(session).wait_for_room(session, now_ns)
        for instance in full_instances:
            self._workers.wait_for_room(instance)

    def _sweep(self, now_ns: int) -> None:
        """Leases. Time in which this process itself did not run is not held against anybody."""
        stalled_ns = now_ns - self._swept_ns - SWEEP_NS
        self._swept_ns = now_ns
        for door in self._zmq_doors:
            door.sweep(now_ns, stalled_ns)

    def _stop(self) -> None:
        if self._core.stopping:  # the second signal: no more patience
            self._core.gateways.kill()
            self._core.fleet.kill("broker was told to stop twice")
        self._core.stopping = True

    def _close(self) -> None:
        self._core.gateways.stop()
        self.gateways.close()
        self._core.fleet.kill("the broker is leaving")
        for instance in list(self._core.fleet.instances.values()):
            self._workers.exited(instance)
        self._mps.close()
        self._core.flush()
        for session in list(self._core.reception.sessions.values()):
            self._core.reception.end(session, "the broker is leaving")
        for door in self._doors:
            door.close()
        if self.metrics:
            self.metrics.close()
        self._core.loads.close()
        self._helper.close()
        self._loop.close()
        log.info("stopped")

    # --- Host: what the core asks of its surroundings --------------------------------------------------------------------

    def launch(self, name: str, environment: Mapping[str, str]) -> WorkerProcess:
        """Starts a worker."""
        return self._workers.launch(name, environment)

    def launch_gateway(self, number: int) -> GatewayProcess:
        """Starts a gateway."""
        return self.gateways.launch(number)

    def lose_gateway(self, number: int) -> None:
        """Has nobody wait for a gateway."""
        self.gateways.refuse(number)

    def start_mps(self) -> None:
        """Starts an MPS daemon."""
        self._mps.start()

    def adopt(self, session: Session) -> WorkerProcess:
        """Takes a local connection out of its door and makes a worker of it."""
        door = self._door_of(session)
        assert isinstance(door, LocalDoor) and session.peer is not None
        link, pidfd = door.release(session)
        return AttachedWorker(link, session.peer, pidfd)

    def watch(self, instance: Instance) -> None:
        """Listens to a worker."""
        self._workers.watch(instance)

    def run_aside(self, job: Job, then: Then) -> None:
        """Has a job done in the helper thread."""
        self._helper.run(job, then)

    def forget(self, session: Session) -> None:
        """Stops listening to a client."""
        self._door_of(session).forget(session)

    def _door_of(self, session: Session) -> Door:
        return next(door for door in self._doors if door.has(session))


def _metrics_door(settings: Settings, loop: EventLoop, core: Core) -> MetricsDoor | None:
    if settings.metrics_port < 0:
        return None
    from .metrics.door import MetricsDoor  # and with it http.server, which nothing else needs

    door = MetricsDoor(settings.metrics_host, settings.metrics_port, loop, core.reception.queries.exposed)
    log.info("metrics at %s", door.address)
    return door


def _prepare_process() -> None:
    """A descriptor per region and two per client; and the interpreter lock soon again while the helper thread reads a model."""
    sys.setswitchinterval(SWITCH_S)
    allow_descriptors()
