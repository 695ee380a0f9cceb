# SPDX-License-Identifier: Apache-2.0
"""Instances that are to be started: as soon as there is room, or after a crash when their time comes. Pure.

Room is what `--load-threads` leaves: so many instances may be loading at once. A restart does not wait for room, since its
model is being served.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .models import ServedModel
from .restarts import CRASHES, WITHIN_NS, RestartPolicy

if TYPE_CHECKING:
    from .repository.configuration import WorkerPlan


class Launch(NamedTuple):
    """An instance that is to be started, with the plan that it was asked for with: the configuration may have it no more."""

    plan: WorkerPlan
    model: ServedModel

    @property
    def name(self) -> str:
        """That of the instance."""
        return self.plan.name


class Launches:
    """What is to be started, and the crash history that decides about it."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._count = 0
        #: those that wait for room, the first asked for first
        self._waiting: deque[Launch] = deque()
        #: (time, order, launch) of restarts to come; a heap
        self._restarts: list[tuple[int, int, Launch]] = []
        #: (generation of the model, instance name) -> its crash history
        self._policies: dict[tuple[int, str], RestartPolicy] = {}

    def __repr__(self) -> str:
        return f"<Launches {len(self._waiting)} wait for room, {len(self._restarts)} restarts due>"

    def check_invariants(self) -> None:
        """Nothing is listed twice; the heap is one."""
        listed = [(launch.model.number, launch.name) for launch in self._launches()]
        assert len(set(listed)) == len(listed), self
        restarts = self._restarts
        assert all(restarts[(i - 1) // 2] <= restarts[i] for i in range(1, len(restarts))), self

    def ask(self, plan: WorkerPlan, model: ServedModel) -> None:
        """An instance to be started when there is room."""
        self._waiting.append(Launch(plan, model))

    def crashed(self, plan: WorkerPlan, model: ServedModel, now_ns: int) -> str:
        """An instance died, or could not be started: it is started again later (""), or given up, with the reason."""
        delay_ns = self._policies.setdefault((model.number, plan.name), RestartPolicy()).crashed(now_ns)
        if delay_ns is None:
            return f"{plan.name} crashed {CRASHES} times in {WITHIN_NS // 10**9} s"
        self.again(plan, model, now_ns + delay_ns)
        return ""

    def again(self, plan: WorkerPlan, model: ServedModel, due_ns: int) -> None:
        """An instance that died is started again at that time."""
        self._count += 1
        heapq.heappush(self._restarts, (due_ns, self._count, Launch(plan, model)))

    def take(self, now_ns: int, loading: int) -> Launch | None:
        """The next to be started now, while so many instances are loading. One by one: others may be dropped meanwhile."""
        if self._restarts and self._restarts[0][0] <= now_ns:
            return heapq.heappop(self._restarts)[2]
        return self._waiting.popleft() if self._waiting and loading < self._at_once else None

    def expects(self, model: ServedModel, names: set[str] | None = None) -> bool:
        """Whether an instance of the model is to be started, or one of these names."""
        return any(launch.model is model and (names is None or launch.name in names) for launch in self._launches())

    def drop(self, model: ServedModel, names: set[str] | None = None) -> None:
        """Starts no more instances of the model, or none of these names."""

        def stays(launch: Launch) -> bool:
            return launch.model is not model or not (names is None or launch.name in names)

        self._waiting = deque(launch for launch in self._waiting if stays(launch))
        self._restarts = [entry for entry in self._restarts if stays(entry[2])]
        heapq.heapify(self._restarts)
        for key in [key for key in self._policies if key[0] == model.number and (names is None or key[1] in names)]:
            del self._policies[key]

    def clear(self) -> None:
        """Starts nothing any more."""
        self._waiting.clear()
        self._restarts.clear()

    def next_deadline(self) -> int | None:
        """When the next restart is due."""
        return self._restarts[0][0] if self._restarts else None

    def _launches(self) -> Iterator[Launch]:
        yield from self._waiting
        for _, _, launch in self._restarts:
            yield launch
