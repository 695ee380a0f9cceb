# SPDX-License-Identifier: Apache-2.0
"""What the detector is trained to say (bench/people_detector/targets.py): decoded and clustered, it is the truth again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.clients.people_detection.boxes import Box, found
from penstock.clients.people_detection.scenes import Truth

pytest.importorskip("torch", reason="the detector is trained with torch: pip install 'penstock[torch]'")

BENCH = Path(__file__).resolve().parents[4] / "bench" / "people_detector"
PERSON = Truth(Box("person", 1.0, 200, 100, 290, 380), counts=True)
FACE = Truth(Box("face", 1.0, 230, 105, 245, 125), counts=True)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    import targets  # type: ignore[import-not-found]

    yield targets
    del sys.modules["targets"]


def boxes_of(wanted: Any) -> list[Box]:
    return found(wanted.coverage, wanted.boxes.reshape(12, *wanted.coverage.shape[1:]))


def test_a_network_that_said_what_it_should_would_find_exactly_what_is_there(targets: Any) -> None:
    truths = (PERSON, FACE)
    assert [box.label for box in boxes_of(targets.targets_of(truths, 0, 0, 544, 960))] == ["person", "face"]
    for box, truth in zip(boxes_of(targets.targets_of(truths, 0, 0, 544, 960)), truths, strict=True):
        assert box[1:] == pytest.approx(truth.box[1:], abs=1e-3)


def test_of_a_piece_of_a_scene_positions_count_from_its_corner(targets: Any) -> None:
    whole, piece = (targets.targets_of((PERSON,), *corner) for corner in ((0, 0, 544, 960), (160, 48, 352, 384)))
    assert np.array_equal(piece.coverage, whole.coverage[:, 3:25, 10:34])
    assert piece.boxes == pytest.approx(whole.boxes[:, :, 3:25, 10:34])


def test_a_box_that_the_edge_of_a_piece_cuts_ends_there_as_at_the_edge_of_an_image(targets: Any) -> None:
    # Given pieces whose right edges, at 448 pixels, leave more than half of a person in them, and less
    people = [Truth(Box("person", 1.0, x1, 100, x1 + 90, 380), counts=True) for x1 in (400, 430)]
    more, less = (targets.targets_of((person,), 0, 0, 544, 448) for person in people)

    # Then the first shows a person up to its edge, and in the second whatever is said of them will do
    assert [box[2:] for box in boxes_of(in_whole_image(more))] == [pytest.approx((400, 100, 448, 380), abs=1e-3)]
    assert less.coverage.sum() == less.weights.sum() == 0
    assert (less.cares[0] == 0).any()


def in_whole_image(wanted: Any) -> Any:
    """With nothing to the right of the piece."""
    missing = 60 - wanted.coverage.shape[-1]
    return wanted._replace(
        **{name: np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) for name, array in wanted._asdict().items()}
    )


def test_the_nearer_of_two_has_the_cells_that_both_could_have(targets: Any) -> None:
    nearer = Truth(Box("person", 1.0, 240, 100, 330, 380), counts=True)
    only, both = targets.targets_of((nearer,), 0, 0, 544, 960), targets.targets_of((PERSON, nearer), 0, 0, 544, 960)
    seen = only.coverage[0] == 1
    assert np.array_equal(both.boxes[0][:, seen], only.boxes[0][:, seen])
    assert both.coverage.sum() > only.coverage.sum()


def test_of_what_does_not_count_anything_may_be_said(targets: Any) -> None:
    wanted = targets.targets_of((PERSON._replace(counts=False),), 0, 0, 544, 960)
    assert wanted.coverage.sum() == wanted.weights.sum() == 0
    assert (wanted.cares[0] == 0).sum() == (targets.targets_of((PERSON,), 0, 0, 544, 960).weights[0] > 0).sum()


def test_what_is_as_it_should_be_costs_nothing_and_what_is_not_does(targets: Any) -> None:
    import torch

    wanted = targets.targets_of((PERSON, FACE), 0, 0, 544, 960)
    batch = targets.batched([wanted])
    sure = torch.where(batch[0] > 0, 30.0, -30.0)
    assert float(targets.loss(sure, batch[2].reshape(1, 12, 34, 60), batch)) == pytest.approx(0, abs=1e-5)
    assert float(targets.loss(-sure, batch[2].reshape(1, 12, 34, 60), batch)) > 30
    assert float(targets.loss(sure, batch[2].reshape(1, 12, 34, 60) + 0.1, batch)) > 0.01


def test_a_rare_class_weighs_as_much_as_a_common_one(targets: Any) -> None:
    import torch

    # Given a person of many cells and a face of few, one of which is not seen
    wanted = targets.batched([targets.targets_of((PERSON, FACE), 0, 0, 544, 960)])
    sure, boxes = torch.where(wanted[0] > 0, 30.0, -30.0), wanted[2].reshape(1, 12, 34, 60)
    no_person, no_face = sure.clone(), sure.clone()
    no_person[:, 0] = no_face[:, 2] = -30.0

    # Then overlooking either costs the same
    assert float(targets.loss(no_face, boxes, wanted)) == pytest.approx(float(targets.loss(no_person, boxes, wanted)))


def test_a_box_is_as_wrong_as_its_sides_and_its_overlap_are(targets: Any) -> None:
    import torch

    # Given cells that all say a person half as wide, to the left and right of them alike
    wanted = targets.batched([targets.targets_of((PERSON,), 0, 0, 544, 960)])
    sure = torch.where(wanted[0] > 0, 30.0, -30.0)
    narrow = wanted[2].clone()
    narrow[:, 0, [0, 2]] -= 90 / 4 / 35

    # Then two sides are off by a quarter of the width, the overlap is a half, and persons are one class of three
    assert float(targets.loss(sure, narrow.reshape(1, 12, 34, 60), wanted)) == pytest.approx(
        targets.BOX_LOSS * (0.25 + 0.25 + 0.5) / 3, rel=1e-4
    )
