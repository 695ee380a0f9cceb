# SPDX-License-Identifier: Apache-2.0
"""The detector's network (bench/people_detector/network.py): as an ONNX file it says what it said in torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the detector is trained with torch: pip install 'penstock[torch]'")
pytest.importorskip("onnx", reason="its file is written with onnx: pip install 'penstock[convert]'")
onnxruntime = pytest.importorskip("onnxruntime")

BENCH = Path(__file__).resolve().parents[4] / "bench" / "people_detector"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    import network  # type: ignore[import-not-found]

    yield network
    del sys.modules["network"]


@pytest.fixture
def detector(network: Any) -> Any:
    """Untrained; its normalisations have seen images, so that folding them in changes something."""
    torch.manual_seed(0)
    detector = network.Detector()
    with torch.no_grad():
        for _ in range(3):
            detector.train()(torch.rand(2, 3, 96, 64))
        for parameter in detector.parameters():
            parameter.add_(0.05 * torch.rand_like(parameter))
    return detector.eval()


def test_the_file_says_what_the_network_says(network: Any, detector: Any) -> None:
    images = np.random.default_rng(0).random((2, 3, 544, 960), np.float32)
    with torch.no_grad():
        coverage, boxes = detector(torch.from_numpy(images))

    model = network.onnx_model(detector).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    said = session.run([network.COVERAGE, network.BOXES], {network.IMAGE: images})

    assert said[0] == pytest.approx(torch.sigmoid(coverage).numpy(), abs=1e-4)
    assert said[1] == pytest.approx(boxes.numpy(), rel=1e-3, abs=1e-3)


def test_a_file_is_smaller_than_a_megabyte(network: Any, detector: Any) -> None:
    assert len(network.onnx_model(detector).SerializeToString()) < 1e6
