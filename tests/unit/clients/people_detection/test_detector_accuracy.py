# SPDX-License-Identifier: Apache-2.0
"""How detectors are judged (bench/people_detector/accuracy.py), with precision, recall and average precision worked out by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.clients.people_detection.boxes import Box
from penstock.clients.people_detection.scenes import Truth

BENCH = Path(__file__).resolve().parents[4] / "bench" / "people_detector"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    monkeypatch.syspath_prepend(str(BENCH))
    from accuracy import accuracy  # type: ignore[import-not-found]

    yield accuracy
    del sys.modules["accuracy"]


def box(x: float, confidence: float = 1.0, label: str = "person", width: float = 100) -> Box:
    return Box(label, confidence, x, 0, x + width, 100)


def test_what_is_found_what_is_missed_and_what_is_wrong(accuracy: Callable[..., Any]) -> None:
    # Given three people, of whom two are found: by the first and the third most confident box; the second is nobody's
    truths = [Truth(box(x), counts=True) for x in (0, 200, 400)]
    boxes = [box(10, 0.9), box(700, 0.8), box(390, 0.7)]

    person, bag, _ = accuracy([(boxes, truths)])

    assert (person.truths, person.found, person.wrong) == (3, 2, 1)
    assert (person.precision, person.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    # Then precision is 1 up to a recall of 1/3, and 2/3 up to 2/3
    assert person.average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert (bag.truths, bag.found, bag.average_precision) == (0, 0, 0.0)


def test_a_second_box_of_the_same_person_is_wrong(accuracy: Callable[..., Any]) -> None:
    person, *_ = accuracy([([box(0, 0.9), box(5, 0.8)], [Truth(box(0), counts=True)])])
    assert (person.found, person.wrong) == (1, 1)


def test_less_than_half_an_overlap_is_a_miss_and_another_class_is_no_match(accuracy: Callable[..., Any]) -> None:
    # Given a person of 100 pixels found 34 pixels off: 66 of 134 in common
    person, bag, _ = accuracy([([box(34), box(0, label="bag")], [Truth(box(0), counts=True)])])
    assert (person.found, person.wrong) == (0, 1)
    assert (bag.found, bag.wrong) == (0, 1)


def test_what_does_not_count_is_neither_right_nor_wrong(accuracy: Callable[..., Any]) -> None:
    person, *_ = accuracy([([box(0), box(300)], [Truth(box(0), counts=False), Truth(box(300), counts=True)])])
    assert (person.truths, person.found, person.wrong) == (1, 1, 0)


def test_scenes_are_judged_together_by_confidence(accuracy: Callable[..., Any]) -> None:
    # Given a wrong box in one scene, more confident than the right one of another
    scenes = [([box(700, 0.9)], []), ([box(0, 0.5)], [Truth(box(0), counts=True)])]
    person, *_ = accuracy(scenes)
    assert (person.precision, person.average_precision) == (0.5, 0.5)
