# SPDX-License-Identifier: Apache-2.0
"""From the two tensors of a detector to boxes: cells that see something, and clusters of cells that see the same thing. Pure.

A cell whose coverage of a class is above a threshold proposes a box of that class. Many cells see one object, so their boxes
are clustered by DBSCAN (Ester et al., 1996; a box counts as much as its coverage, and two are as far apart as their
intersection over union falls short of one), and each cluster becomes its mean box, weighted by coverage. The thresholds are
NVIDIA's for PeopleNet (NVIDIA-AI-IOT/tao-toolkit-triton-apps, clustering_config_peoplenet.prototxt).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.errors import invalid
from .layout import BOX_NORM, BOXES_SHAPE, CENTRE_OFFSET, CLASSES, COVERAGE_SHAPE, HEIGHT, STRIDE, WIDTH

Floats = npt.NDArray[np.floating[Any]]

COVERAGE_THRESHOLD = 0.005
EPS = 0.3
"""Boxes this near to one another, 1 - intersection over union, are neighbours."""

MIN_SAMPLES = 0.05
"""Coverage that a box and its neighbours have together where a cluster is."""

MIN_WEIGHTS = {"person": 0.9, "bag": 0.9, "face": 0.7}
"""Coverage that the cells of a cluster have together, above which it is an object."""

MIN_HEIGHT = 4.0
"""Pixels; what is not higher is no object."""


class Candidates(NamedTuple):
    """Boxes that cells propose, ordered by class, row and column: three arrays of n rows."""

    classes: npt.NDArray[np.intp]  # [n], index in CLASSES
    coverage: Floats  # [n]
    corners: Floats  # [n, 4]: x1, y1, x2, y2 in pixels


class Box(NamedTuple):
    """One object, in pixels of the 960 x 544 image that the network saw."""

    label: str
    confidence: float  # the largest coverage among its cells, 0 to 1
    x1: float
    y1: float
    x2: float
    y2: float


def found(coverage: Floats, boxes: Floats) -> list[Box]:
    """The objects of one image, by NVIDIA's thresholds."""
    return cluster(decode(coverage, boxes))


def decode(coverage: Floats, boxes: Floats, threshold: float = COVERAGE_THRESHOLD) -> Candidates:
    """The boxes of the cells with more coverage than `threshold`, cut off at the edges of the image.

    Of one image: coverage [3, 34, 60], boxes [12, 34, 60]. Cells whose box has no area are left out. Raises CallerError for
    other shapes.
    """
    for name, array, shape in (("coverage", coverage, COVERAGE_SHAPE), ("boxes", boxes, BOXES_SHAPE)):
        if array.shape != shape:
            raise invalid(f"{name} of one image has shape {list(shape)}, got {list(array.shape)}")
    classes, rows, columns = np.nonzero(coverage > threshold)
    centres = np.stack([columns, rows, columns, rows], axis=1) * STRIDE + CENTRE_OFFSET
    distances = boxes.reshape(len(CLASSES), 4, *boxes.shape[1:])[classes, :, rows, columns]
    corners = centres + distances * np.array([-BOX_NORM, -BOX_NORM, BOX_NORM, BOX_NORM])
    corners = corners.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    has_area = (corners[:, :2] < corners[:, 2:]).all(axis=1)
    return Candidates(classes[has_area], coverage[classes, rows, columns][has_area], corners[has_area])


def cluster(candidates: Candidates, eps: float = EPS, min_samples: float = MIN_SAMPLES) -> list[Box]:
    """The objects that the candidates agree on, the most confident first within each class."""
    found = []
    for number, label in enumerate(CLASSES):
        of_class = candidates.classes == number
        coverage, corners = candidates.coverage[of_class], candidates.corners[of_class]
        labels = dbscan(1 - overlaps(corners), coverage, eps, min_samples)
        objects = [_mean(label, coverage[labels == one], corners[labels == one]) for one in range(labels.max(initial=-1) + 1)]
        found += sorted((box for box in objects if box is not None), key=lambda box: -box.confidence)
    return found


def _mean(label: str, coverage: Floats, corners: Floats) -> Box | None:
    """The box of a cluster; None where too little speaks for it."""
    x1, y1, x2, y2 = (float(value) for value in np.average(corners, axis=0, weights=coverage))
    if coverage.sum() <= MIN_WEIGHTS[label] or y2 - y1 <= MIN_HEIGHT:
        return None
    return Box(label, float(coverage.max()), x1, y1, x2, y2)


def overlaps(corners: Floats) -> Floats:
    """Intersection over union of each two boxes: [n, 4], all with an area -> [n, n]."""
    low, high = corners[:, :2], corners[:, 2:]
    sides = np.minimum(high[:, np.newaxis], high) - np.maximum(low[:, np.newaxis], low)
    intersections: Floats = sides.clip(0).prod(axis=2)
    areas = (high - low).prod(axis=1)
    unions: Floats = areas[:, np.newaxis] + areas - intersections
    return intersections / unions


def dbscan(distances: Floats, weights: Floats, eps: float, min_samples: float) -> npt.NDArray[np.intp]:
    """The cluster of each of n points, -1 for noise: distances [n, n], weights [n].

    A point is a core where it and its neighbours (those at most `eps` away) weigh `min_samples` or more. Cores that are
    neighbours are of one cluster. A point that is no core belongs to the first cluster with a core next to it; clusters are
    numbered by their first core.
    """
    near = distances <= eps
    core = near @ weights >= min_samples
    labels = np.full(len(weights), -1)
    for number in range(len(weights)):
        free = np.flatnonzero(core & (labels < 0))
        if not len(free):
            break
        frontier = free[:1]
        while len(frontier):
            reached = near[frontier].any(axis=0) & (labels < 0)
            labels[reached] = number
            frontier = np.flatnonzero(reached & core)
    return labels
