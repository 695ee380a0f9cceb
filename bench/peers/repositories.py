# SPDX-License-Identifier: Apache-2.0
"""The same models for both servers: one configuration each, which differs in the line that names the backend."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import models
import numpy as np

from .environments import CACHE

SOURCES = Path(__file__).resolve().parent / "triton_models"
MAX_ROWS = 64
ROW_BYTES, FLOATS = 602112, 10
MODELS = {"identity": FLOATS, "resnet50_shaped": 1000}
"""Model -> floats of a row that it answers."""
OWN_BACKENDS = {"identity": 'backend: "identity"', "resnet50_shaped": 'platform: "onnxruntime_onnx"'}
TRITON_BACKEND = 'backend: "python"'
CONFIGURATION = """name: "{name}"
{backend}
max_batch_size: {rows}
input [ {{ name: "image" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ {floats} ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
"""


def configuration(name: str, server: Literal["penstock", "triton"], instances: int) -> str:
    backend = OWN_BACKENDS[name] if server == "penstock" else TRITON_BACKEND
    return CONFIGURATION.format(name=name, backend=backend, rows=MAX_ROWS, floats=MODELS[name], instances=instances)


def repository(server: Literal["penstock", "triton"], instances: int = 1, cache: Path = CACHE) -> Path:
    """The model repository of a server, written anew. The ONNX file is one for both, built when it is missing."""
    root = cache / "repositories" / server
    for name in MODELS:
        folder = root / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (root / name / "config.pbtxt").write_text(configuration(name, server, instances))
        if server == "triton":
            shutil.copyfile(SOURCES / f"{name}.py", folder / "model.py")
        if name in models.BUILDERS:
            place = folder / "model.onnx"
            place.unlink(missing_ok=True)
            os.link(models.repository("real_model") / name / "1" / "model.onnx", place)
    return root


def small_repository(server: Literal["penstock", "triton"], cache: Path = CACHE) -> Path:
    """A repository of the identity model alone, whose rows have 64 bytes: what is measured with it is not bytes."""
    root = cache / "repositories" / f"small-{server}"
    folder = root / "identity" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "identity" / "config.pbtxt").write_text(configuration("identity", server, 1).replace("[ 3, 224, 224 ]", "[ 16 ]"))
    if server == "triton":
        shutil.copyfile(SOURCES / "identity.py", folder / "model.py")
    return root


def row() -> bytes:
    """One row of the identity model: 0, 1, 2, ..."""
    return np.arange(ROW_BYTES // 4, dtype=np.float32).tobytes()
