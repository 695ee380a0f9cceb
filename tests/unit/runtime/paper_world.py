# SPDX-License-Identifier: Apache-2.0
"""Workers and clients on paper, around a ScriptedBroker: each remembers what it was told, and insists on what it was promised.

A worker: no region twice, no batch before it is ready, none that touches memory which it has not, or which lies on another GPU;
and that it is told to go when it has nothing left to do. What it may have begun when it dies, no other worker does again.
A client: one answer to everything it asked; of a request one outcome and one release, and no release while a worker may still
touch its memory; no answer to Unregister while a worker has the memory open.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import msgspec
from scripted import ScriptedBroker, ScriptedProcess, link_of

from penstock.ipc.messages import (
    Batch,
    BatchDone,
    Done,
    Failed,
    LoadModel,
    MapRegion,
    Message,
    Placement,
    RegionMapped,
    RegionUnmapped,
    Released,
    Result,
    Start,
    Stop,
    UnmapRegion,
)
from penstock.runtime.sessions import Session

_placements = msgspec.msgpack.Decoder(Placement)
MAX_BATCHES = 2
SLOT_BYTES = 32


class Place(NamedTuple):
    """Where a request's output is: what tells it from all others that are not over."""

    region: int
    offset: int


def uuid_of(handle: bytes) -> str:
    """The GPU of CUDA memory on paper: its handle says so."""
    return handle.rstrip(b"\0").decode()


class PaperWorker:
    """A process, as it sees itself."""

    def __init__(self, process: ScriptedProcess) -> None:
        self.process = process
        self.order: LoadModel | None = None
        self.started = False  # it was told to warm up
        self.is_ready = False
        self.stopped = False
        #: number -> handle of what it has mapped
        self.regions: dict[int, bytes] = {}
        #: lane -> batches to be answered, in order
        self.batches: dict[int, deque[Batch]] = {}
        #: what it still has to say of regions, in order
        self.reports: deque[Message] = deque()

    def __repr__(self) -> str:
        return f"<PaperWorker {self.process.name} ready {self.is_ready}, {self.batches}, {self.regions}>"

    @property
    def gpu(self) -> str:
        """The uuid of its GPU."""
        return "" if self.order is None or self.order.gpu is None else self.order.gpu.uuid

    def listen(self) -> None:
        """Takes in what it was told."""
        for message in self.process.link.take():
            self._hear(message)

    def _hear(self, message: Any) -> None:
        if isinstance(message, LoadModel):
            assert self.order is None, self
            self.order = message
        elif isinstance(message, Start):
            self.started = True
        elif isinstance(message, Stop):
            assert not any(self.batches.values()), self
            self.stopped = True
        elif isinstance(message, MapRegion):
            assert message.region not in self.regions, (self, message)
            assert bool(message.handle) != bool(message.fds), message
            assert uuid_of(message.handle) in ("", self.gpu), (self, message)
            self.regions[message.region] = message.handle
            if message.report:
                self.reports.append(RegionMapped(message.region))
        elif isinstance(message, UnmapRegion):
            del self.regions[message.region]
            assert not any(place.region == message.region for place in self.places()), (self, message)
            if message.report:
                self.reports.append(RegionUnmapped(message.region))
        else:
            self._take(message)

    def _take(self, batch: Batch) -> None:
        assert self.is_ready and not self.stopped and self.order is not None, self
        lanes = 1 if self.order.gpu is None else self.order.gpu.lanes
        assert 0 <= batch.lane < lanes, (self, batch)
        line = self.batches.setdefault(batch.lane, deque())
        line.append(batch)
        assert len(line) <= MAX_BATCHES, self
        for item in map(_placements.decode, batch.items):
            assert {piece.region for piece in (*item.inputs, *item.outputs)} <= self.regions.keys(), (self, item)

    def places(self, begun: bool = False) -> set[Place]:
        """What it may still touch, or has `begun` to: on the CPU the first batch alone, on a GPU all."""
        count = 1 if begun and not self.gpu else MAX_BATCHES
        batches = [batch for line in self.batches.values() for batch in list(line)[:count]]
        items = (_placements.decode(item) for batch in batches for item in batch.items)
        return {Place(piece.region, piece.offset) for item in items for piece in item.outputs}

    def answer(self, lane: int, now_ns: int, **fields: Any) -> BatchDone:
        """Its report on the first batch of a lane."""
        batch = self.batches[lane].popleft()
        return BatchDone(batch.batch, now_ns, 10, 20, 30, lane=lane, **fields)


class Ask:
    """Something that a client asked for. A request has a place, and holds it until it is released."""

    def __init__(self, place: Place | None = None, numbers: frozenset[int] = frozenset()) -> None:
        self.place = place
        self.numbers = numbers  # of an Unregister: the CUDA memory that it gives up
        self.outcome: Message | None = None


class PaperClient:
    """A session, as its client sees it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        #: id -> what is not over
        self.asked: dict[int, Ask] = {}

    def listen(self, world: PaperWorld) -> None:
        """Takes in what it was answered."""
        for message in link_of(self.session).take():
            ask = self.asked[message.id]
            if isinstance(message, Released):
                assert ask.outcome is not None, message
                self._over(message.id, world)
                continue
            assert isinstance(message, (Done, Failed, Result)), message
            assert ask.outcome is None, (message, ask.outcome)
            assert isinstance(message, Done) <= (ask.place is None) and isinstance(message, Result) <= (ask.place is not None)
            ask.outcome = message
            if not isinstance(message, Failed) or message.released:
                self._over(message.id, world)

    def _over(self, message_id: int, world: PaperWorld) -> None:
        ask = self.asked.pop(message_id)
        world.begun.discard(ask.place)
        for worker in world.workers:
            assert ask.place not in worker.places(), (worker, ask.place)
            assert not ask.numbers & worker.regions.keys(), (worker, ask.numbers)


class PaperWorld:
    """All workers that live and all clients that have not left."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.workers: list[PaperWorker] = []
        self.clients: list[PaperClient] = []
        #: of requests that are not over, those that a worker may have begun which is dead
        self.begun: set[Place | None] = set()
        self._seen = 0

    def listen(self) -> None:
        """One turn of the loop; then everybody reads."""
        self.broker.settle()
        while self._seen < len(self.broker.processes):
            self.workers.append(PaperWorker(self.broker.processes[self._seen]))
            self._seen += 1
        for worker in self.workers:
            worker.listen()
            assert not worker.places() & self.begun, worker
        for client in self.clients:
            client.listen(self)

    def free_place(self, region: int) -> Place:
        """One that no request has which is not over."""
        taken = {ask.place for client in self.clients for ask in client.asked.values()} | self.begun
        taken |= {place for worker in self.workers for place in worker.places()}
        return next(place for slot in range(len(taken) + 1) if (place := Place(region, slot * SLOT_BYTES)) not in taken)

    def say(self, worker: PaperWorker, message: Message) -> None:
        """A worker says something; a dead one nothing."""
        if worker in self.workers:
            instance = next(i for i in self.broker.core.fleet.instances.values() if i.process is worker.process)
            self.broker.core.receive_from_worker(instance, [message])
            self.listen()

    def bury(self, dead: PaperWorker) -> None:
        """A worker has died."""
        self.workers.remove(dead)
        self.begun |= dead.places(begun=True)
        instance = next(i for i in self.broker.core.fleet.instances.values() if i.process is dead.process)
        self.broker.core.worker_exited(instance)
        self.listen()
