# SPDX-License-Identifier: Apache-2.0
"""Boxes drawn on the image they were found in, each with its class and confidence. Drawn by Pillow (the extra `images`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .boxes import Box
from .images import as_pillow
from .layout import HEIGHT, WIDTH, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Rectangle = tuple[float, float, float, float]

COLOURS = {"person": (64, 255, 64), "bag": (96, 176, 255), "face": (255, 224, 32)}
"""Bright, so that black text on them is legible."""

TEXT_COLOUR = (0, 0, 0)


def draw_boxes(image: Pixels, boxes: Sequence[Box]) -> Image:
    """A copy of the image, of whatever size, with the boxes that were found in it after it was scaled for the network.

    Raises CallerError without Pillow.
    """
    canvas = as_pillow(image).copy()
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(canvas)
    wide, high = canvas.width / WIDTH, canvas.height / HEIGHT
    line = max(2, round(canvas.height / 300))
    font = ImageFont.load_default(size=max(11, canvas.height / 42))
    rectangles = [(box.x1 * wide, box.y1 * high, box.x2 * wide, box.y2 * high) for box in boxes]
    for box, rectangle in zip(boxes, rectangles, strict=True):
        draw.rectangle(rectangle, outline=COLOURS[box.label], width=line)
    taken: list[Rectangle] = []
    for box, rectangle in zip(boxes, rectangles, strict=True):
        text = f"{box.label} {box.confidence:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        size = (right - left + 2 * line, bottom - top + 2 * line)
        places = list(_places(rectangle, size, (canvas.width, canvas.height)))
        place = next((one for one in places if not any(_overlap(one, other) for other in taken)), places[0])
        taken.append(place)
        draw.rectangle(place, fill=COLOURS[box.label])
        draw.text((place[0] + line - left, place[1] + line - top), text, fill=TEXT_COLOUR, font=font)
    return canvas


def _places(box: Rectangle, size: tuple[float, float], image: tuple[int, int]) -> Iterator[Rectangle]:
    """Where the label of a box may stand, the best place first: above it, below it, then within it; always in the image."""
    for x, y in ((box[0], box[1] - size[1]), (box[0], box[3]), (box[0], box[1]), (box[2] - size[0], box[1] - size[1])):
        left = min(max(x, 0), max(image[0] - size[0], 0))
        top = min(max(y, 0), max(image[1] - size[1], 0))
        yield (left, top, left + size[0], top + size[1])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
