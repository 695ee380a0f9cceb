# SPDX-License-Identifier: Apache-2.0
"""ONNX models on a real GPU, where the installed onnxruntime is that for GPUs: from every kind of memory, with graphs, with text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanging import KINDS
from gpu_models import add_model, asked

from running import RunningBroker  # isort: skip - gpu_models tells where it is

onnx: Any = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_CUDA, reason="the installed onnxruntime has no CUDAExecutionProvider"),
]
WIDTH = 256
NAMES = ("x", "y")
GRAPHS = """optimization { execution_accelerators { gpu_execution_accelerator [
  { name: "cuda" parameters { key: "enable_cuda_graph" value: "1" } } ] } }"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def write(folder: Path, width: int | str, *nodes: Any, kind: int = 1, **constants: Any) -> None:
    """A graph from x to y."""
    values = [onnx.helper.make_tensor_value_info(name, kind, ["n", width]) for name in NAMES]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(list(nodes), "g", values[:1], values[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")


def rows(count: int) -> Any:
    return np.random.default_rng(count).random((count, WIDTH), np.float32)


@pytest.mark.parametrize("rest", ["", GRAPHS])
def test_it_computes_what_numpy_computes(tmp_path: Path, repository: Path, rest: str) -> None:
    w = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["y"])]
    write(add_model(repository, "onnxruntime", WIDTH, rest, NAMES), WIDTH, *nodes, w=w)
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        (model,) = client.index()
        assert model["state"] == "READY", f"{model}\n{broker.log()}"
        for memory, count in itertools.product(KINDS, (1, 8, 3, 8, 1)):
            expected, found = np.maximum(rows(count) @ w, 0), asked(client, memory, rows(count), NAMES)
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=5e-2, err_msg=f"{memory}, {count} rows")


def test_outputs_of_variable_shape_come_from_onnxruntimes_own_memory(tmp_path: Path, repository: Path) -> None:
    write(add_model(repository, "onnxruntime", -1, "", NAMES), "m", onnx.helper.make_node("Relu", ["x"], ["y"]))
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        for count in (1, 8, 3):
            result = client.infer("net", {"x": rows(count) - 0.5}, timeout_s=60.0)
            np.testing.assert_array_equal(result.outputs["y"], np.maximum(rows(count) - 0.5, 0))


def test_a_model_with_text_is_given_it_from_host_memory(tmp_path: Path, repository: Path) -> None:
    folder = add_model(repository, "onnxruntime", 2, "", NAMES)
    config = folder.parent / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_STRING"))
    write(folder, 2, onnx.helper.make_node("Identity", ["x"], ["y"]), kind=8)
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        result = client.infer("net", {"x": np.array([["a", "b"]], object)}, timeout_s=60.0)
        assert result.outputs["y"].tolist() == [[b"a", b"b"]]
