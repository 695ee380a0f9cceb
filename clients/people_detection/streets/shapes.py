# SPDX-License-Identifier: Apache-2.0
"""Drawing with numpy alone: shapes that know how far away a point is, filled on a canvas with smooth edges.

Coordinates are pixels, x to the right and y downwards. A shape's distance is negative inside it. With no library that draws,
a scene is the same wherever it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Colour = Sequence[float] | Floats
"""RGB, each 0 to 1."""

Shade = Callable[[Floats, Floats], Floats]
"""What colours are multiplied by at (x, y)."""

NOBODY = -1


class Shape(Protocol):
    """What a canvas can fill."""

    def bounds(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 that all of it lies within."""

    def distance(self, x: Floats, y: Floats) -> Floats:
        """From each point to the edge, in pixels; negative inside."""


@dataclass(frozen=True)
class Limb:
    """All that is within a radius of a line, the radius changing along it: a limb, a pole, a trunk."""

    x1: float
    y1: float
    x2: float
    y2: float
    radius1: float
    radius2: float

    def bounds(self) -> tuple[float, float, float, float]:
        most = max(self.radius1, self.radius2)
        xs, ys = sorted((self.x1, self.x2)), sorted((self.y1, self.y2))
        return xs[0] - most, ys[0] - most, xs[1] + most, ys[1] + most

    def distance(self, x: Floats, y: Floats) -> Floats:
        along_x, along_y = self.x2 - self.x1, self.y2 - self.y1
        length = max(along_x**2 + along_y**2, 1e-9)
        at = np.clip(((x - self.x1) * along_x + (y - self.y1) * along_y) / length, 0, 1)
        away: Floats = np.hypot(x - self.x1 - at * along_x, y - self.y1 - at * along_y)
        return away - self.radius1 - at * (self.radius2 - self.radius1)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with axes along x and y. Its distance is exact at the edge and approximate elsewhere."""

    x: float
    y: float
    radius_x: float
    radius_y: float

    def bounds(self) -> tuple[float, float, float, float]:
        return self.x - self.radius_x, self.y - self.radius_y, self.x + self.radius_x, self.y + self.radius_y

    def distance(self, x: Floats, y: Floats) -> Floats:
        right, down = (x - self.x) / self.radius_x, (y - self.y) / self.radius_y
        from_centre = np.hypot(right, down)
        slope = np.hypot(right / self.radius_x, down / self.radius_y)
        distance: Floats = from_centre * (from_centre - 1) / np.maximum(slope, 1e-6)
        return np.where(from_centre < 1e-3, -min(self.radius_x, self.radius_y), distance)


@dataclass(frozen=True)
class Polygon:
    """A convex polygon, its corners clockwise as seen, rounded by growing it by `rounding` pixels."""

    corners: tuple[tuple[float, float], ...]
    rounding: float = 0.0

    def bounds(self) -> tuple[float, float, float, float]:
        xs, ys = zip(*self.corners, strict=True)
        return min(xs) - self.rounding, min(ys) - self.rounding, max(xs) + self.rounding, max(ys) + self.rounding

    def distance(self, x: Floats, y: Floats) -> Floats:
        inside = np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf)
        outside = np.full(inside.shape, np.inf)
        for (x1, y1), (x2, y2) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            along_x, along_y = x2 - x1, y2 - y1
            length = max(float(np.hypot(along_x, along_y)), 1e-9)
            np.maximum(inside, ((x - x1) * along_y - (y - y1) * along_x) / length, out=inside)
            if self.rounding:
                np.minimum(outside, Limb(x1, y1, x2, y2, 0, 0).distance(x, y), out=outside)
        if not self.rounding:
            return inside
        return np.where(inside > 0, outside, inside) - self.rounding


def rectangle(x1: float, y1: float, x2: float, y2: float, rounding: float = 0.0) -> Polygon:
    """From corner to corner."""
    return Polygon(((x1, y1), (x2, y1), (x2, y2), (x1, y2)), rounding)


class Canvas:
    """An image in the making, and whose each pixel is: what was drawn last there."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.zeros((height, width, 3), np.float32)
        self.owners = np.full((height, width), NOBODY, np.int16)

    def __repr__(self) -> str:
        height, width = self.owners.shape
        return f"<Canvas of {width} x {height}, {len(np.unique(self.owners))} owners>"

    def check_invariants(self) -> None:
        assert self.pixels.shape == (*self.owners.shape, 3)
        assert np.isfinite(self.pixels).all(), "a shape or a shade is not finite"
        assert self.owners.min() >= NOBODY

    def fill(
        self, shape: Shape, colour: Colour, *, owner: int = NOBODY, opacity: float = 1.0, shade: Shade | None = None
    ) -> None:
        """Draws over what is there. What lies outside the canvas is cut off; glass and shadows own nothing."""
        x1, y1, x2, y2 = shape.bounds()
        height, width = self.owners.shape
        left, right = max(int(x1) - 1, 0), min(int(x2) + 2, width)
        top, bottom = max(int(y1) - 1, 0), min(int(y2) + 2, height)
        if left >= right or top >= bottom:
            return
        x = np.arange(left, right, dtype=np.float32)[np.newaxis] + np.float32(0.5)
        y = np.arange(top, bottom, dtype=np.float32)[:, np.newaxis] + np.float32(0.5)
        covered = np.clip(0.5 - shape.distance(x, y), 0, 1).astype(np.float32)
        paint: Floats = np.asarray(colour, np.float32)[np.newaxis, np.newaxis]
        if shade is not None:
            paint = shade(x, y).astype(np.float32)[..., np.newaxis] * paint
        window = self.pixels[top:bottom, left:right]
        window += np.float32(opacity) * covered[..., np.newaxis] * (paint - window)
        if opacity == 1.0:
            self.owners[top:bottom, left:right][covered > 0.5] = owner
