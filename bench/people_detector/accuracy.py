# SPDX-License-Identifier: Apache-2.0
"""How good a detector is on scenes whose truth is known: precision, recall and average precision of its clustered boxes.

A box is right where it overlaps a truth of its class by half (intersection over union of 0.5) that no more confident box has
taken. One that overlaps something that does not count, too small or too hidden, is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from penstock.clients.people_detection.boxes import Box, overlaps
from penstock.clients.people_detection.layout import CLASSES
from penstock.clients.people_detection.scenes import Truth

LEAST_OVERLAP = 0.5


class Accuracy(NamedTuple):
    """Of one class over many scenes."""

    label: str
    truths: int
    found: int
    wrong: int
    average_precision: float  # area under precision over recall, each precision the best there is at that recall or above

    @property
    def precision(self) -> float:
        return self.found / max(self.found + self.wrong, 1)

    @property
    def recall(self) -> float:
        return self.found / max(self.truths, 1)


def accuracy(scenes: Iterable[tuple[Sequence[Box], Sequence[Truth]]]) -> list[Accuracy]:
    """Per class, of what was found in each scene and what is in it."""
    pairs = list(scenes)
    return [_of_class(label, pairs) for label in CLASSES]


def _of_class(label: str, scenes: Sequence[tuple[Sequence[Box], Sequence[Truth]]]) -> Accuracy:
    judged: list[tuple[float, bool]] = []
    total = 0
    for boxes, truths in scenes:
        of_class = [truth for truth in truths if truth.box.label == label]
        total += sum(truth.counts for truth in of_class)
        judged += _judged(sorted((box for box in boxes if box.label == label), key=lambda box: -box.confidence), of_class)
    judged.sort(key=lambda one: -one[0])
    right = np.array([one[1] for one in judged], bool)
    return Accuracy(label, total, int(right.sum()), int((~right).sum()), _average_precision(right, total))


def _judged(boxes: Sequence[Box], truths: Sequence[Truth]) -> list[tuple[float, bool]]:
    """Confidence and verdict of each box that has one."""
    if not boxes:
        return []
    corners = np.array([box[2:] for box in [*boxes, *(truth.box for truth in truths)]])
    overlap = overlaps(corners)[: len(boxes), len(boxes) :]
    free = [truth.counts for truth in truths]
    found = []
    for box, row in zip(boxes, overlap, strict=True):
        near = [number for number in np.argsort(-row) if row[number] >= LEAST_OVERLAP]
        taken = next((number for number in near if free[number]), None)
        if taken is not None:
            free[taken] = False
            found.append((box.confidence, True))
        elif all(truths[number].counts for number in near):
            found.append((box.confidence, False))
    return found


def _average_precision(right: np.ndarray[tuple[int], np.dtype[np.bool_]], total: int) -> float:
    if not total or not right.size:
        return 0.0
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / total)
