# SPDX-License-Identifier: Apache-2.0
"""The detector that is shipped, run by onnxruntime alone on streets that it was not trained on: it finds who is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.clients import people_detection
from penstock.clients.people_detection.boxes import found
from penstock.clients.people_detection.images import as_tensor
from penstock.clients.people_detection.scenes import Scene, draw_scene

MODEL = Path(people_detection.__file__).parent / "repositories" / "trtis_model_repo_sample_1" / "peoplenet" / "1" / "model.onnx"
BENCH = Path(__file__).resolve().parents[2] / "bench" / "people_detector"
HELD_OUT = range(12)
OUTPUTS = ["output_cov/Sigmoid", "output_bbox/BiasAdd"]
LEAST = {"person": (0.75, 0.8), "bag": (0.5, 0.35), "face": (0.5, 0.7)}
"""Precision and recall; README.md beside the repositories has what they are on a hundred scenes."""


@pytest.fixture(scope="module")
def session() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in HELD_OUT]


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    from accuracy import accuracy  # type: ignore[import-not-found]

    yield accuracy
    del sys.modules["accuracy"]


def test_people_their_bags_and_faces_are_found(session: Any, scenes: list[Scene], accuracy: Any) -> None:
    judged = []
    for scene in scenes:
        coverage, boxes = session.run(OUTPUTS, {"input_1": as_tensor(scene.pixels)[np.newaxis]})
        judged.append((found(coverage[0], boxes[0]), scene.truths))

    for row in (row for row in accuracy(judged) if row.label in LEAST):
        precision, recall = LEAST[row.label]
        assert row.precision >= precision, row
        assert row.recall >= recall, row


def test_images_of_a_batch_do_not_see_one_another(session: Any, scenes: list[Scene]) -> None:
    images = np.stack([as_tensor(scene.pixels) for scene in scenes[:2]])
    together = session.run(OUTPUTS, {"input_1": images})
    alone = [session.run(OUTPUTS, {"input_1": image[np.newaxis]}) for image in images]
    for number, output in enumerate(together):
        assert np.concatenate([one[number] for one in alone]) == pytest.approx(output, abs=1e-4)


def test_an_empty_street_is_empty(session: Any) -> None:
    coverage, boxes = session.run(OUTPUTS, {"input_1": np.full((1, 3, 544, 960), 0.5, np.float32)})
    assert found(coverage[0], boxes[0]) == []
