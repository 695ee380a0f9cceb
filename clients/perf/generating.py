# SPDX-License-Identifier: Apache-2.0
"""A load generator of one point, in this process or in several: what a Measurer has run for each window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from msgspec import structs

from .arrivals import Arrivals, Share
from .closed_loop import ClosedLoop
from .load import Load, Stint
from .open_loop import OpenLoop
from .plan import Plan, Point
from .target import Target

SEED_STEP = 1 << 32
"""Between the seeds of processes: more than a seed anybody gives, so that none of them sends what another does."""


class Loop(Protocol):
    """Sends requests of one point whenever it is run."""

    def warm_up(self, requests: int) -> Load:
        """So many (of each process), uncounted."""
        ...

    def run(self, stint: Stint) -> Load:
        """Begins with nothing in flight and ends so. Raises PenstockError."""
        ...


class Generators(Protocol):
    """Those that make the load: one in this process (`Alone`), or several processes (processes.py)."""

    def at(self, point: Point) -> AbstractContextManager[Loop]:
        """Requests of that point, prepared until the block ends. Raises PenstockError."""
        ...


@contextmanager
def loop_of(target: Target, plan: Plan, point: Point, share: Share) -> Iterator[Loop]:
    """The loop of one process, with its share of the point's load."""
    mine = point._replace(concurrency=share.part(point.concurrency))
    with target.prepare(structs.replace(plan, seed=plan.seed + share.number * SEED_STEP), mine) as requests:
        if point.request_rate is None:
            yield ClosedLoop(requests, mine.batch, mine.concurrency)
        else:
            yield OpenLoop(requests, mine.batch, Arrivals(point.request_rate, plan.distribution, plan.seed, share))


class Alone:
    """The calling thread, on the target it was given."""

    def __init__(self, target: Target, plan: Plan) -> None:
        self._target = target
        self._plan = plan

    def __repr__(self) -> str:
        return f"<Alone with {self._target!r}>"

    def check_invariants(self) -> None:
        """It is all there is."""
        assert self._plan.processes == 1, self

    def at(self, point: Point) -> AbstractContextManager[Loop]:
        """All of the load."""
        return loop_of(self._target, self._plan, point, Share())
