# SPDX-License-Identifier: Apache-2.0
"""A queue of a model: the requests that wait, and the batch being formed of them.

Between two events, an instance that may take a batch and a request standing in the queue never meet: whatever waits then is
in the batch being formed (which is held back), else no instance has room. So a closed batch takes all principals in turn.
"""

from __future__ import annotations

from typing import NamedTuple

from ...ipc.errors import Code
from .batcher import NEVER_NS, Walk, check_walk, decide, join, overdue, sizes_of, walk_over
from .executions import Executions
from .instances import Instance, Room
from .levels import Levels
from .policy import Policy
from .queues import Lines
from .requests import QUEUED, Closed, Request
from .resources import Resources
from .timeouts import Timeouts

SINGLE = Closed.SINGLE


class Assignment(NamedTuple):
    """A closed batch and the instance that is to have it."""

    instance: Instance
    requests: list[Request]
    rows: int
    closed: Closed


class Queue:
    """See the module.

    `room`: the instances that its requests may go to. `look_ns`: when what is held must be looked at again (NEVER_NS: an event
    will say). `resources`: None where the policy asks for none. `drains`: nothing more will join.
    """

    __slots__ = (
        "_batches", "_direct", "_levels", "_lines", "_sizes", "_walk", "drains", "executions", "look_ns", "number", "policy",
        "resources", "room",
    )  # fmt: skip

    def __init__(
        self, number: int, policy: Policy, resources: Resources | None, timeouts: Timeouts, executions: Executions, room: Room
    ) -> None:
        self.number = number
        self.policy = policy
        self.look_ns = NEVER_NS
        self.drains = False
        self.executions = executions
        self.room = room
        self.resources = resources
        self._batches = policy.batches
        self._sizes = sizes_of(policy)
        #: The queue, if it has priority levels or queue policies; None: it is one queue without either, and pays for neither.
        self._levels = Levels(policy, timeouts) if policy.has_levels else None
        #: The queue, whichever it is.
        self._lines: Lines | Levels = Lines(policy.max_queued_per_principal) if self._levels is None else self._levels
        #: The queue, if a new request may be drawn for the batch being formed without standing in it; else None.
        self._direct = self._lines if policy.batches and isinstance(self._lines, Lines) else None
        #: The batch being formed; empty where the model does not batch. Its requests have left the lines, but are QUEUED, and
        #: none is of a higher rank than the one after it.
        self._walk = Walk()

    @property
    def queued(self) -> int:
        """How many requests are QUEUED."""
        return self._lines.waiting + len(self._walk.requests)

    def depths(self) -> dict[int, int]:
        """How many of them are in each priority level that has any; empty for a model that has no levels."""
        return {} if self._levels is None else self._levels.depths()

    def accept(self, request: Request, now_ns: int) -> bool | None:
        """Queues a new request. True: `assign` may have something to send. None: refused, `refusal` says why."""
        lines, direct, walk = self._lines, self._direct, self._walk
        if not self.room.open:
            return False if lines.push(request) else None
        if direct is None or direct.waiting:
            return lines.push(request) or None
        if not direct.draw_at_once(request):
            return None
        if not join(walk, request, self._sizes):
            direct.put_back([request], sent=False)
            return True
        return bool(walk.marked) or len(walk.requests) == 1 or now_ns >= self.look_ns or request.deadline_ns is not None

    def refusal(self, request: Request) -> tuple[Code, str]:
        """Why the request was not accepted."""
        return self._lines.refusal(request)

    def assign(self, now_ns: int) -> Assignment | None:
        """The next batch to send, taken out of the queue; None: nothing may be sent now, `look_ns` says until when.

        The instance of a rate limited model holds its resources from here on.
        """
        self.look_ns = NEVER_NS
        if not (self._lines.waiting or self._walk.requests) or (instance := self.room.choose()) is None:
            return None
        if not self._batches:
            granted = instance if self.resources is None else self.resources.grant(self.room)
            return None if granted is None else self._assign_single(granted)
        walk = self._fill(now_ns)
        start_by_ns = NEVER_NS
        if walk.deadline_ns != NEVER_NS:
            start_by_ns = self.executions.start_by_ns(walk.rows, walk.deadline_ns)
        decision = decide(walk, self._sizes, now_ns, start_by_ns, self.drains)
        free_ns = now_ns
        if decision.grows and instance.batches:
            nearest = self.room.nearest_end()
            if nearest is None:
                return None
            free_ns, instance = nearest
        if decision.closed is None or free_ns > now_ns:
            self.look_ns = max(free_ns, decision.until_ns)
            return None
        granted = instance if self.resources is None else self.resources.grant(self.room)
        if granted is None:
            self._start_over()  # to be formed anew when its turn has come, of all who wait then
            return None
        return self._cut(granted, decision.count, decision.closed)

    def withdraw(self, request: Request) -> None:
        """Takes out one request that was QUEUED and has just ENDED."""
        if self._lines.remove(request):
            return
        kept = [other for other in self._walk.requests if other is not request]
        self._lines.gone((request,))
        self._walk = walk_over(kept, self._sizes)

    def delay(self, request: Request) -> bool:
        """Moves a waiting request, which has expired, behind its level if its queue policy says DELAY; else False."""
        assert self._levels is not None, self
        return self._levels.delay(request)

    def put_back(self, requests: list[Request]) -> None:
        """Requests that were sent and never started return to the front of the queue, in order."""
        self._start_over()
        self._lines.put_back(requests, sent=True)

    def start_over(self) -> None:
        """The requests of the batch being formed return to the front of the queue."""
        self._start_over()

    def _start_over(self) -> None:
        """The same of this queue alone, whatever other queues the model has (spread.py)."""
        self._lines.put_back(self._walk.requests, sent=False)
        self._walk = Walk()

    def clear(self) -> list[Request]:
        """Takes out everything that is QUEUED, in order."""
        self._start_over()
        lines = self._lines
        requests = [lines.take() for _ in range(lines.waiting)]
        lines.gone(requests)
        return requests

    def next_rank(self) -> int:
        """The rank of the request that is next; the smaller, the sooner its turn."""
        ranks = [request.rank for request in self._walk.requests[:1]]
        if self._levels is not None and self._levels.waiting:
            ranks.append(self._levels.next_rank())
        return min(ranks, default=0)

    def _assign_single(self, instance: Instance) -> Assignment:
        requests = [self._lines.take()]
        self._lines.gone(requests)
        return Assignment(instance, requests, requests[0].rows, SINGLE)

    def _fill(self, now_ns: int) -> Walk:
        """Walks on through the queue. Beyond the largest preferred size only what is overdue goes (see batcher).

        When somebody waits who goes before the last of the walk, it begins anew (Triton's cursor is no longer valid).
        """
        lines, sizes = self._lines, self._sizes
        if self._levels is not None and self._walk.requests and self._levels.has_before(self._walk.requests[-1]):
            self._start_over()
        walk = self._walk
        walk.stopped = None
        while lines.waiting:
            if walk.rows >= sizes.max_preferred and not overdue(walk, sizes, now_ns):
                break
            request = lines.take()
            if not join(walk, request, sizes):
                lines.put_back([request], sent=False)
                break
        return walk

    def _cut(self, instance: Instance, count: int, closed: Closed) -> Assignment:
        walk = self._walk
        requests, rows = walk.requests, walk.rows
        if count == len(requests):
            self._walk = Walk()
        else:
            rows = walk.marked_rows
            self._walk = walk_over(requests[count:], self._sizes)
            requests = requests[:count]
        self._lines.gone(requests)
        return Assignment(instance, requests, rows, closed)

    def check_queue(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        walk = self._walk
        check_walk(walk, self._sizes)
        assert all(request.state is QUEUED and request.model == self.number for request in walk.requests), self
        assert self._batches or not walk.requests, self
        assert all(one.rank <= other.rank for one, other in zip(walk.requests, walk.requests[1:], strict=False)), self
        assert not (self.room.open and (self._lines.waiting or walk.stopped)), self
        assert self.look_ns == NEVER_NS or walk.requests or self.policy.spread, self
        self._lines.check_invariants(walk.requests)

    def __repr__(self) -> str:
        return f"<queue of model {self.number}: {self.queued} queued ({len(self._walk.requests)} in the batch being formed)>"
