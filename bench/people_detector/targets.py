# SPDX-License-Identifier: Apache-2.0
"""What the network should say of a piece of a scene, and how wrong it is.

A cell sees an object where its centre lies in the middle of its box, within an ellipse of MIDDLE times its size, or of
LEAST_RADIUS pixels where that is larger. Where two overlap it is the nearer one's. Cells between that ellipse and the one of
AROUND, and cells that see what does not count, may say of the class what they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from penstock.clients.people_detection.layout import BOX_NORM, CENTRE_OFFSET, CLASSES, STRIDE
from penstock.clients.people_detection.scenes import Truth

MIDDLE, AROUND = 0.4, 0.75
LEAST_RADIUS = 13.0
LEAST_INSIDE = 0.5
"""Of a box that the edge of a piece cuts; of what is cut off more, any coverage will do."""

BOX_LOSS = 1.5
"""What being wrong about boxes weighs, beside being wrong about coverage."""

Array = npt.NDArray[np.float32]


class Targets(NamedTuple):
    """Of one piece or a batch of them."""

    coverage: Array  # [3, rows, columns], 0 or 1
    cares: Array  # [3, rows, columns], 0 where any coverage will do
    boxes: Array  # [3, 4, rows, columns], in BOX_NORM pixels
    sizes: Array  # [3, 2, rows, columns], width and height of the box in BOX_NORM pixels
    weights: Array  # [3, rows, columns], of the box: large objects have many cells and weigh little more for it


def targets_of(truths: Sequence[Truth], left: int, top: int, height: int, width: int) -> Targets:
    """Of the piece of a scene that begins at (left, top)."""
    rows, columns = height // STRIDE, width // STRIDE
    shape = (len(CLASSES), rows, columns)
    found = Targets(
        np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros((3, 4, rows, columns), np.float32),
        np.ones((3, 2, rows, columns), np.float32), np.zeros(shape, np.float32),
    )  # fmt: skip
    x = np.arange(columns)[np.newaxis] * STRIDE + CENTRE_OFFSET
    y = np.arange(rows)[:, np.newaxis] * STRIDE + CENTRE_OFFSET
    for truth in truths:
        box = truth.box
        x1, y1 = max(box.x1 - left, 0), max(box.y1 - top, 0)
        x2, y2 = min(box.x2 - left, width), min(box.y2 - top, height)
        if x1 >= x2 or y1 >= y2:
            continue
        number, sides = CLASSES.index(box.label), (x2 - x1, y2 - y1)
        inside = sides[0] * sides[1] / ((box.x2 - box.x1) * (box.y2 - box.y1))
        away = np.hypot(
            (x - (x1 + x2) / 2) / max(sides[0] / 2 * MIDDLE, LEAST_RADIUS),
            (y - (y1 + y2) / 2) / max(sides[1] / 2 * MIDDLE, LEAST_RADIUS),
        )
        middle, around = away <= 1, away <= AROUND / MIDDLE
        found.cares[number][around] = 0
        found.coverage[number][middle] = 0
        found.weights[number][around] = 0
        if truth.counts and inside >= LEAST_INSIDE:
            found.coverage[number][middle] = found.cares[number][middle] = 1
            found.weights[number][around] = 1 / np.sqrt(max(middle.sum(), 1))
            distances = np.broadcast_arrays(x - x1, y - y1, x2 - x, y2 - y)
            found.boxes[number][:, around] = np.stack(distances)[:, around] / BOX_NORM
            found.sizes[number][:, around] = np.array(sides)[:, np.newaxis] / BOX_NORM
    return found


def batched(targets: Sequence[Targets]) -> list[torch.Tensor]:
    """The fields of Targets, each with a batch dimension."""
    return [torch.from_numpy(np.stack(arrays)) for arrays in zip(*targets, strict=True)]


def loss(coverage: torch.Tensor, boxes: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each class alike, however rare: cross-entropy of the coverage per cell that sees something, and how wrong boxes are.

    A box is as wrong as its sides are off, relative to its size, and as its intersection over union with the truth falls short
    of one.
    """
    seen, cares, distances, sizes, weights = wanted
    entropy = functional.binary_cross_entropy_with_logits(coverage, seen, reduction="none") * cares
    said = boxes.reshape(distances.shape)
    off = ((said - distances).abs().unflatten(2, (2, 2)) / sizes.unsqueeze(2)).sum(dim=(2, 3))
    wrong = (off + 1 - _overlap(said, distances, sizes)) * weights
    each = (0, 2, 3)
    unseen, misplaced = entropy.sum(each) / seen.sum(each).clamp(min=1), wrong.sum(each) / weights.sum(each).clamp(min=1)
    return (unseen + BOX_LOSS * misplaced).mean()


def _overlap(said: torch.Tensor, distances: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Intersection over union of the boxes that cells say and those that they should."""
    shared = torch.minimum(said, distances).unflatten(2, (2, 2)).sum(dim=2).clamp(min=0).prod(dim=2)
    area = said.unflatten(2, (2, 2)).sum(dim=2).clamp(min=0).prod(dim=2)
    return shared / (area + sizes.prod(dim=2) - shared).clamp(min=1e-6)
