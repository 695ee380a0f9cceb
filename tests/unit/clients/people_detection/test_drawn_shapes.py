# SPDX-License-Identifier: Apache-2.0
"""Shapes filled on a canvas: their area, their edges, what is cut off, and who owns what was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.clients.people_detection.streets.shapes import NOBODY, Canvas, Ellipse, Limb, Polygon, Shape, rectangle

WHITE = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (rectangle(10, 10, 30, 20), 200),
        (rectangle(10, 10, 30, 20, rounding=3), 200 + 2 * 3 * 30 + np.pi * 9),
        (Ellipse(32, 24, 12, 8), np.pi * 96),
        (Limb(10, 24, 50, 24, 5, 5), 40 * 10 + np.pi * 25),
        (Polygon(((10, 10), (50, 10), (10, 40))), 600),
    ],
)
def test_a_shape_covers_its_area(shape: Shape, area: float) -> None:
    canvas = Canvas(48, 64)
    canvas.fill(shape, WHITE, owner=1)
    canvas.check_invariants()
    assert canvas.pixels[..., 0].sum() == pytest.approx(area, rel=0.02)
    assert (canvas.owners == 1).sum() == pytest.approx(area, rel=0.06)


def test_edges_between_pixels_are_smooth() -> None:
    canvas = Canvas(8, 8)
    canvas.fill(rectangle(2, 2, 5.5, 6), WHITE)
    assert canvas.pixels[4, :, 0].tolist() == pytest.approx([0, 0, 1, 1, 1, 0.5, 0, 0])


def test_what_lies_outside_the_canvas_is_cut_off() -> None:
    canvas = Canvas(8, 8)
    canvas.fill(Ellipse(-50, -50, 10, 10), WHITE, owner=1)
    assert (canvas.owners == NOBODY).all()
    canvas.fill(rectangle(-20, -20, 4, 100), WHITE, owner=1)
    assert (canvas.owners == 1).sum() == 4 * 8
    canvas.check_invariants()


def test_what_is_drawn_last_owns_the_pixel_and_a_shadow_owns_nothing() -> None:
    canvas = Canvas(4, 4)
    canvas.fill(rectangle(-1, -1, 5, 5), WHITE, owner=1)
    canvas.fill(rectangle(-1, -1, 5, 5), (0, 0, 0), opacity=0.25)
    assert (canvas.owners == 1).all()
    assert canvas.pixels == pytest.approx(0.75)
    canvas.fill(rectangle(0, 0, 2, 4), (0, 0, 0), owner=2)
    assert canvas.owners.tolist() == [[2, 2, 1, 1]] * 4
    assert repr(canvas) == "<Canvas of 4 x 4, 2 owners>"


def test_a_shade_darkens_by_place() -> None:
    canvas = Canvas(2, 4)
    canvas.fill(rectangle(-1, -1, 5, 3), WHITE, shade=lambda x, y: x / 4 + 0 * y)
    assert canvas.pixels[0, :, 2].tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875])
