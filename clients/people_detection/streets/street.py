# SPDX-License-Identifier: Apache-2.0
"""What is in a street beside people: sky, houses, pavements, a road."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .shapes import Canvas, Ellipse, Floats, Polygon, rectangle

Random = np.random.Generator


@dataclass(frozen=True)
class Street:
    """The lie of the land, in pixels of a canvas: where a metre is how long, and what lies where from the horizon down."""

    width: int
    height: int
    horizon: float
    eye: float  # height of the camera above the ground, in metres
    facades: float  # where houses meet the pavement
    kerbs: tuple[float, float]  # between pavement, road and pavement

    @classmethod
    def drawn_by(cls, random: Random, width: int, height: int) -> Street:
        horizon = height * random.uniform(0.22, 0.36)
        facades = horizon + height * random.uniform(0.06, 0.10)
        road = facades + height * random.uniform(0.06, 0.16)
        return cls(width, height, horizon, random.uniform(1.9, 3.0), facades, (road, road + height * random.uniform(0.15, 0.3)))

    def metre(self, y: float) -> float:
        """In pixels, of something standing on the ground at y."""
        return (y - self.horizon) / self.eye


def draw_street(canvas: Canvas, random: Random, street: Street) -> None:
    """Everything that stands behind everybody."""
    light = random.uniform(0.45, 1.0)
    _sky(canvas, random, street, light)
    x = -random.uniform(0, 100)
    while x < street.width:
        width = random.uniform(90, 260)
        _house(canvas, random, street, x, x + width, light)
        x += width + (random.uniform(10, 60) if random.random() < 0.2 else 0)
    _ground(canvas, random, street, light)


def _sky(canvas: Canvas, random: Random, street: Street, light: float) -> None:
    above = np.array([0.35, 0.58, 0.90]) if random.random() < 0.6 else np.full(3, 0.75)
    below = above * 0.5 + 0.48
    down = np.linspace(0, 1, street.height, dtype=np.float32)[:, np.newaxis, np.newaxis]
    canvas.pixels[:] = light * (above * (1 - down) + below * down)
    for _ in range(random.integers(0, 5)):
        x, y = random.uniform(0, street.width), random.uniform(0, street.horizon * 0.7)
        for _ in range(5):
            at = Ellipse(x + random.normal(0, 35), y + random.normal(0, 6), random.uniform(25, 60), random.uniform(8, 18))
            canvas.fill(at, (light, light, light), opacity=0.45)


def _house(canvas: Canvas, random: Random, street: Street, x1: float, x2: float, light: float) -> None:
    top = random.uniform(-80, street.horizon * 0.75)
    wall = light * (np.array([0.62, 0.52, 0.44]) + random.normal(0, 0.12, 3)) * random.uniform(0.6, 1.2)
    rough = random.uniform(0, 0.08)
    courses = random.uniform(4, 9)

    def brickwork(x: Floats, y: Floats) -> Floats:
        bricks: Floats = np.floor(y / courses) * 7 + np.floor(x / courses / 2)
        return 1 - rough * (bricks % 3)

    canvas.fill(rectangle(x1, top, x2, street.facades), wall, shade=brickwork)
    canvas.fill(rectangle(x1, top - 4, x2, top + 4), wall * 0.7)
    storey, column = random.uniform(34, 60), random.uniform(26, 48)
    glass = light * random.uniform(0.15, 0.6) * np.array([0.75, 0.9, 1.0])
    y = street.facades - storey * 1.5
    while y > top + 6:
        for left in np.arange(x1 + column * 0.4, x2 - column * 0.6, column):
            pane = (0.95, 0.85, 0.5) if random.random() < 0.06 else glass * random.uniform(0.8, 1.2)
            canvas.fill(rectangle(left - 2, y - storey * 0.3 - 2, left + column * 0.5 + 2, y + storey * 0.25 + 2), wall * 1.25)
            canvas.fill(rectangle(left, y - storey * 0.3, left + column * 0.5, y + storey * 0.25), pane)
        y -= storey
    _ground_floor(canvas, random, street, (x1, x2), storey, light)


def _ground_floor(
    canvas: Canvas, random: Random, street: Street, sides: tuple[float, float], storey: float, light: float
) -> None:
    """A shop window, a door, sometimes an awning."""
    x1, x2 = sides
    base, paint = street.facades, light * random.random(3) * 0.8
    middle = x1 + (x2 - x1) * random.uniform(0.3, 0.7)
    window = rectangle(x1 + 8, base - storey * 0.85, middle - 8, base - storey * 0.15)
    canvas.fill(rectangle(x1 + 4, base - storey, middle - 4, base), paint)
    canvas.fill(window, light * random.uniform(0.2, 0.8) * np.array([0.9, 0.95, 1.0]))
    canvas.fill(rectangle(middle, base - storey * 0.9, middle + storey * 0.4, base), paint * 0.6)
    canvas.fill(Ellipse(middle + storey * 0.33, base - storey * 0.42, 1.5, 1.5), (0.8, 0.7, 0.3))
    if random.random() < 0.4:
        cloth = random.random(3)
        stripe = random.uniform(5, 10)

        def stripes(x: Floats, y: Floats) -> Floats:
            return np.where(np.floor(x / stripe) % 2 == 0, 1.0, 0.45) + 0 * y

        corners = (
            (x1 + 6, base - storey),
            (middle - 6, base - storey),
            (middle + 2, base - storey * 0.72),
            (x1 - 2, base - storey * 0.72),
        )
        canvas.fill(Polygon(corners), light * cloth, shade=stripes)


def _ground(canvas: Canvas, random: Random, street: Street, light: float) -> None:
    stone, tar = light * random.uniform(0.45, 0.75) * np.array([1.0, 0.98, 0.94]), light * np.full(3, random.uniform(0.2, 0.42))
    first, second = street.kerbs
    vanishing = street.width * random.uniform(0.2, 0.8)
    slab = random.uniform(0.5, 1.1)

    def slabs(x: Floats, y: Floats) -> Floats:
        far = street.eye / np.maximum((y - street.horizon) / street.height, 0.01)
        joints = (np.abs(far / slab % 1) < 0.04) | (np.abs((x - vanishing) / street.height * far / slab % 1) < 0.04)
        return np.where(joints & (far < 14), 0.85, 1.0)

    canvas.fill(rectangle(-2, street.facades, street.width + 2, street.height + 2), stone, shade=slabs)
    canvas.fill(rectangle(-2, first, street.width + 2, second), tar)
    for kerb in street.kerbs:
        canvas.fill(rectangle(-2, kerb - 2, street.width + 2, kerb + 2), stone * 1.2)
    middle = (first + second) / 2
    if random.random() < 0.7:
        for x in np.arange(-random.uniform(0, 90), street.width, 110):
            canvas.fill(rectangle(x, middle - 2, x + 55, middle + 2), light * np.full(3, 0.85))
    if random.random() < 0.35:
        start = random.uniform(0, street.width * 0.7)
        for number in range(6):
            ends = [vanishing + (start + number * 44 + at - vanishing) * 0.8 for at in (0, 24)]
            corners = (
                (ends[0], first + 3),
                (ends[1], first + 3),
                (start + number * 44 + 24, second - 3),
                (start + number * 44, second - 3),
            )
            canvas.fill(Polygon(corners), light * np.full(3, 0.85))
    grain = random.normal(0, 0.02 * light, (street.height - int(street.facades), street.width, 1))
    canvas.pixels[int(street.facades) :] += grain.astype(np.float32)
