# SPDX-License-Identifier: Apache-2.0
"""Faults of the people detector: where boxes are, what is one object, which tensor is which, what counts in a scene."""

from __future__ import annotations

from fault import Fault

BOXES = "clients/people_detection/boxes.py"
LAYOUT = "clients/people_detection/layout.py"
DRAWING = "clients/people_detection/drawing.py"
SCENES = "clients/people_detection/scenes.py"

TESTS = "tests/unit/clients/people_detection/"

FAULTS = (
    Fault(
        "the centre of a cell is taken for its corner",
        BOXES,
        "* STRIDE + CENTRE_OFFSET",
        "* STRIDE",
        (f"{TESTS}test_boxes.py::test_a_cell_by_hand",),
    ),
    Fault(
        "rows and columns of cells change places",
        BOXES,
        "np.stack([columns, rows, columns, rows], axis=1)",
        "np.stack([rows, columns, rows, columns], axis=1)",
        (f"{TESTS}test_boxes.py::test_a_cell_by_hand",),
    ),
    Fault(
        "every box of a cluster counts the same",
        BOXES,
        "np.average(corners, axis=0, weights=coverage)",
        "np.average(corners, axis=0)",
        (f"{TESTS}test_boxes.py::test_a_cluster_is_its_mean_weighted_by_coverage",),
    ),
    Fault(
        "clusters grow through points that are no cores",
        BOXES,
        "frontier = np.flatnonzero(reached & core)",
        "frontier = np.flatnonzero(reached)",
        (f"{TESTS}test_boxes.py::test_what_lies_between_two_clusters_belongs_to_the_first",),
    ),
    Fault(
        "a point counts by number and not by coverage",
        BOXES,
        "near @ weights >= min_samples",
        "near.sum(axis=1) >= min_samples",
        (f"{TESTS}test_boxes.py::test_what_lies_between_two_clusters_belongs_to_the_first",),
    ),
    Fault(
        "the first of two tensors that fit is taken",
        LAYOUT,
        "if len(fitting) != 1:",
        "if not fitting:",
        (f"{TESTS}test_detector_layout.py::test_a_model_of_another_layout_is_refused_by_what_it_has",),
    ),
    Fault(
        "labels stand on one another",
        DRAWING,
        "    taken.append(place)",
        "    taken.clear()",
        (f"{TESTS}test_image_files.py::test_labels_do_not_stand_on_one_another",),
    ),
    Fault(
        "people who are hidden count",
        SCENES,
        "visible >= LEAST_VISIBLE[drawn.part] and",
        "visible >= 0 and",
        (f"{TESTS}test_scenes.py::test_only_what_is_large_and_visible_enough_counts",),
    ),
    Fault(
        "people stand right behind one another",
        SCENES,
        "if all(abs(x - other.x) > LEAST_APART * (height + other.height) for other in people):",
        "if people is not None:",
        (f"{TESTS}test_scenes.py::test_nobody_stands_right_behind_anybody",),
    ),
)
