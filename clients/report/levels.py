# SPDX-License-Identifier: Apache-2.0
"""What a row was measured at, so that rows of several runs can be held side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from ..perf.run_file import RowRecord

Value = TypeVar("Value")


class Level(NamedTuple):
    """How much load there was: requests in flight, or, of an open loop, requests per second asked for."""

    kind: Literal["concurrency", "rate"]
    value: float

    def __str__(self) -> str:
        return f"concurrency {self.value:g}" if self.kind == "concurrency" else f"{number(self.value)} requests/s"


class Place(NamedTuple):
    """Where a row stands: comparable with another run's row at the same place, and with no other."""

    batch: int
    level: Level

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.level}"


def place_of(row: RowRecord) -> Place:
    """Of an open loop the rate that was asked for; how many were in flight then is a result."""
    level = Level("concurrency", row.concurrency) if row.request_rate is None else Level("rate", row.request_rate)
    return Place(row.batch, level)


def spread(values: Iterable[Value], most: int) -> list[Value]:
    """At most so many (2 or more) of them in order, evenly chosen, with the first and the last."""
    found: Sequence[Value] = list(values)
    if len(found) <= most:
        return list(found)
    return [found[round(step * (len(found) - 1) / (most - 1))] for step in range(most)]


def number(value: float) -> str:
    """A count or a rate as people read it: 12,800 and 0.5."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"
