# SPDX-License-Identifier: Apache-2.0
"""The queue of a model with priority levels or queue policies: Triton's PriorityQueue (core's scheduler_utils.cc).

    Level k is served before level k + 1. Within a level, requests that have waited for their timeout under DELAY go behind all
    others, but before the next level. A level refuses a request when max_queue_size requests of it are queued, delayed ones
    and those in the batch being formed included.

So each level is two queues, told apart by rank: 2 * level for those in time, 2 * level + 1 for the delayed, and the request of
the lowest rank is next. Ours beyond Triton: within a rank principals take turns (queues.py), what came back unstarted stands in
front of its rank, and a principal's bound counts its requests of all levels. A timeout runs whenever a request in time is
QUEUED; it is not set anew for one that comes back.

A level costs something from its first request on, not when it is configured: there may be 2 ** 31 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import groupby

from msgspec import Struct

from ...ipc.errors import Code
from .policy import Policy, QueuePolicy, TimeoutAction
from .queues import Lines
from .requests import Request
from .timeouts import Timeouts

NO_LIMIT = 2**63 - 1
"""For a level's lines: bounds are kept here, over all of them."""

FEW_LEVELS = 64
"""Levels without a request are kept for the next one, until there are this many levels (or twice as many as were in use)."""


class Level(Struct, eq=False):
    """One priority level."""

    number: int
    policy: QueuePolicy
    in_time: Lines
    delayed: Lines
    queued: int = 0  # waiting here, or drawn and not yet sent
    in_order: bool = False  # whether it is in the order of levels

    @property
    def waiting(self) -> int:
        """How many requests stand in its lines."""
        return self.in_time.waiting + self.delayed.waiting


def rank_of(level: int, delayed: bool = False) -> int:
    """The rank of a level's requests."""
    return 2 * level + delayed


class Levels:
    """The levels of one model. `waiting` is how many requests stand in their lines (drawn ones left out)."""

    __slots__ = ("_drawn", "_levels", "_order", "_policy", "_queued", "_sweep_at", "_timeouts", "waiting")

    def __init__(self, policy: Policy, timeouts: Timeouts) -> None:
        self._policy = policy
        #: Of all models; has each of our QUEUED requests that is in time and has a timeout.
        self._timeouts = timeouts
        #: number -> level; one with nothing queued may be swept away.
        self._levels: dict[int, Level] = {}
        #: A heap of level numbers: every level with someone waiting, exactly once; emptied ones linger until they are first.
        self._order: list[int] = []
        #: principal -> how many of its requests are queued, where there are any.
        self._queued: dict[str, int] = {}
        #: All those in the levels' lines.
        self.waiting = 0
        #: The number of levels at which empty ones are looked for.
        self._sweep_at = FEW_LEVELS
        #: Not less than the last `drawn` of any level that was swept away: one that comes again counts on from here.
        self._drawn = 0

    def push(self, request: Request) -> bool:
        """A new request goes to the end of its principal's line in its level; False: it is one too many (see `refusal`)."""
        level = self._level(self._policy.level_of(request.priority))
        if self._is_full(level) or self._queued.get(request.principal, 0) >= self._policy.max_queued_per_principal:
            return False
        request.rank = rank_of(level.number)
        level.in_time.push(request)
        self._count_in(level, request)
        self._has_waiting(level, 1)
        return True

    def take(self) -> Request:
        """Draws the request that is next (somebody is waiting). It still counts for its level and its principal."""
        level = self._first()
        self.waiting -= 1
        return (level.in_time if level.in_time.waiting else level.delayed).take()

    def next_rank(self) -> int:
        """The rank of the request that is next (somebody is waiting)."""
        level = self._first()
        return rank_of(level.number, not level.in_time.waiting)

    def has_before(self, request: Request) -> bool:
        """Whether somebody waits who goes before a request that has been drawn."""
        return bool(self.waiting) and self.next_rank() < request.rank

    def gone(self, requests: Iterable[Request]) -> None:
        """Drawn requests left the queue for good: they were sent or withdrawn."""
        for request in requests:
            self._lines_of(request.rank).gone((request,))
            self._count_out(self._levels[request.rank // 2], request)

    def remove(self, request: Request) -> bool:
        """Takes out a request that is waiting here; False: it is not (it was drawn)."""
        level = self._levels[request.rank // 2]
        if not self._lines_of(request.rank).remove(request):
            return False
        self._count_out(level, request)
        self.waiting -= 1
        return True

    def delay(self, request: Request) -> bool:
        """A waiting request that has expired goes behind its level, unless the policy says that it is to be rejected: False."""
        level = self._levels[request.rank // 2]
        if level.policy.timeout_action is TimeoutAction.REJECT:
            return False
        was_waiting = level.in_time.remove(request)
        assert was_waiting, (request, self)
        request.rank, request.drawn = rank_of(level.number, delayed=True), 0
        level.delayed.push(request)
        return True

    def put_back(self, requests: list[Request], sent: bool) -> None:
        """Drawn requests go to the front of their rank, `sent` ones (never started) back into all counts, past any bound."""
        for rank, group in groupby(requests, lambda request: request.rank):
            returned = list(group)
            level = self._level(rank // 2)
            for request in returned if sent else ():
                self._count_in(level, request)
            self._lines_of(rank).put_back(returned, sent)
            self._has_waiting(level, len(returned))

    def refusal(self, request: Request) -> tuple[Code, str]:
        """Why `push` would not have the request. The first words are Triton's."""
        level = self._level(self._policy.level_of(request.priority))
        limit = level.policy.max_queue_size
        if self._is_full(level):
            whose = f"priority level {level.number}" if level.number else "the model"
            return Code.UNAVAILABLE, f"Exceeds maximum queue size: {whose} may have {limit} requests queued, has {level.queued}"
        limit = self._policy.max_queued_per_principal
        return Code.OVERLOADED, f"{limit} requests of {request.principal!r} are queued, which is the limit"

    def depths(self) -> dict[int, int]:
        """How many requests are queued, by level, where there are any."""
        return {number: level.queued for number, level in sorted(self._levels.items()) if level.queued}

    def _is_full(self, level: Level) -> bool:
        return 0 < level.policy.max_queue_size <= level.queued

    def _lines_of(self, rank: int) -> Lines:
        level = self._levels[rank // 2]
        return level.delayed if rank % 2 else level.in_time

    def _first(self) -> Level:
        """The level that is served next (somebody is waiting)."""
        order = self._order
        while not (level := self._levels[order[0]]).waiting:
            heappop(order)
            level.in_order = False
        return level

    def _has_waiting(self, level: Level, more: int) -> None:
        self.waiting += more
        if not level.in_order:
            level.in_order = True
            heappush(self._order, level.number)

    def _count_in(self, level: Level, request: Request) -> None:
        level.queued += 1
        self._queued[request.principal] = self._queued.get(request.principal, 0) + 1
        if level.policy.default_timeout_ns and request.rank % 2 == 0:
            timeout_ns = level.policy.timeout_ns(request.timeout_ns)
            self._timeouts.set(request.number, request.arrived_ns + timeout_ns)

    def _count_out(self, level: Level, request: Request) -> None:
        level.queued -= 1
        if level.policy.default_timeout_ns:
            self._timeouts.cancel(request.number)
        left = self._queued.pop(request.principal) - 1
        if left:
            self._queued[request.principal] = left

    def _level(self, number: int) -> Level:
        """The level of that number, which exists from now on."""
        level = self._levels.get(number)
        if level is None:
            if len(self._levels) >= self._sweep_at:
                self._sweep()
            in_time = Lines(NO_LIMIT, rank_of(number), self._drawn)
            delayed = Lines(NO_LIMIT, rank_of(number, delayed=True), self._drawn)
            level = self._levels[number] = Level(number, self._policy.queue_policy(number), in_time, delayed)
        return level

    def _sweep(self) -> None:
        self._drawn = max(self._drawn, *(max(level.in_time.drawn, level.delayed.drawn) for level in self._levels.values()))
        self._levels = {number: level for number, level in self._levels.items() if level.queued}
        self._sweep_at = max(FEW_LEVELS, 2 * len(self._levels))
        self._order = [number for number in self._order if number in self._levels]
        heapify(self._order)

    def check_invariants(self, drawn: list[Request]) -> None:
        """Raises AssertionError where the comments above do not hold. `drawn`: the requests drawn and not yet sent."""
        order = self._order
        assert len(set(order)) == len(order), self
        assert all(order[(i - 1) // 2] <= order[i] for i in range(1, len(order))), self
        assert {n for n, level in self._levels.items() if level.in_order} == set(order), self
        assert all(level.in_order for level in self._levels.values() if level.waiting), self
        assert self.waiting == sum(level.waiting for level in self._levels.values()), self
        mine = {number: [request for request in drawn if request.rank // 2 == number] for number in self._levels}
        assert sum(map(len, mine.values())) == len(drawn), self
        for number, level in self._levels.items():
            level.in_time.check_invariants([request for request in mine[number] if request.rank % 2 == 0])
            level.delayed.check_invariants([request for request in mine[number] if request.rank % 2])
            assert level.queued == level.waiting + len(mine[number]), (level, self)
        assert sum(self._queued.values()) == sum(level.queued for level in self._levels.values()), self
        assert all(self._queued.values()), self

    def __repr__(self) -> str:
        return f"<{self.waiting} waiting; queued by level {self.depths()}, by principal {dict(self._queued)}>"
