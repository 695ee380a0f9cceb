# SPDX-License-Identifier: Apache-2.0
"""`preserve_ordering`: a model's replies leave in the order in which its requests arrived, whichever instance is first.

Source: `dynamic_batch_scheduler.cc`, where a request takes its place in the completion queue as it is enqueued, and whatever is
complete leaves from the front. The place of a request ends with its outcome, so what ends early (cancelled, late, refused, its
worker died) is waited for by nobody, and holds back nothing while a worker may still touch its memory.

Ours beyond Triton: a deadline counts until the reply leaves. Who gave a time is answered within it, though the result is there
and waits for a slower one. Without a deadline a reply waits as long as the requests before it last, each of which ends: in its
batch, by the watchdog, with its session, or with the model. So nothing is withheld for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .commands import AnyCommand, Deliver
from .ledger import Ledger
from .requests import QUEUED, SENT, WITHHELD, Request, become

FEW_PLACES = 64
"""Places of requests that ended early stay behind a slow one until there are this many (or twice as many as were in use)."""


class Ordering:
    """The places of one model's requests."""

    __slots__ = ("_places", "_sweep_at")

    def __init__(self) -> None:
        #: Requests in order of arrival: every one that is QUEUED, SENT or WITHHELD, and some that need no place any more.
        self._places: deque[Request] = deque()
        #: The number of places at which those that nobody needs are looked for.
        self._sweep_at = FEW_PLACES

    def enter(self, request: Request) -> None:
        """The model accepted a request."""
        places = self._places
        places.append(request)
        if len(places) >= self._sweep_at:
            self._places = places = deque(request for request in places if request.state in (QUEUED, SENT, WITHHELD))
            self._sweep_at = max(FEW_PLACES, 2 * len(places))

    def deliver(self, ledger: Ledger, out: list[AnyCommand]) -> None:
        """Ends the withheld requests whose turn has come: neighbours of one batch by one command."""
        places = self._places
        turn: list[Request] = []
        while places and (state := places[0].state) is not QUEUED and state is not SENT:
            request = places.popleft()
            if state is not WITHHELD:
                continue
            if turn and turn[0].batch != request.batch:
                self._end(turn, ledger, out)
                turn = []
            turn.append(request)
        if turn:
            self._end(turn, ledger, out)

    def _end(self, turn: list[Request], ledger: Ledger, out: list[AnyCommand]) -> None:
        ledger.end(turn)
        assert turn[0].batch is not None
        out.append(Deliver(turn[0].batch, turn))

    def withheld(self) -> list[int]:
        """The numbers of the requests that wait for others (for checks)."""
        return [request.number for request in self._places if request.state is WITHHELD]

    def check_invariants(self, model: int) -> None:
        """Raises AssertionError where the comments above do not hold, or a reply is withheld that nobody is before."""
        numbers = [request.number for request in self._places]
        assert len(set(numbers)) == len(numbers) < self._sweep_at, self
        assert all(request.model == model for request in self._places), self
        assert not self._places or self._places[0].state in (QUEUED, SENT), self

    def __repr__(self) -> str:
        return f"<{len(self._places)} places, replies withheld {self.withheld()}>"


def withhold(requests: Sequence[Request]) -> None:
    """Their batch has ended; `Ordering.deliver` says whose turn has come."""
    become(requests, WITHHELD)
