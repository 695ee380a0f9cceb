# SPDX-License-Identifier: Apache-2.0
"""Drawn streets: the same for the same seed, and what is said to be in them is there."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.clients.people_detection.scenes import LEAST_VISIBLE, SMALLEST, Scene, draw_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in range(3)]


def test_a_seed_is_a_scene(scenes: list[Scene]) -> None:
    again = draw_scene(0)
    assert np.array_equal(again.pixels, scenes[0].pixels)
    assert again.truths == scenes[0].truths
    assert not np.array_equal(scenes[0].pixels, scenes[1].pixels)


def test_a_scene_is_an_image_for_the_network(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert (scene.pixels.shape, scene.pixels.dtype) == ((544, 960, 3), np.uint8)
        assert scene.pixels.std() > 20


def test_what_is_in_a_scene_lies_in_the_image(scenes: list[Scene]) -> None:
    for truth in (truth for scene in scenes for truth in scene.truths):
        box = truth.box
        assert 0 <= box.x1 < box.x2 <= 960
        assert 0 <= box.y1 < box.y2 <= 544
        assert 0 <= box.confidence <= 1


def test_only_what_is_large_and_visible_enough_counts(scenes: list[Scene]) -> None:
    truths = [truth for scene in scenes for truth in scene.truths]
    for label in SMALLEST:
        of_label = [truth for truth in truths if truth.box.label == label]
        large = [truth.box.y2 - truth.box.y1 >= SMALLEST[label] for truth in of_label]
        visible = [truth.box.confidence >= LEAST_VISIBLE[label] for truth in of_label]
        assert [truth.counts for truth in of_label] == list(np.logical_and(large, visible))
        assert any(truth.counts for truth in of_label)
        assert not all(truth.counts for truth in of_label)


def test_a_face_is_within_somebody(scenes: list[Scene]) -> None:
    for scene in scenes:
        people = [truth.box for truth in scene.truths if truth.box.label == "person"]
        for face in (truth.box for truth in scene.truths if truth.box.label == "face"):
            assert any(
                one.x1 <= face.x1
                and face.x2 <= one.x2
                and one.y1 <= face.y1
                and face.y2 <= one.y1 + 0.25 * (one.y2 - one.y1) + 25
                for one in people
            )


def test_nobody_stands_right_behind_anybody(scenes: list[Scene]) -> None:
    for scene in scenes:
        people = [
            truth.box for truth in scene.truths if truth.box.label == "person" and truth.box.x1 > 20 and truth.box.x2 < 940
        ]
        for number, one in enumerate(people):
            for other in people[:number]:
                apart = abs(one.x1 + one.x2 - other.x1 - other.x2) / 2
                assert apart > 0.05 * (one.y2 - one.y1 + other.y2 - other.y1)
