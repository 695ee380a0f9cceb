# SPDX-License-Identifier: Apache-2.0
"""Execution accelerators and libraries of custom operators: from the configuration to the worker."""

from __future__ import annotations

import json

import pytest
from texts import IDENTITY, ONNX, complaint, parsed

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Accelerator
from penstock.runtime.repository.configuration import parse_override

BOTH = """optimization { execution_accelerators {
  gpu_execution_accelerator [ { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } }, { name: "cuda" } ]
  cpu_execution_accelerator [ { name: "openvino" } ]
} }
"""


def libraries(*names: str) -> str:
    return f"model_operations {{ op_library_filename: {json.dumps(list(names))} }}"


def test_accelerators_reach_the_worker_in_their_order_with_their_parameters() -> None:
    optimization = parsed(ONNX + BOTH).spec(1).optimization
    assert optimization.gpu_accelerators == [Accelerator("tensorrt", {"precision_mode": "FP16"}), Accelerator("cuda")]
    assert optimization.cpu_accelerators == [Accelerator("openvino")]


def test_a_backend_that_has_no_accelerators_is_named() -> None:
    said = complaint(IDENTITY + BOTH)
    assert (
        "m/config.pbtxt:5:31: gpu_execution_accelerator 'tensorrt': backend 'identity' has none, only onnxruntime has" in said
    )
    assert "cpu_execution_accelerator 'openvino'" in said


def test_libraries_count_from_the_models_directory() -> None:
    config = parsed(ONNX + libraries("ops/libone.so", "/opt/libtwo.so"))
    assert config.spec(3, "/models/m/3").op_libraries == ["/models/m/ops/libone.so", "/opt/libtwo.so"]


@pytest.mark.parametrize("name", ["../other/lib.so", "ops/../../lib.so", ""])
def test_a_relative_name_stays_within_the_models_directory(name: str) -> None:
    assert f"op_library_filename '{name}' must stay within the model's directory, or be absolute, for m" in complaint(
        ONNX + libraries(name)
    )


def test_a_backend_that_loads_no_libraries_is_named() -> None:
    said = complaint(IDENTITY + libraries("lib.so"))
    assert "op_library_filename 'lib.so': backend 'identity' loads none, only onnxruntime, pytorch, tensorrt do, for m" in said


@pytest.mark.parametrize("as_json", [True, False])
def test_a_configuration_that_comes_with_a_load_names_no_library_outside_of_the_model(as_json: bool) -> None:
    def override(name: str) -> str:
        document = {"platform": "onnxruntime_onnx", "model_operations": {"op_library_filename": [name]}}
        return json.dumps(document) if as_json else ONNX + libraries(name)

    assert parse_override(override("lib.so"), "m").op_libraries == ("lib.so",)
    with pytest.raises(CallerError, match=r"'/opt/lib\.so' is absolute, which only the repository's own configuration may be"):
        parse_override(override("/opt/lib.so"), "m")
