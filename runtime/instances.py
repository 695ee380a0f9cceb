# SPDX-License-Identifier: Apache-2.0
"""An instance: one worker process as the broker sees it, from launch to death; on a GPU perhaps several instances (lanes).

A restarted worker is a new Instance with the same name; numbers are never reused, so that whatever arrives late for the
old one finds nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..ipc.errors import BrokerError, Code, PenstockError
from ..ipc.messages import Message
from .scheduling.requests import NO_GPU
from .sessions import Link

if TYPE_CHECKING:
    from .models import ServedModel
    from .regions import Region
    from .repository.configuration import WorkerPlan


class InstanceState(Enum):
    """LOADING: launched. LOADED: has the model, warming up. READY: takes batches. STOPPING: told to go. DEAD: gone."""

    LOADING = "loading"
    LOADED = "loaded"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"


#: state -> states it may become. Anything may die at any time; nothing comes back from death.
TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    InstanceState.LOADING: frozenset({InstanceState.LOADED, InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.LOADED: frozenset({InstanceState.READY, InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.READY: frozenset({InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.STOPPING: frozenset({InstanceState.DEAD}),
    InstanceState.DEAD: frozenset(),
}


DYING_S = 0.05
"""The kernel closes a dying process's sockets just before it reports the death. Waiting that long (microseconds; this is the
bound) lets the error say how the worker died, and not that its socket was closed."""


class WorkerProcess(Protocol):
    """A process behind an instance: spawned (processes.py) or attached by hand."""

    @property
    def link(self) -> Link: ...
    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...
    def ends(self, within_s: float) -> bool:
        """Whether the process is dead, or is within that time. Waits for it."""
        ...

    def close(self) -> str:
        """Reaps it and closes what the broker holds of it; says how it ended, e.g. "died (signal 9)"."""
        ...


class Lane(NamedTuple):
    """One of a worker's instances, which the scheduler knows by a number of its own."""

    instance: Instance
    position: int  # among its lanes
    name: str


class Instance:
    """One worker process of one model version."""

    def __init__(self, number: int, plan: WorkerPlan, model: ServedModel, process: WorkerProcess, supervised: bool) -> None:
        self.number = number  # that of its first lane, as the scheduler knows it; the others follow
        self.plan = plan
        self.name = plan.name  # Triton's instance name, e.g. digits_0_1
        self.lanes = len(plan.instances)
        self.model = model
        self.process = process
        self.link = process.link
        self.supervised = supervised  # restarted when it dies; false for workers attached by hand
        self.state = InstanceState.LOADING
        self.verdict = ""  # why the broker killed it, if it did
        self.load_error: PenstockError | None = None  # what LoadFailed said
        self.wanted = True  # false: it is not started again
        self.blameless = False  # true: what it was ended for was no fault of its own, and is not held against it
        self.has_mps = False  # it said that it computes through an MPS daemon
        self.about: dict[str, Any] = {}  # what Ready said of how its GPU runs the model
        self.cpus: tuple[int, ...] = ()  # those that it runs on because of a host policy; none: any
        self.gpu = plan.uuid  # of the GPU whose memory it takes tensors from; "": host memory alone
        self.vacant = 0  # lanes that the scheduler has no more use for
        #: number of a region -> region that this worker has mapped
        self.mapped: dict[int, Region] = {}

    def __repr__(self) -> str:
        return (
            f"<Instance {self.number} {self.name} {self.state.value} pid {self.process.pid}, {len(self.mapped)} regions mapped>"
        )

    @property
    def is_ready(self) -> bool:
        """Whether it takes batches."""
        return self.state is InstanceState.READY

    @property
    def is_loading(self) -> bool:
        """Whether it has not been ready yet."""
        return self.state in (InstanceState.LOADING, InstanceState.LOADED)

    @property
    def is_ending(self) -> bool:
        """Whether it was told to go, or is being killed: what it says of how its start goes on comes too late."""
        return self.state is InstanceState.STOPPING or bool(self.verdict)

    def by_lane(self) -> dict[int, Lane]:
        """Its lanes by the scheduler's numbers."""
        return {self.number + index: Lane(self, index, name) for index, name in enumerate(self.plan.instances)}

    def become(self, state: InstanceState) -> None:
        """Moves along TRANSITIONS; an illegal move, which only a worker out of order can cause, raises with its story."""
        if state not in TRANSITIONS[self.state]:
            raise BrokerError(f"{self!r} cannot become {state.value}", Code.INTERNAL)
        self.state = state

    def check_invariants(self) -> None:
        """A dead worker has nothing mapped."""
        assert self.lanes >= 1 and self.vacant <= self.lanes, self
        assert self.state is not InstanceState.DEAD or not self.mapped, self

    def send(self, message: Message) -> None:
        """Queues one message for the worker."""
        self.link.put(message)

    def kill(self, verdict: str) -> None:
        """Ends the process at once; its death arrives as any other."""
        if not self.verdict:
            self.verdict = verdict
        self.process.kill()

    def hung_up(self) -> None:
        """Its socket is closed: on its way out if it was told to stop, else dead in a moment, or of no more use."""
        if self.state is not InstanceState.STOPPING and not self.process.ends(DYING_S):
            self.kill("worker closed its socket")

    def describe(self) -> dict[str, object]:
        """The instance as `penstock status` shows it."""
        return {
            "instance": self.name,
            "lanes": list(self.plan.instances),
            "model": self.model.name,
            "version": self.model.version,
            "state": self.state.value,
            "pid": self.process.pid,
            "regions_mapped": len(self.mapped),
            "gpu": None if self.plan.gpu == NO_GPU else {"ordinal": self.plan.gpu, "uuid": self.plan.uuid},
            "cpus": list(self.cpus),
            "mps": self.has_mps,
            "about": self.about,
        }
