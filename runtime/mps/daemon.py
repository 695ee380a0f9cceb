# SPDX-License-Identifier: Apache-2.0
"""The MPS daemon as the broker sees it: who gets it, who waits for it, and what becomes of them when it dies. Pure.

Without MPS the processes on a GPU take turns: their kernels never run at once. A worker's environment must name the daemon's
directory from its start, and the daemon must be there when the worker opens the GPU; so the worker is started at once, and is
told what to load when the daemon answers, or is known not to come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from ...ipc.errors import BrokerError, Code, MachineError
from ...ipc.messages import LoadModel
from ..restarts import CRASHES, WITHIN_NS, RestartPolicy
from ..settings import MpsMode

if TYPE_CHECKING:
    from ..instances import Instance

log = logging.getLogger("penstock.mps")


class MpsState(Enum):
    """UNUSED: nobody has needed it. PAUSED: died, and is started again in time. THEIRS: the user's own. LOST: given up."""

    UNUSED = "unused"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    THEIRS = "the user's own"
    LOST = "not available"


#: state -> states it may become. Nobody looks after the user's own daemon; what is given up stays so.
TRANSITIONS: dict[MpsState, frozenset[MpsState]] = {
    MpsState.UNUSED: frozenset({MpsState.STARTING}),
    MpsState.STARTING: frozenset({MpsState.RUNNING, MpsState.LOST}),
    MpsState.RUNNING: frozenset({MpsState.PAUSED, MpsState.LOST}),
    MpsState.PAUSED: frozenset({MpsState.STARTING}),
    MpsState.THEIRS: frozenset(),
    MpsState.LOST: frozenset(),
}

Start = Callable[[], None]

CONSEQUENCE = "processes that share a GPU take turns on it, and their kernels do not overlap"


class MpsDaemon:
    """At most one, for all GPUs. `start` starts it; what becomes of it comes back as `answers` or `ended`."""

    def __init__(
        self, mode: MpsMode, environment: Mapping[str, str], is_theirs: bool, start: Start, unflushed: set[Instance]
    ) -> None:
        self._mode = mode
        self._environment = environment  # of a worker that is to use it
        self._start = start
        self._unflushed = unflushed
        self._restarts = RestartPolicy()
        self.state = MpsState.THEIRS if is_theirs else MpsState.UNUSED
        self.reason = ""  # why it is PAUSED or LOST
        self.due_ns: int | None = None  # when it is started again
        #: instances that wait to be told what to load
        self._waiting: list[tuple[Instance, LoadModel]] = []
        #: instances that compute through it, as far as the broker knows
        self._users: set[Instance] = set()

    def __repr__(self) -> str:
        return f"<MpsDaemon {self._mode.value}, {self.state.value}, {len(self._waiting)} wait, {len(self._users)} use it>"

    def check_invariants(self) -> None:
        """Somebody waits only for what will come or fail to; a restart has a time."""
        assert not self._waiting or self.state in (MpsState.STARTING, MpsState.PAUSED), self
        assert (self.due_ns is not None) == (self.state is MpsState.PAUSED), self
        assert not self._users or self.state in (MpsState.RUNNING, MpsState.THEIRS), self

    def environment_for(self, sharing: int) -> Mapping[str, str]:
        """What a worker's environment must say whose GPU so many share, itself included."""
        is_ours = self.state is not MpsState.THEIRS
        return self._environment if is_ours and self._is_wanted(sharing) else {}

    def send(self, instance: Instance, order: LoadModel, sharing: int) -> None:
        """Tells a worker what to load: at once, or when the daemon has answered."""
        if order.gpu is None or not self._is_wanted(sharing):
            instance.send(order)
        elif self.state is MpsState.LOST:
            self._send_without(instance, order)
        elif self.state in (MpsState.RUNNING, MpsState.THEIRS):
            self._send_with(instance, order)
        else:
            self._waiting.append((instance, order))
            if self.state is MpsState.UNUSED:
                self._begin()

    def answers(self) -> None:
        """The daemon is up: whoever waited is told what to load."""
        self._become(MpsState.RUNNING)
        log.info("the MPS daemon runs")
        self._tell_all(self._send_with)

    def ended(self, reason: str, now_ns: int) -> None:
        """It could not be started, or has died and taken its users' contexts along, which is no crash of theirs."""
        self.reason = reason
        if self.state is MpsState.STARTING:
            self._give_up(reason)
        else:
            delay_ns = self._restarts.crashed(now_ns)
            users, self._users = self._users, set()
            for instance in users:
                instance.blameless = True
                instance.kill(f"the MPS daemon is gone: {reason}")
            if delay_ns is None:
                self._give_up(f"{reason}; it died {CRASHES} times in {WITHIN_NS // 10**9} s")
            else:
                log.warning("the MPS daemon is gone: %s; its workers are started again with a new one", reason)
                self._become(MpsState.PAUSED)
                self.due_ns = now_ns + delay_ns
        if self.state is MpsState.LOST:
            self._tell_all(self._send_without)

    def tick(self, now_ns: int) -> None:
        """Starts it again when its time has come."""
        if self.due_ns is not None and self.due_ns <= now_ns:
            self.due_ns = None
            self._begin()

    def verify(self, instance: Instance, has_mps: bool) -> bool:
        """Whether a worker may serve, after what it found out of itself. CUDA says nothing where it does not reach a daemon."""
        instance.has_mps = has_mps
        if has_mps or instance not in self._users:
            return True
        self._users.discard(instance)
        if self._mode is MpsMode.ON and instance.gpu:
            self._refuse(instance, "the worker does not reach the MPS daemon")
            return False
        if instance.gpu:
            log.warning("%s was to compute through MPS and does not: %s; see --mps in docs/gpu.md", instance.name, CONSEQUENCE)
        return True

    def gone(self, instance: Instance) -> None:
        """A worker has ended."""
        self._users.discard(instance)
        self._waiting = [entry for entry in self._waiting if entry[0] is not instance]

    def describe(self) -> dict[str, object]:
        """As `penstock status` shows it."""
        return {"mode": self._mode.value, "state": self.state.value, "reason": self.reason, "workers": len(self._users)}

    def _is_wanted(self, sharing: int) -> bool:
        if self._mode is MpsMode.AUTO:
            return self.state is MpsState.THEIRS or (sharing > 1 and self.state is not MpsState.LOST)
        return self._mode is MpsMode.ON and sharing > 0

    def _begin(self) -> None:
        self._become(MpsState.STARTING)
        self._start()

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._become(MpsState.LOST)
        if self._mode is MpsMode.AUTO:
            log.warning("no MPS daemon: %s; %s; --mps off is silent about it", reason, CONSEQUENCE)

    def _tell_all(self, tell: Callable[[Instance, LoadModel], None]) -> None:
        waiting, self._waiting = self._waiting, []
        for instance, order in waiting:
            if not instance.is_ending:
                tell(instance, order)
                self._unflushed.add(instance)

    def _send_with(self, instance: Instance, order: LoadModel) -> None:
        self._users.add(instance)
        instance.send(order)

    def _send_without(self, instance: Instance, order: LoadModel) -> None:
        """With `auto` the worker does without; with `on` that is a reason not to load."""
        if self._mode is MpsMode.AUTO:
            instance.send(order)
        else:
            self._refuse(instance, f"there is no MPS daemon: {self.reason}")

    def _refuse(self, instance: Instance, why: str) -> None:
        instance.load_error = MachineError(f"--mps on, and {why}")
        log.error("%s: %s", instance.name, instance.load_error.message)
        instance.kill("loading failed")

    def _become(self, state: MpsState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise BrokerError(f"{self!r} cannot become {state.value}", Code.INTERNAL)
        self.state = state
