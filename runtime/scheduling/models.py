# SPDX-License-Identifier: Apache-2.0
"""One loaded model version: its queue (forming.py), its instances, and whether it takes requests.

SERVING <--> DOWN          ModelDown; InstanceReady
SERVING, DOWN --> DRAINING --> forgotten when nothing is left
"""

from __future__ import annotations

from enum import Enum

from .batcher import NEVER_NS
from .executions import Executions
from .forming import Queue
from .instances import Instances
from .ordering import Ordering
from .policy import Policy
from .requests import Request
from .resources import Resources
from .timeouts import Timeouts


class ModelState(Enum):
    """Whether the model takes requests."""

    SERVING = "serving"
    DOWN = "down"
    DRAINING = "draining"


SERVING, DOWN, DRAINING = ModelState


class Model(Queue):
    """A model is its own queue; one on several devices has more of them (spread.py).

    `timer_ns`: what the scheduler's timer for `look_ns` is set to. `ordering`: None where the policy does not ask for it.
    """

    __slots__ = ("instances", "message", "ordering", "state", "timer_ns")

    def __init__(self, number: int, policy: Policy, resources: Resources, timeouts: Timeouts) -> None:
        executions = Executions()
        self.instances = self._make_instances(policy.credits, executions if policy.batches else None)
        limited = resources if policy.rate_limited else None
        super().__init__(number, policy, limited, timeouts, executions, self.instances)
        self.state = SERVING
        self.message = ""  # why requests are refused, while they are
        self.timer_ns = NEVER_NS
        self.ordering = Ordering() if policy.preserve_ordering else None

    def _make_instances(self, batches_each: int, executions: Executions | None) -> Instances:
        return Instances(batches_each, executions)

    def drain(self, message: str) -> None:
        """No request may come any more; what is here is served."""
        self.state, self.message, self.drains = DRAINING, message, True

    def came_up(self, _gpu: int) -> None:
        """An instance is there; a model that was down serves again."""
        if self.state is DOWN:
            self.state, self.message = SERVING, ""

    def take_stranded(self) -> list[Request]:
        """Takes out everything that is QUEUED and that no instance which is here could serve."""
        return [] if len(self.instances) else self.clear()

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        self.check_queue()
        assert self.state is not DOWN or not self.queued, self
        assert (self.state is SERVING) == (not self.message), self
        self.instances.check_invariants()
        assert not self.instances.aside or (self.resources is not None and self.queued), self
        assert not (self.instances.aside and self.room.open) or self.policy.spread, self
        if self.ordering is not None:
            self.ordering.check_invariants(self.number)

    def __repr__(self) -> str:
        return (
            f"<model {self.number}: {self.state.value}, {self.queued} queued ({len(self._walk.requests)} in the batch being "
            f"formed), {self.instances!r}>"
        )
