# SPDX-License-Identifier: Apache-2.0
"""Configurations for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.ipc.messages import Signature, TensorSpec
from penstock.runtime.repository.configuration import ModelConfig, parse_config

TENSORS = """input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""
IDENTITY = f'backend: "identity"\n{TENSORS}'
ONNX = 'platform: "onnxruntime_onnx"\n'


def parsed(text: str, name: str = "m", **options: Any) -> ModelConfig:
    return parse_config(text, Path(name) / "config.pbtxt", name, **options)


def complaint(text: str, code: Code = Code.INVALID_ARG, **options: Any) -> str:
    """What is said of a text that is refused."""
    with pytest.raises(CallerError) as caught:
        parsed(text, **options)
    assert caught.value.code is code, caught.value
    return caught.value.message


def signature(inputs: dict[str, list[int]], outputs: dict[str, list[int]], datatype: str = "FP32") -> Signature:
    """Complete dims by name."""
    return Signature(
        [TensorSpec(name, datatype, dims) for name, dims in inputs.items()],
        [TensorSpec(name, datatype, dims) for name, dims in outputs.items()],
    )
