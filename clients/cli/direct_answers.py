# SPDX-License-Identifier: Apache-2.0
"""What the demo's answers are compared with: onnxruntime, called in this process on the same model file, past all of Penstock.

A second importer of onnxruntime beside the workers' backend, on purpose: a check that went through the backend would miss the
backend's own mistakes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def direct_scores(model_file: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores [n, 10] of images [n, 1, 8, 8], by one call."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in workers/backends/onnx_sessions.py
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the broker is starting beside us
    session = onnxruntime.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
    answers: list[Any] = session.run(["scores"], {"image": images})
    return np.asarray(answers[0], np.float32)
