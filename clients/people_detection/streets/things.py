# SPDX-License-Identifier: Apache-2.0
"""Cars, lamps, trees, bins, bollards, signs and post boxes: they hide some of the people, and must not be taken for any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .shapes import Canvas, Ellipse, Floats, Limb, Polygon, rectangle
from .street import Random

Thing = Callable[[Canvas, Random, float, float, float], None]
"""Draws itself on a canvas, standing on the ground at x and y, where a metre is so many pixels."""


def _shadow(canvas: Canvas, x: float, y: float, radius: float) -> None:
    canvas.fill(Ellipse(x, y, radius, radius * 0.15), (0, 0, 0), opacity=0.3)


def _lamp(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    grey = np.full(3, random.uniform(0.08, 0.5))
    high, arm = random.uniform(3.5, 5.5), random.choice([-0.9, 0.9])
    _shadow(canvas, x, y, 0.4 * metre)
    canvas.fill(Limb(x, y, x, y - high * metre, 0.09 * metre, 0.05 * metre), grey)
    canvas.fill(rectangle(x - 0.13 * metre, y - 0.7 * metre, x + 0.13 * metre, y, 0.02 * metre), grey * 0.8)
    canvas.fill(Limb(x, y - high * metre, x + arm * metre, y - (high + 0.2) * metre, 0.05 * metre, 0.04 * metre), grey)
    canvas.fill(Ellipse(x + arm * metre, y - (high + 0.15) * metre, 0.3 * metre, 0.09 * metre), (0.95, 0.93, 0.8))


def _tree(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    bark, leaf = np.array([0.32, 0.23, 0.15]), np.array([0.2, 0.42, 0.15]) * random.uniform(0.6, 1.3)
    high = random.uniform(2.2, 3.5)
    _shadow(canvas, x, y, metre)
    canvas.fill(Limb(x, y, x + random.normal(0, 0.1) * metre, y - high * metre, 0.17 * metre, 0.11 * metre), bark)
    for _ in range(28):
        at = x + random.normal(0, 0.75) * metre, y - (high + 0.8 + random.normal(0, 0.5)) * metre
        size = random.uniform(0.25, 0.6) * metre
        canvas.fill(Ellipse(*at, size, size * 0.8), leaf * random.uniform(0.65, 1.35))


def _bin(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    paint = np.array([[0.12, 0.3, 0.15], [0.2, 0.2, 0.22], [0.6, 0.3, 0.05]][random.integers(3)])
    _shadow(canvas, x, y, 0.5 * metre)
    body = (
        (x - 0.3 * metre, y - 0.95 * metre),
        (x + 0.3 * metre, y - 0.95 * metre),
        (x + 0.24 * metre, y),
        (x - 0.24 * metre, y),
    )
    canvas.fill(Polygon(body, 0.03 * metre), paint)
    for rib in (-0.12, 0.0, 0.12):
        canvas.fill(
            Limb(x + rib * metre, y - 0.8 * metre, x + rib * metre, y - 0.1 * metre, 0.015 * metre, 0.015 * metre), paint * 0.7
        )
    canvas.fill(rectangle(x - 0.34 * metre, y - 1.08 * metre, x + 0.34 * metre, y - 0.95 * metre, 0.03 * metre), paint * 1.2)


def _bollard(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    high = random.uniform(0.7, 1.1)
    _shadow(canvas, x, y, 0.25 * metre)
    canvas.fill(Limb(x, y, x, y - high * metre, 0.1 * metre, 0.08 * metre), np.full(3, random.uniform(0.08, 0.3)))
    canvas.fill(
        rectangle(x - 0.1 * metre, y - (high - 0.12) * metre, x + 0.1 * metre, y - (high - 0.24) * metre), (0.9, 0.9, 0.85)
    )


def _sign(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    high = random.uniform(2.0, 2.6)
    paint = [(0.8, 0.1, 0.1), (0.1, 0.25, 0.7), (0.9, 0.75, 0.1)][random.integers(3)]
    canvas.fill(Limb(x, y, x, y - high * metre, 0.04 * metre, 0.04 * metre), (0.55, 0.55, 0.57))
    canvas.fill(Ellipse(x, y - high * metre, 0.33 * metre, 0.33 * metre), paint)
    canvas.fill(Ellipse(x, y - high * metre, 0.24 * metre, 0.24 * metre), (0.95, 0.95, 0.95))
    if random.random() < 0.5:
        canvas.fill(
            rectangle(x - 0.15 * metre, y - (high + 0.05) * metre, x + 0.15 * metre, y - (high - 0.05) * metre), (0.1, 0.1, 0.1)
        )


def _post_box(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    paint = np.array([[0.75, 0.1, 0.1], [0.85, 0.65, 0.05], [0.1, 0.25, 0.55]][random.integers(3)])
    _shadow(canvas, x, y, 0.4 * metre)
    canvas.fill(rectangle(x - 0.25 * metre, y - 1.3 * metre, x + 0.25 * metre, y, 0.03 * metre), paint)
    canvas.fill(Ellipse(x, y - 1.3 * metre, 0.3 * metre, 0.15 * metre), paint * 0.85)
    canvas.fill(rectangle(x - 0.16 * metre, y - 1.12 * metre, x + 0.16 * metre, y - 1.06 * metre), (0.05, 0.05, 0.05))
    canvas.fill(rectangle(x - 0.14 * metre, y - 0.95 * metre, x + 0.14 * metre, y - 0.7 * metre), (0.9, 0.9, 0.85))


def _car(canvas: Canvas, random: Random, x: float, y: float, metre: float) -> None:
    paint = random.random(3) if random.random() < 0.5 else np.full(3, random.uniform(0.05, 0.95))
    half, facing = random.uniform(1.9, 2.3), random.choice([-1.0, 1.0])

    def at(along: float, up: float) -> tuple[float, float]:
        return x + facing * along * metre, y - up * metre

    def fill(corners: list[tuple[float, float]], colour: Floats, rounding: float) -> None:
        placed = [at(*corner) for corner in (corners if facing > 0 else reversed(corners))]
        canvas.fill(Polygon(tuple(placed), rounding * metre), colour)

    _shadow(canvas, x, y, half * metre)
    fill([(-half * 0.62, 1.4), (half * 0.25, 1.4), (half * 0.55, 0.85), (-half * 0.85, 0.85)], paint * 0.9, 0.06)
    fill([(-half, 0.85), (half * 0.9, 0.85), (half, 0.32), (-half, 0.32)], paint, 0.08)
    glass = np.array([0.2, 0.26, 0.32])
    fill([(-half * 0.56, 1.32), (-half * 0.18, 1.32), (-half * 0.18, 0.9), (-half * 0.72, 0.9)], glass, 0.0)
    fill([(-half * 0.12, 1.32), (half * 0.22, 1.32), (half * 0.44, 0.9), (-half * 0.12, 0.9)], glass, 0.0)
    fill([(half * 0.9, 0.75), (half * 0.98, 0.75), (half * 0.98, 0.6), (half * 0.9, 0.6)], np.array([1.0, 0.95, 0.7]), 0.02)
    for wheel in (-0.6, 0.6):
        canvas.fill(Ellipse(*at(wheel * half, 0.32), 0.34 * metre, 0.34 * metre), (0.06, 0.06, 0.07))
        canvas.fill(Ellipse(*at(wheel * half, 0.32), 0.18 * metre, 0.18 * metre), (0.6, 0.6, 0.62))


ON_PAVEMENTS: tuple[Thing, ...] = (_lamp, _tree, _bin, _bollard, _sign, _post_box)
ON_ROADS: tuple[Thing, ...] = (_car,)
