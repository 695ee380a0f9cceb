# SPDX-License-Identifier: Apache-2.0
"""How fast a converted model is as served, by the measuring of `penstock perf`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from ..client import Client
from ..perf.figures import Row
from ..perf.measuring import Measurer
from ..perf.plan import Plan, Windows, memory_over, points_of
from ..perf.target import TargetSpec
from ..perf.targets import open_target
from .samples import UsedShapes
from .signatures import batch_sizes

CONCURRENCY = 4
"""Requests in flight: enough that instances are never idle for want of one, and that the batcher has some to choose from."""
TRIALS = 6


def fastest(client: Client, name: str, version: int, shapes: UsedShapes, interval_ms: int, say: Callable[[str], None]) -> Row:
    """The batch size with the most inferences per second, and its figures. Raises PenstockError."""
    model = client.model(name, version)
    sizes, concurrency = batch_sizes(model.max_batch_size) or (1,), min(CONCURRENCY, client.max_in_flight)
    plan = Plan(
        points=points_of(model, sizes, (concurrency,), client.max_in_flight),
        memory=memory_over(client.address.kind, None), shapes={name: used[0] for name, used in shapes.items()},
        windows=Windows(interval_ms=interval_ms, max_trials=TRIALS),
    )  # fmt: skip
    spec = TargetSpec(link=client.address.kind, address=str(client.address), model=name, version=version)
    with closing(open_target(spec)) as target:
        return max(Measurer(target, plan, say).rows(), key=lambda row: row.inferences_per_s)
