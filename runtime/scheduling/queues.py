# SPDX-License-Identifier: Apache-2.0
"""A queue of a model: one line per principal, served in turn, so that a flood from one delays another by no more than a batch.

Within a principal the order is that of arrival. Turns count requests, not rows. Requests that come back from a worker that
never started them stand in front of all lines, in the order in which they were first drawn. What has been drawn for the batch
being formed has left the lines, but counts for its principal's bound until it is sent.

A model has one such queue, or one for each priority level in use and one for what that level's policy has delayed (levels.py).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable

from msgspec import Struct, field

from ...ipc.errors import Code
from .requests import QUEUED, Request

WITHDRAWN = -1
"""The rank of a request that was taken out of its queue: an entry for it that still stands there is passed over."""

FEW_WITHDRAWN = 64
"""Withdrawn requests stay where they stand until there are this many more of them than of waiting ones."""

FEW_LINES = 64
"""Empty lines are kept for principals that come back, until there are this many lines (or twice as many as were in use)."""


class Line(Struct, eq=False):
    """One principal's requests."""

    #: oldest first: QUEUED ones, never drawn, and withdrawn ones (of another rank than the queue's), which are passed over.
    waiting: deque[Request] = field(default_factory=deque)
    queued: int = 0  # of this principal: waiting here, in front of the lines, or drawn and not yet sent
    in_turn: bool = False  # whether it is in the ring of turns


class Lines:
    """The lines of one queue. `waiting` is how many requests stand in them (drawn ones left out)."""

    __slots__ = ("_front", "_limit", "_lines", "_rank", "_sweep_at", "_turns", "_withdrawn", "drawn", "waiting")

    def __init__(self, limit: int, rank: int = 0, drawn: int = 0) -> None:
        #: The rank of all requests that are here.
        self._rank = rank
        #: How many requests of one principal may be queued.
        self._limit = limit
        #: principal -> its line; a line with nothing queued may be swept away.
        self._lines: dict[str, Line] = {}
        #: The lines in order of turn: every line with someone waiting, exactly once; emptied lines linger until their turn.
        self._turns: deque[Line] = deque()
        #: Requests that came back unstarted, number -> request, ascending by `drawn`; they go before everybody.
        self._front: OrderedDict[int, Request] = OrderedDict()
        #: How many of the requests in the lines' `waiting` were withdrawn; bounded whenever it grows (FEW_WITHDRAWN).
        self._withdrawn = 0
        #: All the others, and those in _front.
        self.waiting = 0
        #: The last `drawn` given.
        self.drawn = drawn
        #: The number of lines at which empty ones are looked for.
        self._sweep_at = FEW_LINES

    def push(self, request: Request) -> bool:
        """A new request goes to the end of its principal's line; False: that has as many as it may have."""
        line = self._lines.get(request.principal) or self._new_line(request.principal)
        if line.queued >= self._limit:
            return False
        line.waiting.append(request)
        line.queued += 1
        self.waiting += 1
        if not line.in_turn:
            line.in_turn = True
            self._turns.append(line)
        return True

    def draw_at_once(self, request: Request) -> bool:
        """A new request is drawn without waiting here (nobody is); False: its principal has as many as it may have."""
        line = self._lines.get(request.principal) or self._new_line(request.principal)
        if line.queued >= self._limit:
            return False
        line.queued += 1
        self.drawn = request.drawn = self.drawn + 1
        return True

    def take(self) -> Request:
        """Draws the request whose turn it is (somebody is waiting). It still counts for its principal."""
        self.waiting -= 1
        if self._front:
            return self._front.popitem(last=False)[1]
        turns, rank = self._turns, self._rank
        while True:
            line = turns[0]
            waiting = line.waiting
            while waiting:
                request = waiting.popleft()
                if request.rank == rank:
                    self.drawn = request.drawn = self.drawn + 1
                    turns.rotate(-1)
                    return request
                self._withdrawn -= 1
            turns.popleft().in_turn = False

    def gone(self, requests: Iterable[Request]) -> None:
        """Drawn requests left the queue for good: they were sent or withdrawn."""
        lines = self._lines
        for request in requests:
            lines[request.principal].queued -= 1

    def remove(self, request: Request) -> bool:
        """Takes out a request that is waiting here, and marks it WITHDRAWN; False: it is not waiting (it was drawn)."""
        if request.drawn == 0:
            self._withdrawn += 1
        elif self._front.pop(request.number, None) is None:
            return False
        self._lines[request.principal].queued -= 1
        self.waiting -= 1
        request.rank = WITHDRAWN
        if self._withdrawn > self.waiting + FEW_WITHDRAWN:
            self._forget_withdrawn()
        return True

    def put_back(self, requests: list[Request], sent: bool) -> None:
        """Drawn requests go before everybody, `sent` ones (never started) back into their principal's count, past any bound."""
        if sent:
            for request in requests:
                line = self._lines.get(request.principal) or self._new_line(request.principal)
                line.queued += 1
        front = sorted([*self._front.values(), *requests], key=lambda request: request.drawn)
        self._front = OrderedDict((request.number, request) for request in front)
        self.waiting += len(requests)

    def refusal(self, request: Request) -> tuple[Code, str]:
        """Why `push` or `draw_at_once` would not have the request."""
        return Code.OVERLOADED, f"{self._limit} requests of {request.principal!r} are queued, which is the limit"

    def _new_line(self, principal: str) -> Line:
        if len(self._lines) >= self._sweep_at:
            self._lines = {name: line for name, line in self._lines.items() if line.queued or line.in_turn}
            self._sweep_at = max(FEW_LINES, 2 * len(self._lines))
        line = self._lines[principal] = Line()
        return line

    def _forget_withdrawn(self) -> None:
        for line in self._lines.values():
            line.waiting = deque(request for request in line.waiting if request.rank == self._rank)
            line.in_turn = bool(line.waiting)
        self._turns = deque(line for line in self._turns if line.waiting)
        self._withdrawn = 0

    def check_invariants(self, drawn: list[Request]) -> None:
        """Raises AssertionError where the comments above do not hold. `drawn`: the requests drawn and not yet sent."""
        lines, front = self._lines, list(self._front.values())
        standing = [(name, request) for name, line in lines.items() for request in line.waiting]
        waiting = [request for _, request in standing if request.rank == self._rank]
        assert all(name == request.principal for name, request in standing), self
        assert all(request.state is QUEUED and request.drawn == 0 for request in waiting), self
        assert self.waiting == len(waiting) + len(front), self
        assert self._withdrawn == len(standing) - len(waiting), self
        turns = [id(line) for line in self._turns]
        assert len(set(turns)) == len(turns), self
        queued = Counter(request.principal for request in [*drawn, *front, *waiting])
        for name, line in lines.items():
            assert line.queued == queued.pop(name, 0), (name, line, self)
            assert line.in_turn == (id(line) in turns), (name, self)
            assert line.in_turn or not line.waiting, (name, self)
        assert not queued, self
        assert all(request.state is QUEUED and 0 < request.drawn <= self.drawn for request in [*drawn, *front]), self
        assert all(request.rank == self._rank for request in [*drawn, *front]), self
        assert [request.drawn for request in front] == sorted(request.drawn for request in front), self

    def __repr__(self) -> str:
        busy = {principal: line.queued for principal, line in self._lines.items() if line.queued}
        return f"<{self.waiting} waiting, {len(self._front)} of them returned; queued by principal {busy}>"
