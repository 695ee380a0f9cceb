# SPDX-License-Identifier: Apache-2.0
"""The gateways that the broker starts: started again when they die, given up when they must be, told to leave at the end. Pure.

A gateway is a client like any other, which says that it serves by the query "gateway"; that it is one of these is known by the
process at the other end of its connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Protocol

from ..ipc.errors import BrokerError, Code, PenstockError
from .restarts import CRASHES, FIRST_DELAY_NS, WITHIN_NS, RestartPolicy
from .sessions import Session

log = logging.getLogger("penstock.gateway")


class GatewayState(Enum):
    """PAUSED: died, and is started again in time. LOST: given up. GONE: it was told to leave, and has left."""

    NEW = "new"
    STARTING = "starting"
    SERVING = "serving"
    PAUSED = "paused"
    LEAVING = "leaving"
    LOST = "given up"
    GONE = "gone"


#: state -> states it may become
TRANSITIONS: dict[GatewayState, frozenset[GatewayState]] = {
    GatewayState.NEW: frozenset({GatewayState.STARTING, GatewayState.GONE}),
    GatewayState.STARTING: frozenset(
        {GatewayState.SERVING, GatewayState.PAUSED, GatewayState.LOST, GatewayState.LEAVING},
    ),
    GatewayState.SERVING: frozenset({GatewayState.PAUSED, GatewayState.LOST, GatewayState.LEAVING}),
    GatewayState.PAUSED: frozenset({GatewayState.STARTING, GatewayState.GONE}),
    GatewayState.LEAVING: frozenset({GatewayState.GONE}),
    GatewayState.LOST: frozenset(),
    GatewayState.GONE: frozenset(),
}

STARTS_WITHIN_NS = 60 * 10**9
"""How long a process may take until it serves. It is killed then, as one that hangs."""
SERVED_DELAY_NS = FIRST_DELAY_NS << (CRASHES - 1)
"""The longest pause before another is started of one that has served."""

RUNNING = frozenset({GatewayState.STARTING, GatewayState.SERVING, GatewayState.LEAVING})


class GatewayProcess(Protocol):
    """A process of processes.py, or a test's fake."""

    pid: int

    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Gateway:
    """The place of one gateway process, which several may have one after the other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = GatewayState.NEW
        self.reason = ""  # how the last one ended, or why no other comes
        self.restarts = 0
        self.has_served = False  # the last process
        self.process: GatewayProcess | None = None
        self.due_ns: int | None = None  # when it is started again; while it starts, when it must serve
        self.policy = RestartPolicy()

    @property
    def name(self) -> str:
        """As log lines have it."""
        return f"gateway {self.number}"

    def __repr__(self) -> str:
        return f"<Gateway {self.number} {self.state.value}, {self.restarts} restarts>"

    def check_invariants(self) -> None:
        """There is a process while it runs, and a time while it waits or is waited for."""
        assert (self.process is not None) == (self.state in RUNNING), self
        assert self.due_ns is None or self.state in (GatewayState.PAUSED, GatewayState.STARTING), self
        assert self.due_ns is not None or self.state is not GatewayState.PAUSED, self
        self.policy.check_invariants()

    def become(self, state: GatewayState) -> None:
        """Raises BrokerError for a move that cannot be."""
        if state not in TRANSITIONS[self.state]:
            raise BrokerError(f"{self!r} cannot become {state.value}", Code.INTERNAL)
        self.state = state


class Gateways:
    """`launch` starts the process of a number, or raises MachineError; `lose` is told of one that is given up."""

    def __init__(
        self, count: int, launch: Callable[[int], GatewayProcess], lose: Callable[[int], None], clock: Callable[[], int]
    ) -> None:
        self._launch = launch
        self._lose = lose
        self._clock = clock
        self._gateways = [Gateway(number) for number in range(count)]
        self.places: dict[str, str] = {}  # protocol -> HOST:PORT, empty where it is not served
        self.due_ns: int | None = None  # when the next of them is to be looked at, in the clock's ns

    def __repr__(self) -> str:
        return f"<Gateways {self._gateways}>"

    def check_invariants(self) -> None:
        """Those of each; and the earliest is due first."""
        for gateway in self._gateways:
            gateway.check_invariants()
        assert self.due_ns == self._earliest(), self

    @property
    def are_settled(self) -> bool:
        """Whether each serves, or has been given up."""
        return all(each.state in (GatewayState.SERVING, GatewayState.LOST) for each in self._gateways)

    @property
    def are_gone(self) -> bool:
        """Whether no process is left."""
        return not any(each.state in RUNNING for each in self._gateways)

    def lost(self) -> dict[str, str]:
        """Name -> reason, of those that are given up."""
        return {each.name: each.reason for each in self._gateways if each.state is GatewayState.LOST}

    def start(self) -> None:
        """Starts all of them."""
        for gateway in self._gateways:
            self._begin(gateway)
        self._note_due()

    def serves(self, session: Session) -> None:
        """The gateway at the other end of this session says that it serves. Not one of ours: nothing."""
        gateway = self._of(session)
        if gateway is not None and gateway.state is GatewayState.STARTING:
            gateway.become(GatewayState.SERVING)
            gateway.has_served = True
            gateway.due_ns = None
            self._note_due()
            log.info("%s serves", gateway.name)

    def has(self, session: Session) -> bool:
        """Whether one of ours is at the other end of this session."""
        return session.is_gateway and self._of(session) is not None

    def exited(self, number: int, how: str, said: str = "") -> None:
        """A process is gone. `said`: what it has printed last, which is why, where it ended by itself."""
        gateway = self._gateways[number]
        gateway.process = gateway.due_ns = None
        if gateway.state is GatewayState.LEAVING:
            gateway.become(GatewayState.GONE)
            log.info("%s: %s", gateway.name, how)
        else:
            self._crashed(gateway, f"{how}: {said}" if said else how)
            self._note_due()

    def tick(self, now_ns: int) -> None:
        """Starts again what is due, and kills what should have served by now."""
        if self.due_ns is None or self.due_ns > now_ns:
            return
        for gateway in self._gateways:
            if gateway.due_ns is not None and gateway.due_ns <= now_ns:
                gateway.due_ns = None
                if gateway.process is not None:
                    log.warning("%s does not serve within %d s: killed", gateway.name, STARTS_WITHIN_NS // 10**9)
                    gateway.process.kill()
                else:
                    gateway.restarts += 1
                    self._begin(gateway)
        self._note_due()

    def stop(self) -> None:
        """Tells each to finish what it has, and go. Idempotent."""
        for gateway in self._gateways:
            if gateway.state in (GatewayState.STARTING, GatewayState.SERVING):
                assert gateway.process is not None
                gateway.due_ns = None
                gateway.become(GatewayState.LEAVING)
                gateway.process.terminate()
            elif gateway.state in (GatewayState.NEW, GatewayState.PAUSED):
                gateway.due_ns = None
                gateway.become(GatewayState.GONE)
        self._note_due()

    def kill(self) -> None:
        """Ends those that are still there."""
        for gateway in self._gateways:
            if gateway.process is not None:
                gateway.process.kill()

    def describe(self, sessions: Iterable[Session]) -> list[dict[str, Any]]:
        """As `penstock status` shows them; `session`: that of the gateway, as long as it has one."""
        by_pid = {session.peer.pid: session for session in sessions if session.is_gateway and session.peer is not None}
        return [
            {**_row(each, by_pid.get(each.process.pid) if each.process else None), **self.places} for each in self._gateways
        ]

    def _of(self, session: Session) -> Gateway | None:
        pid = session.peer.pid if session.peer is not None else None
        return next((each for each in self._gateways if each.process is not None and each.process.pid == pid), None)

    def _earliest(self) -> int | None:
        return min((each.due_ns for each in self._gateways if each.due_ns is not None), default=None)

    def _note_due(self) -> None:
        self.due_ns = self._earliest()

    def _begin(self, gateway: Gateway) -> None:
        gateway.become(GatewayState.STARTING)
        gateway.has_served = False
        try:
            gateway.process = self._launch(gateway.number)
            gateway.due_ns = self._clock() + STARTS_WITHIN_NS
        except PenstockError as error:
            self._crashed(gateway, error.message)

    def _crashed(self, gateway: Gateway, how: str) -> None:
        now_ns = self._clock()
        delay_ns = gateway.policy.crashed(now_ns)
        if delay_ns is None and gateway.has_served:  # or whoever finds a way to crash it would have switched it off
            delay_ns = SERVED_DELAY_NS
        if delay_ns is None:
            gateway.reason = f"it crashed {CRASHES} times in {WITHIN_NS // 10**9} s, last: {how}"
            gateway.become(GatewayState.LOST)
            log.error("%s is given up: %s", gateway.name, gateway.reason)
            self._lose(gateway.number)
            return
        log.warning("%s: %s; it is started again", gateway.name, how)
        gateway.reason = how
        gateway.become(GatewayState.PAUSED)
        gateway.due_ns = now_ns + delay_ns


def _row(gateway: Gateway, session: Session | None) -> dict[str, Any]:
    return {
        "gateway": gateway.number,
        "pid": gateway.process.pid if gateway.process else None,
        "state": gateway.state.value,
        "reason": gateway.reason,
        "restarts": gateway.restarts,
        "session": session.number if session else None,
        "in_flight": len(session.in_flight) if session else 0,
    }
