# SPDX-License-Identifier: Apache-2.0
"""An ONNX model through onnxruntime as a Python model of Triton, with the session options of Penstock's own worker.

The wheel has no onnxruntime backend. The requests of a batch are brought together, executed at once and answered in slices.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One session on the model.onnx beside this file."""

    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        file = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        images = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        batch = images[0] if len(images) == 1 else np.concatenate(images)
        (scores,) = self.session.run(["scores"], {"image": batch})
        ends = np.cumsum([len(image) for image in images])
        parts = np.split(scores, ends[:-1])
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("scores", part)]) for part in parts]
