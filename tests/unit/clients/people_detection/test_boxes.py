# SPDX-License-Identifier: Apache-2.0
"""From tensors to boxes: cells decoded by hand, clusters against a slow reference and scikit-learn, thresholds one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from penstock.clients.people_detection.boxes import Candidates, cluster, dbscan, decode, found, overlaps
from penstock.ipc.errors import CallerError

Array = npt.NDArray[np.float64]


def outputs(*cells: tuple[int, int, int, float, tuple[float, float, float, float]]) -> tuple[npt.NDArray[np.float32], ...]:
    """Coverage and boxes that are zero but for cells: class, row, column, coverage, four distances in units of 35 pixels."""
    coverage, boxes = np.zeros((3, 34, 60), np.float32), np.zeros((12, 34, 60), np.float32)
    for number, row, column, seen, distances in cells:
        coverage[number, row, column] = seen
        boxes[4 * number : 4 * number + 4, row, column] = distances
    return coverage, boxes


def test_a_cell_by_hand() -> None:
    # Given a bag seen by the cell of row 10 and column 20, whose centre is at x 20 * 16 + 0.5 and y 10 * 16 + 0.5
    coverage, boxes = outputs((1, 10, 20, 0.75, (1.0, 2.0, 3.0, 0.5)))

    candidates = decode(coverage, boxes)

    # Then its box reaches 35, 70, 105 and 17.5 pixels to the left, up, right and down
    assert candidates.classes.tolist() == [1]
    assert candidates.coverage.tolist() == [0.75]
    assert candidates.corners.tolist() == [[320.5 - 35, 160.5 - 70, 320.5 + 105, 160.5 + 17.5]]


def test_boxes_end_where_the_image_ends() -> None:
    coverage, boxes = outputs((0, 0, 0, 1.0, (5, 5, 1, 1)), (0, 33, 59, 1.0, (1, 1, 5, 5)))
    assert decode(coverage, boxes).corners.tolist() == [[0, 0, 35.5, 35.5], [909.5, 493.5, 960, 544]]


def test_cells_below_the_threshold_and_boxes_without_area_are_left_out() -> None:
    coverage, boxes = outputs((0, 5, 5, 0.5, (1, 1, 1, 1)), (0, 6, 6, 0.51, (1, 1, 1, 1)), (0, 7, 7, 0.9, (1, 1, -1, 1)))
    boxes[:4, 8, 8], coverage[0, 8, 8] = np.nan, 0.9
    assert decode(coverage, boxes, threshold=0.5).coverage.tolist() == pytest.approx([0.51])


@pytest.mark.parametrize(
    ("coverage", "boxes", "said"),
    [
        ((1, 3, 34, 60), (12, 34, 60), "coverage of one image has shape [3, 34, 60], got [1, 3, 34, 60]"),
        ((3, 34, 60), (12, 60, 34), "boxes of one image has shape [12, 34, 60], got [12, 60, 34]"),
    ],
)
def test_tensors_of_other_shapes_are_refused(coverage: tuple[int, ...], boxes: tuple[int, ...], said: str) -> None:
    with pytest.raises(CallerError) as raised:
        decode(np.zeros(coverage), np.zeros(boxes))
    assert said in raised.value.message


def candidates(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Candidates:
    classes, coverage, corners = zip(*rows, strict=True)
    return Candidates(np.array(classes), np.array(coverage), np.array(corners, float))


def test_a_cluster_is_its_mean_weighted_by_coverage() -> None:
    # Given two cells that see one person: the first counts three times as much
    two = candidates((0, 0.9, (100, 100, 200, 300)), (0, 0.3, (104, 108, 204, 308)))
    # Then three quarters of the mean box are the first's, and its confidence is the larger
    (box,) = cluster(two)
    assert (box.label, box.confidence) == ("person", 0.9)
    assert box[2:] == pytest.approx((101, 102, 201, 302))


def test_boxes_that_overlap_too_little_are_two_objects_and_classes_never_mix() -> None:
    # Given persons of 100 x 100 moved by 20 pixels (they share 80 of 120 columns: 1/3 apart), and a bag where the first is
    apart = candidates((0, 1.0, (0, 0, 100, 100)), (0, 1.0, (20, 0, 120, 100)), (1, 1.0, (0, 0, 100, 100)))
    assert [box.label for box in cluster(apart)] == ["person", "person", "bag"]
    # When a third of a person may be missing, the two are one
    assert [box.label for box in cluster(apart, eps=0.34)] == ["person", "bag"]


def test_the_most_confident_of_a_class_comes_first() -> None:
    far = candidates((0, 0.91, (0, 0, 50, 50)), (0, 0.99, (200, 0, 250, 50)), (0, 0.95, (400, 0, 450, 50)))
    assert [box.confidence for box in cluster(far)] == [0.99, 0.95, 0.91]


@pytest.mark.parametrize(("number", "weight", "objects"), [(0, 0.9, 0), (0, 0.91, 1), (1, 0.9, 0), (2, 0.7, 0), (2, 0.71, 1)])
def test_an_object_needs_more_coverage_than_its_class_asks_for(number: int, weight: float, objects: int) -> None:
    half = weight / 2
    assert len(cluster(candidates((number, half, (0, 0, 50, 50)), (number, half, (0, 0, 50, 50))))) == objects


@pytest.mark.parametrize(("height", "objects"), [(4.0, 0), (4.5, 1)])
def test_what_is_hardly_higher_than_a_line_is_no_object(height: float, objects: int) -> None:
    assert len(cluster(candidates((2, 1.0, (0, 0, 50, height))))) == objects


def test_nothing_seen_is_nothing_found() -> None:
    assert found(*outputs()) == []


def test_overlaps_by_hand() -> None:
    corners = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]], float)
    assert overlaps(corners) == pytest.approx(np.array([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]))


def on_a_line(*points: float) -> Array:
    return np.abs(np.array(points)[:, np.newaxis] - points)


def test_clusters_by_hand() -> None:
    # Given points on a line: three, one on its own between, three, and one far away, of weight 1 each
    distances = on_a_line(0, 1, 2, 3.8, 5.6, 6.6, 7.6, 20)
    # Then with neighbours at most 1 away the middle of each three weighs 3 with them and is a core, and they belong to it
    assert dbscan(distances, np.ones(8), 1, 3).tolist() == [0, 0, 0, -1, 1, 1, 1, -1]


def test_what_lies_between_two_clusters_belongs_to_the_first() -> None:
    # Given a light point between heavy ones: it weighs 2.5 with its neighbours, each of the others 3 or more
    distances, weights = on_a_line(0, 1, 2, 3, 4), np.array([2, 1, 0.5, 1, 2])
    assert dbscan(distances, weights, 1, 3).tolist() == [0, 0, 0, 1, 1]


def slow_dbscan(distances: Array, weights: Array, eps: float, min_samples: float) -> list[int]:
    """One point at a time, from the definition."""
    count = len(weights)
    near = [[other for other in range(count) if distances[point, other] <= eps] for point in range(count)]
    core = [sum(weights[other] for other in near[point]) >= min_samples for point in range(count)]
    labels = [-1] * count
    number = 0
    for point in range(count):
        if not core[point] or labels[point] >= 0:
            continue
        waiting = [point]
        while waiting:
            one = waiting.pop()
            if labels[one] < 0:
                labels[one] = number
                waiting += near[one] if core[one] else []
        number += 1
    return labels


@pytest.mark.parametrize("seed", range(30))
def test_clusters_are_those_of_the_definition_and_of_scikit_learn(seed: int) -> None:
    # Given boxes in a crowd, with weights of whole numbers, which scikit-learn compares with a whole number
    random = np.random.default_rng(seed)
    low = random.uniform(0, 100, (60, 2))
    distances = 1 - overlaps(np.hstack([low, low + random.uniform(20, 80, (60, 2))]))
    distances = distances.clip(0)
    weights, least = random.integers(1, 10, 60).astype(float), int(random.integers(2, 30))

    labels = dbscan(distances, weights, 0.3, least)

    assert labels.tolist() == slow_dbscan(distances, weights, 0.3, least)
    reference = pytest.importorskip("sklearn.cluster").DBSCAN(eps=0.3, min_samples=least, metric="precomputed")
    assert labels.tolist() == reference.fit_predict(distances, sample_weight=weights).tolist()
