# SPDX-License-Identifier: Apache-2.0
"""Every request that is not over, by number and by session, with its deadline."""

from __future__ import annotations

from collections.abc import Sequence

from .requests import ENDED, FINISHED_EARLY, IllegalTransitionError, Request, RequestState, become
from .timers import Timers


class Ledger:
    """Requests from their arrival until they are ENDED."""

    __slots__ = ("_by_session", "_requests", "deadlines")

    def __init__(self) -> None:
        #: number -> request; none is ENDED.
        self._requests: dict[int, Request] = {}
        #: session -> {number -> request}: the same requests; no session without one.
        self._by_session: dict[int, dict[int, Request]] = {}
        #: request number -> deadline, of those that have one and have no outcome yet.
        self.deadlines = Timers()

    def __len__(self) -> int:
        return len(self._requests)

    def find(self, number: int) -> Request | None:
        """The request of that number, unless it is over or unknown."""
        return self._requests.get(number)

    def of_session(self, session: int) -> list[Request]:
        """The session's requests, oldest first."""
        return list(self._by_session.get(session, {}).values())

    def enter(self, request: Request) -> None:
        """A new request; raises IllegalTransitionError when the number is in use."""
        number = request.number
        if number in self._requests:
            raise IllegalTransitionError(f"{request!r} has the number of {self._requests[number]!r}")
        self._requests[number] = request
        held = self._by_session.get(request.session)
        if held is None:
            self._by_session[request.session] = {number: request}
        else:
            held[number] = request
        if request.deadline_ns is not None:
            self.deadlines.set(number, request.deadline_ns)

    def finish_early(self, request: Request) -> None:
        """It has its outcome; a worker may still touch its memory."""
        request.become(FINISHED_EARLY)
        if request.deadline_ns is not None:
            self.deadlines.cancel(request.number)

    def end(self, requests: Sequence[Request]) -> None:
        """They are over."""
        become(requests, ENDED)
        known, by_session = self._requests, self._by_session
        for request in requests:
            number, session = request.number, request.session
            del known[number]
            held = by_session[session]
            del held[number]
            if not held:
                del by_session[session]
            if request.deadline_ns is not None:
                self.deadlines.cancel(number)

    def in_state(self, state: RequestState) -> set[int]:
        """The numbers of the requests in that state (for checks)."""
        return {number for number, request in self._requests.items() if request.state is state}

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        by_session = {number: request for held in self._by_session.values() for number, request in held.items()}
        assert by_session == self._requests and all(self._by_session.values()), self
        for number, request in self._requests.items():
            assert request.number == number and number in self._by_session[request.session], request
            assert request.state is not ENDED, request
            timed = request.deadline_ns is not None and request.state is not FINISHED_EARLY
            assert (number in self.deadlines) == timed, request
        assert all(number in self._requests for number in self.deadlines), self
        self.deadlines.check_invariants()

    def __repr__(self) -> str:
        states = {state.name: len(self.in_state(state)) for state in RequestState if self.in_state(state)}
        return f"<{len(self._requests)} requests of {len(self._by_session)} sessions: {states}>"
