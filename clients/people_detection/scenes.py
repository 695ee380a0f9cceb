# SPDX-License-Identifier: Apache-2.0
"""Street scenes drawn by a seed, with the boxes of all that a detector should find in them.

The same seed draws the same scene. The detector that is shipped is trained and judged on such scenes; the demo shows one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .boxes import Box
from .layout import HEIGHT, WIDTH, Pixels
from .streets.figures import PARTS, Figure, Part, owner_of
from .streets.looks import Look
from .streets.pedestrians import draw_pedestrian
from .streets.shapes import Canvas
from .streets.street import Random, Street, draw_street
from .streets.things import ON_PAVEMENTS, ON_ROADS

SMALLEST = {"person": 48.0, "bag": 14.0, "face": 12.0}
"""Pixels in height; what is lower may be found or not."""

LEAST_VISIBLE = {"person": 0.4, "bag": 0.6, "face": 0.7}
"""Of its pixels; what is hidden more may be found or not."""

PERSON_HEIGHT_M = (1.45, 1.95)
LEAST_METRE = 50.0
"""Pixels that a metre has where the farthest people stand."""

LEAST_APART = 0.11
"""Of the heights of two together, from the feet of one to those of the other: about as far as they touch."""


class Truth(NamedTuple):
    """Something in a scene."""

    box: Box  # all of it that lies in the image, hidden or not; its confidence is the part that nothing hides
    counts: bool  # large and visible enough that a detector should find it


class Scene(NamedTuple):
    """An image, and what is in it, the farthest first."""

    pixels: Pixels  # [544, 960, 3]
    truths: tuple[Truth, ...]


def draw_scene(seed: int) -> Scene:
    """The scene of a seed: one street, some things, and some people."""
    random = np.random.default_rng(seed)
    street = Street.drawn_by(random, WIDTH, HEIGHT)
    canvas = Canvas(HEIGHT, WIDTH)
    draw_street(canvas, random, street)
    people = _people(random, street)
    drawn: list[_Drawn] = []
    things = [(person.y, number) for number, person in enumerate(people)] + [(y, -1) for y in _places(random, street)]
    for y, number in sorted(things):
        if number < 0:
            _put_thing(canvas, random, street, y)
        else:
            person = people[number]
            draw_pedestrian(Figure(canvas, number, person.x, person.y, person.height, person.mirrored), person.look)
            drawn += _parts(canvas, number)
    truths = tuple(_truth(canvas, part) for part in drawn)
    return Scene(_photographed(random, canvas), truths)


class _Pedestrian(NamedTuple):
    """A look at a place: the feet at (x, y), so many pixels high."""

    look: Look
    x: float
    y: float
    height: float
    mirrored: bool


class _Drawn(NamedTuple):
    """A part of a pedestrian as it was before anything was drawn over it."""

    part: Part
    owners: tuple[int, ...]
    pixels: int
    corners: tuple[float, float, float, float]


def _people(random: Random, street: Street) -> list[_Pedestrian]:
    """People alone, in pairs and threes side by side, at all distances; nobody right behind anybody."""
    people: list[_Pedestrian] = []
    nearest = street.height * 1.15
    farthest = street.horizon + LEAST_METRE * street.eye
    for _ in range(random.integers(5, 12)):
        y = farthest + (nearest - farthest) * random.random()
        x = random.uniform(0.03, 0.97) * street.width
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            height = street.metre(y) * random.uniform(*PERSON_HEIGHT_M)
            one = _Pedestrian(Look.drawn_by(random), x, y, height, bool(random.random() < 0.5))
            if all(abs(x - other.x) > LEAST_APART * (height + other.height) for other in people):
                people.append(one)
            x += random.choice([-1, 1]) * height * random.uniform(0.25, 0.5)
            y += random.uniform(-0.02, 0.05) * height
    return people


def _places(random: Random, street: Street) -> list[float]:
    """How far down things stand."""
    return [random.uniform(street.facades + 4, street.height * 1.05) for _ in range(random.integers(2, 8))]


def _put_thing(canvas: Canvas, random: Random, street: Street, y: float) -> None:
    things = ON_ROADS if street.kerbs[0] < y < street.kerbs[1] else ON_PAVEMENTS
    things[random.integers(len(things))](canvas, random, random.uniform(0, street.width), y, street.metre(y))


def _parts(canvas: Canvas, number: int) -> list[_Drawn]:
    """The parts of somebody who has just been drawn. A person's face is a part of them, their bag is not."""
    found = []
    for part in PARTS:
        owners = (owner_of(number, "person"), owner_of(number, "face")) if part == "person" else (owner_of(number, part),)
        seen = np.isin(canvas.owners, owners)
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if len(rows):
            corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(_Drawn(part, owners, int(seen.sum()), corners))
    return found


def _truth(canvas: Canvas, drawn: _Drawn) -> Truth:
    visible = float(np.isin(canvas.owners, drawn.owners).sum() / drawn.pixels)
    box = Box(drawn.part, visible, *drawn.corners)
    return Truth(box, visible >= LEAST_VISIBLE[drawn.part] and box.y2 - box.y1 >= SMALLEST[drawn.part])


def _photographed(random: Random, canvas: Canvas) -> Pixels:
    """As a camera would see it: its exposure, its colours, its noise."""
    exposure, tint = random.uniform(0.8, 1.15), random.uniform(0.94, 1.06, 3)
    noise = random.standard_normal(canvas.pixels.shape, np.float32) * np.float32(random.uniform(0.004, 0.02))
    pixels = canvas.pixels * (exposure * tint).astype(np.float32) + noise
    return (pixels.clip(0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
