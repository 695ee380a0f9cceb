# SPDX-License-Identifier: Apache-2.0
"""The models that the benches serve, built when they are needed and kept in bench/cache.

`overhead` costs nothing: the identity backend writes ten floats per image of 3 x 224 x 224. `gathering` reads ten floats of
each image too, but in onnxruntime, which wants a batch in one piece. `resnet50_shaped` has the layers of ResNet-50 (He et al.,
2015; stride in the 3 x 3 convolution; batch normalisation folded) with random weights: it costs what ResNet-50 costs and knows
nothing. `one_ms` is a perceptron with as many layers as make a batch of 8 rows last about 1 ms on one thread of this machine.

usage: models.py      builds all, prints where they are
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported: see workers/backends/onnx_sessions.py

import onnxruntime

CACHE = Path(__file__).resolve().parent / "cache"
OPSET, IR_VERSION = 13, 8
IMAGE = (3, 224, 224)
ONE_MS_BATCH, ONE_MS_WIDTH = 8, 512

Array = npt.NDArray[np.float32]


class Graph:
    """An ONNX graph under construction: every call adds a node and gives the name of what it computes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: npt.NDArray[np.generic]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, shape: tuple[int, ...], gain: float = 1.0) -> str:
        """Random, scaled so that the size of activations stays the same from layer to layer (He initialisation)."""
        scale = gain * np.sqrt(2 / np.prod(shape[1:]))
        return self.constant(self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        weight = self.weight((channels[1], channels[0], kernel, kernel), gain)
        bias = self.constant(np.zeros(channels[1], np.float32))
        return self.node("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def model(self, name: str, x: tuple[str, tuple[int, ...]], y: tuple[str, str, tuple[int, ...]]) -> onnx.ModelProto:
        """`x`: the input's name and dims; `y`: the output's name, its node, and dims; both without the batch dimension."""
        self.nodes.append(helper.make_node("Identity", [y[1]], [y[0]]))
        inputs = [helper.make_tensor_value_info(x[0], TensorProto.FLOAT, ["batch", *x[1]])]
        outputs = [helper.make_tensor_value_info(y[0], TensorProto.FLOAT, ["batch", *y[2]])]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def resnet50_shaped() -> onnx.ModelProto:
    """Image FP32 [batch, 3, 224, 224] -> scores FP32 [batch, 1000]; 25.5 million weights."""
    graph = Graph(seed=50)
    x = graph.node("Relu", graph.conv("image", (3, 64), 7, stride=2))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _bottleneck(graph, x, channels, inner, stride)
            channels = 4 * inner
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    x = graph.node("Gemm", x, graph.weight((1000, channels)), graph.constant(np.zeros(1000, np.float32)), transB=1)
    return graph.model("resnet50_shaped", ("image", IMAGE), ("scores", x, (1000,)))


def _bottleneck(graph: Graph, x: str, channels: int, inner: int, stride: int) -> str:
    y = graph.node("Relu", graph.conv(x, (channels, inner), 1))
    y = graph.node("Relu", graph.conv(y, (inner, inner), 3, stride))
    y = graph.conv(y, (inner, 4 * inner), 1, gain=0.2)  # small, so that 16 additions do not make activations grow
    shortcut = x if channels == 4 * inner else graph.conv(x, (channels, 4 * inner), 1, stride)
    return graph.node("Relu", graph.node("Add", y, shortcut))


def perceptron(layers: int) -> onnx.ModelProto:
    """Row FP32 [batch, 512] -> scores FP32 [batch, 512] through so many layers of 512 x 512."""
    graph, x = Graph(seed=1), "row"
    for _ in range(layers):
        weight, bias = graph.weight((ONE_MS_WIDTH, ONE_MS_WIDTH)), graph.constant(np.zeros(ONE_MS_WIDTH, np.float32))
        x = graph.node("Relu", graph.node("Gemm", x, weight, bias, transB=1))
    return graph.model("one_ms", ("row", (ONE_MS_WIDTH,)), ("scores", x, (ONE_MS_WIDTH,)))


def one_ms() -> onnx.ModelProto:
    """The perceptron that comes nearest to 1 ms for ONE_MS_BATCH rows on one thread."""
    layers = 8
    for _ in range(2):  # the second step corrects the first guess by caches that are full now
        layers = max(1, round(layers / batch_ms(perceptron(layers))))
    return perceptron(layers)


def batch_ms(model: onnx.ModelProto) -> float:
    """Median time of a batch of ONE_MS_BATCH rows on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).random((ONE_MS_BATCH, ONE_MS_WIDTH), np.float32)
    times = []
    for _ in range(200):
        start = time.perf_counter_ns()
        session.run(None, {"row": rows})
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e6


def gathering() -> onnx.ModelProto:
    """Image FP32 [batch, 3, 224, 224] -> scores FP32 [batch, 1, 1, 10], the first ten values of each image."""
    graph = Graph(seed=0)
    starts, ends, axes = ([0, 0, 0], [1, 1, 10], [1, 2, 3])
    constants = [graph.constant(np.array(numbers, np.int64)) for numbers in (starts, ends, axes)]
    return graph.model("gathering", ("image", IMAGE), ("scores", graph.node("Slice", "image", *constants), (1, 1, 10)))


CONFIGURATION = """name: "{name}"
{backend}
max_batch_size: {max_batch_size}
input [ {{ name: "{input}" data_type: TYPE_FP32 dims: [ {input_dims} ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ {output_dims} ] }} ]
{rest}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
BATCHING = "dynamic_batching {{ max_queue_delay_microseconds: {} }}"
ONE_THREAD = 'parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}'


def _configuration(name: str, backend: str, rows: int, x: str, x_dims: str, y_dims: str, rest: str = "") -> str:
    return CONFIGURATION.format(
        name=name, backend=backend, max_batch_size=rows, input=x, input_dims=x_dims, output_dims=y_dims, rest=rest
    )


IDENTITY, ONNX, IMAGE_DIMS = 'backend: "identity"', 'platform: "onnxruntime_onnx"', "3, 224, 224"
CONFIGURATIONS = {
    "overhead": _configuration("overhead", IDENTITY, 64, "image", IMAGE_DIMS, "10", BATCHING.format(0)),
    "gathering": _configuration("gathering", ONNX, 32, "image", IMAGE_DIMS, "1, 1, 10", BATCHING.format(500_000)),
    "resnet50_shaped": _configuration("resnet50_shaped", ONNX, 8, "image", IMAGE_DIMS, "1000"),
    "churning": _configuration("churning", 'backend: "fake"', 4, "x", "2", "2"),
    "one_ms": _configuration("one_ms", ONNX, 8, "row", str(ONE_MS_WIDTH), str(ONE_MS_WIDTH), ONE_THREAD.format()),
}
BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "gathering": gathering, "resnet50_shaped": resnet50_shaped, "one_ms": one_ms,
}  # fmt: skip
REPOSITORIES = {
    "overhead": ("overhead", "gathering"),
    "real_model": ("resnet50_shaped", "one_ms"),
    "churn": ("overhead", "churning"),
}


def repository(bench: str) -> Path:
    """The model repository of a bench; what is missing in it is built. A configuration that changed is written again."""
    root = CACHE / bench
    for name in REPOSITORIES[bench]:
        version = root / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (root / name / "config.pbtxt").write_text(CONFIGURATIONS[name])
        if name in BUILDERS and not (version / "model.onnx").exists():
            unfinished = version / "unfinished"
            onnx.save(BUILDERS[name](), unfinished)
            unfinished.rename(version / "model.onnx")
    return root


def main() -> None:
    for bench in REPOSITORIES:
        print(repository(bench))


if __name__ == "__main__":
    main()
