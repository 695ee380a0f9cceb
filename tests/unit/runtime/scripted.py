# SPDX-License-Identifier: Apache-2.0
"""A whole broker in one process: scripted links, a scripted host, a clock that moves when told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Raw

from penstock.ipc.codec import encode
from penstock.ipc.errors import Code, MachineError, PenstockError
from penstock.ipc.gpus import Gpus
from penstock.ipc.messages import (
    Batch,
    BatchDone,
    Hello,
    Infer,
    InputTensor,
    Loaded,
    Message,
    OutputPlace,
    Ready,
    Register,
)
from penstock.ipc.peers import Peer
from penstock.ipc.regions import create_memfd
from penstock.runtime.core import Core
from penstock.runtime.gpu_survey import LookForGpus
from penstock.runtime.instances import Instance
from penstock.runtime.repository.changes import differences
from penstock.runtime.repository.configuration import parse_config
from penstock.runtime.repository.directory import ModelSource, UnknownModelError
from penstock.runtime.repository.jobs import Found, Job, OpenModel, Survey, Tell
from penstock.runtime.repository.origins import Moment, Opened, Origin
from penstock.runtime.repository.stamps import Stamps
from penstock.runtime.repository.versions import choose
from penstock.runtime.sessions import Session
from penstock.runtime.settings import Settings

CONFIG = """
name: "echo"
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
ROW_BYTES = 8
NO_GPUS = Gpus(reason="this machine has no GPU")


class ScriptedLink:
    """A link that keeps what was put into it; `has_room` false makes it a socket that is full."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.queued: list[Message] = []
        self.fds: list[int] = []
        self.has_room = True
        self.closed = False

    @property
    def backlog(self) -> int:
        return 100 * len(self.queued)

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        self.queued.append(message)

    def flush(self) -> bool:
        if self.has_room:
            self.sent += self.queued
            self.queued.clear()
        return self.has_room

    def take_fds(self, count: int) -> list[int]:
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    def take_parts(self, count: int) -> list[bytes]:
        return []

    def close(self) -> None:
        self.closed = True

    def take(self, kind: type | None = None) -> list[Any]:
        """What was sent since the last time, of one kind."""
        sent, self.sent = self.sent, []
        return [message for message in sent if kind is None or isinstance(message, kind)]


class ScriptedProcess:
    """A worker process that does what the test says."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.environment = environment
        self.link = ScriptedLink()
        self.pid = 4242
        self.killed = False

    def kill(self) -> None:
        self.killed = True

    def ends(self, within_s: float) -> bool:
        return self.killed

    def close(self) -> str:
        return "died (signal 9)" if self.killed else "exited with status 0"


class ScriptedDisk:
    """Repositories in memory. A model's stamp changes with every write."""

    def __init__(self) -> None:
        self._writes = 0
        #: name -> its configuration, stamp of what its versions share, and of each version
        self.models: dict[str, tuple[str, int, dict[int, int]]] = {}
        self.failures: dict[str, PenstockError] = {}
        self.unreadable: PenstockError | None = None  # what a survey meets
        self.told: list[tuple[str, Moment]] = []

    def write(self, text: str, *versions: int) -> None:
        """Writes a configuration, and these versions anew."""
        name = text.split('"')[1]
        _, shared, stamps = self.models.get(name, ("", 0, {}))
        self._writes += 1
        for version in versions if stamps else versions or (1,):
            stamps[version] = self._writes
        self.models[name] = text, shared, dict(stamps)

    def do(self, job: Job) -> Any:
        """What the helper thread would answer."""
        if isinstance(job, Survey):
            return self._survey(job)
        if isinstance(job, OpenModel):
            return self._open(job)
        if isinstance(job, LookForGpus):
            return job.run()
        if isinstance(job, Tell):
            self.told.append((job.origin.name, job.moment))
        return None

    def _survey(self, job: Survey) -> Any:
        if self.unreadable is not None:
            return self.unreadable
        places = {name: ("/models", self._stamps(name)) for name in self.models}
        return (
            Found(frozenset(places))
            if job.before is None
            else Found(frozenset(places), places, *differences(job.before, places))
        )

    def _open(self, job: OpenModel) -> Any:
        name = job.order.name
        if name in self.failures:
            return self.failures[name]
        if name not in self.models:
            return UnknownModelError("model not found in any model repository", Code.NOT_FOUND)
        text, _, stamps = self.models[name]
        if job.before is not None and (job.before.stamps, job.before.override) == (self._stamps(name), job.order.override):
            return None
        config = parse_config(job.order.override or text, Path("config.pbtxt"), name, placing=job.placing)
        versions, _ = choose(name, config.proto, sorted(stamps))
        return Opened(
            ModelSource(name, Path("/models") / name, config, versions), Origin(name), self._stamps(name), job.order.override
        )

    def _stamps(self, name: str) -> Stamps:
        text, shared, versions = self.models[name]
        return Stamps(text.encode(), b"%d" % shared, {number: b"%d" % stamp for number, stamp in versions.items()})


class ScriptedGateway:
    """A gateway process in the test's hands."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.is_told_to_leave = False
        self.is_killed = False

    def terminate(self) -> None:
        self.is_told_to_leave = True

    def kill(self) -> None:
        self.is_killed = True


class ScriptedBroker:
    """A core with everything around it in the test's hands."""

    def __init__(self, *configs: str, gpus: Gpus = NO_GPUS, **settings: Any) -> None:
        self.now_ns = 1_000_000_000
        self.processes: list[ScriptedProcess] = []
        self.gateways: list[ScriptedGateway] = []
        self.lost_gateways: list[int] = []
        self.forgotten: list[Session] = []
        self.core = Core(Settings(addresses=("unix:///nowhere",), **settings), self, lambda: self.now_ns)
        self.core.gpu_survey.found = gpus
        self._ids = 0
        self.disk = ScriptedDisk()
        for text in configs or (CONFIG,):
            self.disk.write(text)
        #: what is to be done aside, each with what wants the result; done at once unless `reads` is false
        self.jobs: list[tuple[Job, Callable[[Any], None]]] = []
        self.reads = True
        self.mps_starts = 0
        self.refuses: MachineError | None = None  # what the machine says to a new process
        self.core.start()
        self.core.flush()

    # --- Host ---

    def launch_gateway(self, number: int) -> ScriptedGateway:
        if self.refuses is not None:
            raise self.refuses
        process = ScriptedGateway(9000 + len(self.gateways))
        self.gateways.append(process)
        return process

    def lose_gateway(self, number: int) -> None:
        self.lost_gateways.append(number)

    def start_mps(self) -> None:
        self.mps_starts += 1

    def launch(self, name: str, environment: Mapping[str, str]) -> ScriptedProcess:
        if self.refuses is not None:
            raise self.refuses
        self.processes.append(ScriptedProcess(name, environment))
        return self.processes[-1]

    def adopt(self, session: Session) -> ScriptedProcess:
        process = ScriptedProcess(session.name, {})
        process.link = link_of(session)
        self.processes.append(process)
        return process

    def watch(self, instance: Instance) -> None:
        """The test plays the event loop."""

    def run_aside(self, job: Job, then: Callable[[Any], None]) -> None:
        self.jobs.append((job, then))
        if self.reads and len(self.jobs) == 1:  # else the job that asked for this one is not over
            self.read()

    def read(self) -> None:
        """The helper thread does what it has to do."""
        while self.jobs:
            job, then = self.jobs[0]
            result = self.disk.do(job)
            then(result)
            del self.jobs[0]

    def forget(self, session: Session) -> None:
        self.forgotten.append(session)

    # --- workers ---

    def instance(self, position: int = 0) -> Instance:
        """The instance of a launched process."""
        process = self.processes[position]
        return next(i for i in self.core.fleet.instances.values() if i.process is process)

    def start(self, *positions: int) -> None:
        """Lets workers load and become ready; all of them by default."""
        for position in positions or range(len(self.processes)):
            instance = self.instance(position)
            self.core.receive_from_worker(instance, [Loaded(pid=1)])
            self.core.receive_from_worker(instance, [Ready()])
        self.settle()
        for process in self.processes:
            process.link.take()

    def die(self, position: int = 0) -> None:
        """A worker dies by SIGKILL."""
        process = self.processes[position]
        process.killed = True
        self.core.worker_exited(self.instance(position))
        self.settle()

    def batches(self, position: int = 0) -> list[Batch]:
        """The batches a worker got since the last time."""
        found: list[Batch] = self.processes[position].link.take(Batch)
        return found

    def finish(self, batch: Batch, position: int = 0, **fields: Any) -> None:
        """The worker answers a batch."""
        report = BatchDone(batch.batch, self.now_ns, 10, 20, 30, **fields)
        self.core.receive_from_worker(self.instance(position), [report])
        self.settle()

    # --- clients ---

    def client(self) -> Session:
        """A client that has said hello and registered a region "r" of 4096 bytes."""
        session = self.core.reception.open(ScriptedLink(), Peer(os.getpid(), os.getuid(), os.getgid(), None), takes_fds=True)
        self.say(session, Hello(os.urandom(16)))
        self.register(session, "r")
        link_of(session).take()
        return session

    def register(self, session: Session, name: str, byte_size: int = 4096) -> None:
        link_of(session).fds.append(create_memfd("scripted", byte_size))
        self.say(session, Register(900, name, "memfd", byte_size, fds=1))

    def say(self, session: Session, *messages: Any) -> None:
        self.core.reception.receive(session, messages)
        self.settle()

    def end_sessions(self) -> None:
        """Every client leaves, and every invariant holds."""
        for session in list(self.core.reception.sessions.values()):
            self.core.reception.end(session, "test over")
        self.core.check_invariants()

    def infer(self, session: Session, rows: int = 1, slot: int = 0, model: str = "echo", **fields: Any) -> int:
        """One request whose input lies at slot * 512 and whose output 256 bytes behind it."""
        self._ids += 1
        inputs = [InputTensor("x", "FP32", [rows, 2], "r", slot * 512, rows * ROW_BYTES)]
        outputs = [OutputPlace("y", "r", slot * 512 + 256, rows * ROW_BYTES)]
        self.say(session, Infer(self._ids, model, Raw(encode(inputs)), Raw(encode(outputs)), **fields))
        return self._ids

    def settle(self) -> None:
        """One turn of the event loop, then every invariant."""
        due = self.core.next_deadline()
        if due is not None and due <= self.now_ns:
            self.core.tick(self.now_ns)
        self.core.flush()
        self.core.check_invariants()

    def wait(self, ms: float) -> None:
        """Time passes."""
        self.now_ns += int(ms * 1e6)
        self.settle()


def link_of(session: Session) -> ScriptedLink:
    """A session's scripted link."""
    assert isinstance(session.link, ScriptedLink)
    return session.link
