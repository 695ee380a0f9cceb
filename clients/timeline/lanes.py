# SPDX-License-Identifier: Apache-2.0
"""What both drawings show: a lane per instance with its batches, and how many requests of a model wait. Pure."""

from __future__ import annotations

from typing import NamedTuple

from .records import Trace, TracedBatch


class Lane(NamedTuple):
    """An instance and what it executed, in order. Batches of one instance never overlap."""

    instance: str
    batches: list[TracedBatch]


class ModelLanes(NamedTuple):
    """One model version. `waiting`: (time, how many wait from then on), in order of time."""

    label: str
    lanes: list[Lane]
    waiting: list[tuple[int, int]]


def model_lanes(trace: Trace) -> list[ModelLanes]:
    """By name; instances too."""
    found = []
    for label in trace.labels:
        batches = [batch for batch in trace.batches if batch.label == label]
        lanes = [Lane(name, [b for b in batches if b.instance == name]) for name in sorted({b.instance for b in batches})]
        changes = [(request.arrived_ns, 1) for batch in batches for request in batch.requests]
        changes += [(batch.started_ns, -len(batch.requests)) for batch in batches]
        early = [request for request in trace.early if request.label == label]
        changes += [(request.arrived_ns, 1) for request in early] + [(request.ended_ns, -1) for request in early]
        found.append(ModelLanes(label, lanes, _running_sum(changes)))
    return found


def _running_sum(changes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(time, sum of all changes up to then), a point for each time."""
    points: list[tuple[int, int]] = []
    level = 0
    for time_ns, change in sorted(changes):
        level += change
        if points and points[-1][0] == time_ns:
            points[-1] = (time_ns, level)
        else:
            points.append((time_ns, level))
    return points
