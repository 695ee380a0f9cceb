# SPDX-License-Identifier: Apache-2.0
"""Where labels of points go so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

GAP = 5.0
"""Between a point's middle and its label."""
POINT = 3.0
"""Half of what a point takes."""


class Box(NamedTuple):
    """In the units of the drawing, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether they have more than an edge in common."""
        return self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top

    def holds(self, other: Box) -> bool:
        """Whether the other is within."""
        return self.left <= other.left and other.right <= self.right and self.bottom <= other.bottom and other.top <= self.top


def free_places(
    points: Sequence[tuple[float, ...]], sizes: Sequence[tuple[float, float]], area: Box
) -> list[tuple[float, float] | None]:
    """The left bottom corner of each label (of `sizes`) beside its point and within the area; None where there is no room."""
    taken = [Box(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in points]
    found: list[tuple[float, float] | None] = []
    for (x, y), size in zip(points, sizes, strict=True):
        place = next((box for box in _beside(x, y, *size) if area.holds(box) and not any(map(box.meets, taken))), None)
        if place is not None:
            taken.append(place)
        found.append(None if place is None else place[:2])
    return found


def _beside(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Below to the right first: curves of throughput over latency rise, and leave that free."""
    for left, bottom in (
        (x + GAP, y - GAP - height), (x - GAP - width, y + GAP), (x + GAP, y - height / 2), (x - width / 2, y - GAP - height),
        (x - width / 2, y + GAP), (x - GAP - width, y - height / 2), (x + GAP, y + GAP), (x - GAP - width, y - GAP - height),
    ):  # fmt: skip
        yield Box(left, bottom, left + width, bottom + height)
