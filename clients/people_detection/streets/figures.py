# SPDX-License-Identifier: Apache-2.0
"""Where somebody stands and how large: what turns the proportions of a body into shapes on a canvas.

Lengths are fractions of the height: `across` from the line through the feet, to the right, and `up` from the ground. Someone
in profile walks to the right, or to the left when mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .shapes import Canvas, Colour, Ellipse, Floats, Limb, Polygon, Shade

Part = Literal["person", "bag", "face"]
PARTS: tuple[Part, ...] = ("person", "bag", "face")
Point = tuple[float, float]
"""Across and up."""


def owner_of(number: int, part: Part) -> int:
    """Whose a pixel is: a part of pedestrian `number`."""
    return number * len(PARTS) + PARTS.index(part)


@dataclass(frozen=True)
class Figure:
    """Pedestrian `number` on a canvas: the feet at (x, y), so many pixels high."""

    canvas: Canvas
    number: int
    x: float
    y: float
    height: float
    mirrored: bool

    def limb(self, start: Point, end: Point, radii: tuple[float, float], colour: Colour, part: Part = "person") -> None:
        shape = Limb(*self._at(*start), *self._at(*end), radii[0] * self.height, radii[1] * self.height)
        self.canvas.fill(shape, colour, owner=owner_of(self.number, part), shade=self._light())

    def ellipse(self, at: Point, radii: tuple[float, float], colour: Colour, part: Part = "person") -> None:
        shape = Ellipse(*self._at(*at), radii[0] * self.height, radii[1] * self.height)
        self.canvas.fill(shape, colour, owner=owner_of(self.number, part), shade=self._light())

    def polygon(
        self, corners: list[Point], rounding: float, colour: Colour, part: Part = "person", shade: Shade | None = None
    ) -> None:
        """Corners clockwise as seen when not mirrored."""
        placed = [self._at(*corner) for corner in (reversed(corners) if self.mirrored else corners)]
        shape = Polygon(tuple(placed), rounding * self.height)
        self.canvas.fill(shape, colour, owner=owner_of(self.number, part), shade=shade or self._light())

    def shadow(self) -> None:
        self.canvas.fill(Ellipse(self.x, self.y, 0.17 * self.height, 0.03 * self.height), (0, 0, 0), opacity=0.3)

    def stripes(self) -> Shade:
        """Of a jumper, in the light that falls on everything."""
        light, y, height = self._light(), self.y, self.height

        def shade(xs: Floats, ys: Floats) -> Floats:
            return light(xs, ys) * np.where(np.sin((y - ys) / height * 130) > 0, 1.0, 0.55)

        return shade

    def _light(self) -> Shade:
        """From the left and above."""
        x, y, height = self.x, self.y, self.height

        def shade(xs: Floats, ys: Floats) -> Floats:
            return 1 - 0.9 * (xs - x) / height + 0.12 * (y - ys) / height

        return shade

    def _at(self, across: float, up: float) -> tuple[float, float]:
        return self.x + (-across if self.mirrored else across) * self.height, self.y - up * self.height
