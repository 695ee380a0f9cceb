# SPDX-License-Identifier: Apache-2.0
"""A model whose instances are on several devices, where a request may be bound to one of them: its memory is on that GPU.

    common queue   --> any instance             requests without memory on a GPU
    queue of GPU 0 --> its instances            requests bound to it
    queue of GPU 1 --> its instances

Each has its own batch being formed; so a batch is of one queue, and what waits for a busy GPU
holds up nobody else. They share instances, what is learnt of executions, and the rate limiter's resources. A queue of a GPU is
made with the first request that is bound to it. Bounds (of principals, of priority levels) hold for each queue.

Where several could have an instance, the one with the highest priority level goes first, and among equals the one that was
served least recently: with k of them waiting, each gets at least every k-th batch. What is bound to nothing leaves an idle
instance of a GPU that is waited for to those who wait, as long as another is idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...ipc.errors import Code
from .batcher import NEVER_NS
from .executions import Executions
from .forming import Assignment, Queue
from .instances import Instance, Instances
from .models import Model
from .policy import Policy
from .requests import NO_GPU, Request
from .resources import Resources
from .timeouts import Timeouts


class SpreadInstances(Instances):
    """The instances of a model on several devices. `wanted`: GPUs that requests wait for which can go nowhere else."""

    __slots__ = ("wanted",)

    def __init__(self, batches_each: int, executions: Executions | None) -> None:
        super().__init__(batches_each, executions)
        self.wanted: set[int] = set()

    def choose(self) -> Instance | None:
        """For what may go anywhere: an idle instance that nobody else wants, else whichever comes first."""
        if self.wanted:
            for instance in self.idle():
                if instance.gpu not in self.wanted:
                    return instance
        return super().choose()

    def open_on(self, gpu: int) -> Iterator[Instance]:
        """Those on a GPU that may take a batch, the least loaded first."""
        return (instance for instances in self._open for instance in instances.values() if instance.gpu == gpu)

    def nearest_end_on(self, gpu: int) -> tuple[int, Instance] | None:
        """As `nearest_end`, of those on a GPU."""
        ends = [(self._near_ends.when(n) or 0, n) for n in self._near_ends if self._all[n].gpu == gpu]
        return (min(ends)[0], self._all[min(ends)[1]]) if ends else None


class RoomOn:
    """The instances on one GPU."""

    __slots__ = ("_gpu", "_instances")

    def __init__(self, instances: SpreadInstances, gpu: int) -> None:
        self._instances = instances
        self._gpu = gpu

    @property
    def open(self) -> int:
        """How many may take a batch."""
        return sum(1 for _ in self._instances.open_on(self._gpu))

    def choose(self) -> Instance | None:
        """The least loaded that may take a batch."""
        return next(self._instances.open_on(self._gpu), None)

    def nearest_end(self) -> tuple[int, Instance] | None:
        """See Instances."""
        return self._instances.nearest_end_on(self._gpu)

    def idle(self) -> Iterable[Instance]:
        """Those that have no batch and may take one."""
        return [instance for instance in self._instances.idle() if instance.gpu == self._gpu]

    def find(self, number: int) -> Instance:
        """The instance of that number."""
        return self._instances.find(number)

    def set_aside(self, instance: Instance) -> None:
        """The idle instance may not take a batch until it is taken up."""
        self._instances.set_aside(instance)

    def __repr__(self) -> str:
        return f"<room on GPU {self._gpu} of {self._instances!r}>"


class SpreadModel(Model):
    """See the module. What it inherits is the common queue."""

    __slots__ = ("_bound", "_down", "_instances", "_timeouts", "_turns")

    def __init__(self, number: int, policy: Policy, resources: Resources, timeouts: Timeouts) -> None:
        self._instances: SpreadInstances
        super().__init__(number, policy, resources, timeouts)
        self._timeouts = timeouts
        #: GPU -> the queue of what is bound to it.
        self._bound: dict[int, Queue] = {}
        #: All queues, by GPU (NO_GPU: the common one); the one served least recently first.
        self._turns: list[int] = [NO_GPU]
        #: GPUs without an instance, none of which is to come -> why.
        self._down: dict[int, str] = {}

    @property
    def queued(self) -> int:
        """How many requests are QUEUED."""
        return super().queued + sum(queue.queued for queue in self._bound.values())

    def depths(self) -> dict[int, int]:
        """How many of them are in each priority level that has any."""
        depths = super().depths()
        for queue in self._bound.values():
            for level, count in queue.depths().items():
                depths[level] = depths.get(level, 0) + count
        return dict(sorted(depths.items()))

    def accept(self, request: Request, now_ns: int) -> bool | None:
        """Queues a new request, see Model."""
        if request.gpu == NO_GPU:
            return super().accept(request, now_ns)
        return None if request.gpu in self._down else self._queue_of(request.gpu).accept(request, now_ns)

    def refusal(self, request: Request) -> tuple[Code, str]:
        """Why the request was not accepted."""
        if request.gpu == NO_GPU:
            return super().refusal(request)
        if request.gpu in self._down:
            return Code.UNAVAILABLE, self._down[request.gpu]
        return self._queue_of(request.gpu).refusal(request)

    def assign(self, now_ns: int) -> Assignment | None:
        """The next batch to send, of the queue whose turn it is."""
        if not self._bound:
            return super().assign(now_ns)
        self._instances.wanted = {gpu for gpu, queue in self._bound.items() if queue.queued}
        looks = [NEVER_NS]
        for gpu in sorted(self._turns, key=self._next_rank):
            queue = self._bound.get(gpu, self)
            assignment = super().assign(now_ns) if queue is self else queue.assign(now_ns)
            if assignment is not None:
                self._turns.remove(gpu)
                self._turns.append(gpu)
                return assignment
            looks.append(queue.look_ns)
        self.look_ns = min(looks)
        return None

    def withdraw(self, request: Request) -> None:
        """Takes out one request that was QUEUED and has just ENDED."""
        if request.gpu == NO_GPU:
            super().withdraw(request)
        else:
            self._bound[request.gpu].withdraw(request)

    def delay(self, request: Request) -> bool:
        """Moves a waiting request, which has expired, behind its level if its queue policy says DELAY; else False."""
        return super().delay(request) if request.gpu == NO_GPU else self._bound[request.gpu].delay(request)

    def put_back(self, requests: list[Request]) -> None:
        """Requests that were sent and never started return to the front of their queues, in order."""
        super().put_back([request for request in requests if request.gpu == NO_GPU])
        for gpu, queue in self._bound.items():
            queue.put_back([request for request in requests if request.gpu == gpu])

    def start_over(self) -> None:
        """The requests of the batches being formed return to the front of their queues."""
        super().start_over()
        for queue in self._bound.values():
            queue.start_over()

    def clear(self) -> list[Request]:
        """Takes out everything that is QUEUED, each queue in order."""
        return [*super().clear(), *(request for queue in self._bound.values() for request in queue.clear())]

    def take_stranded(self) -> list[Request]:
        """Takes out everything that is QUEUED and that no instance which is here could serve."""
        there = {instance.gpu for instance in self.instances}
        bound = [request for gpu, queue in self._bound.items() if gpu not in there for request in queue.clear()]
        return [*super().take_stranded(), *bound]

    def came_up(self, gpu: int) -> None:
        """An instance is there."""
        super().came_up(gpu)
        self._down.pop(gpu, None)

    def went_down(self, gpu: int, message: str) -> list[Request]:
        """No instance is left on that GPU, and none is to come: what is bound to it is refused. Takes out what is QUEUED."""
        self._down[gpu] = message
        return self._bound[gpu].clear() if gpu in self._bound else []

    def drain(self, message: str) -> None:
        """No request may come any more; what is here is served."""
        super().drain(message)
        for queue in self._bound.values():
            queue.drains = True

    def _make_instances(self, batches_each: int, executions: Executions | None) -> Instances:
        self._instances = SpreadInstances(batches_each, executions)
        return self._instances

    def _queue_of(self, gpu: int) -> Queue:
        queue = self._bound.get(gpu)
        if queue is None:
            room = RoomOn(self._instances, gpu)
            queue = Queue(self.number, self.policy, self.resources, self._timeouts, self.executions, room)
            self._bound[gpu] = queue
            self._turns.insert(0, gpu)
        return queue

    def _next_rank(self, gpu: int) -> int:
        return self._bound[gpu].next_rank() if gpu in self._bound else self.next_rank()

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        super().check_invariants()
        assert sorted(self._turns) == sorted([NO_GPU, *self._bound]), self
        for gpu, queue in self._bound.items():
            queue.check_queue()
            assert not (gpu in self._down and queue.queued), (gpu, self)

    def __repr__(self) -> str:
        bound = {gpu: queue.queued for gpu, queue in self._bound.items()}
        return f"<spread {super().__repr__()}, bound to GPUs {bound}, without {sorted(self._down)}>"
