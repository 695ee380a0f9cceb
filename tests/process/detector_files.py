# SPDX-License-Identifier: Apache-2.0
"""A stand-in for PeopleNet: a network of its layout that sees a person wherever the image is red."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

CONFIG = """
name: "{name}"
platform: "{platform}"
max_batch_size: {max_batch_size}
input [ {{ name: "image" data_type: TYPE_FP32 dims: [ 3, 544, 960 ] }} ]
output [
  {{ name: "cov" data_type: TYPE_FP32 dims: [ 3, 34, 60 ] }},
  {{ name: "box" data_type: TYPE_FP32 dims: [ 12, 34, 60 ] }}
]
instance_group [ {{ count: {count} kind: KIND_GPU }} ]
{batching}
"""


def add_detector(
    repository: Path, name: str = "peoplenet", *, count: int = 1, batching: str = "", max_batch_size: int = 8, rounds: int = 6,
    plan: bytes = b"",
) -> None:  # fmt: skip
    """Writes the model: as ONNX, or the plan that is given."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    platform, file = ("tensorrt_plan", "model.plan") if plan else ("onnxruntime_onnx", "model.onnx")
    config = CONFIG.format(name=name, platform=platform, count=count, batching=batching, max_batch_size=max_batch_size)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / file).write_bytes(plan or detector(rounds).SerializeToString())


def detector(rounds: int) -> ModelProto:
    """`rounds` of convolutions that change nothing make an execution last longer than calls take to arrive."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 544, 960])
    outputs = [
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", channels, 34, 60])
        for output, channels in (("cov", 3), ("box", 12))
    ]
    nodes, last = [], "image"
    for number in range(rounds):
        nodes.append(helper.make_node("Conv", [last, "same"], [f"image_{number}"], pads=[1, 1, 1, 1]))
        last = f"image_{number}"
    nodes += [
        helper.make_node("Slice", [last, "first", "end", "axes", "stride"], ["cells"]),
        helper.make_node("Conv", ["cells", "red", "threshold"], ["sums"]),
        helper.make_node("Sigmoid", ["sums"], ["cov"]),
        helper.make_node("Conv", ["cells", "no_weight", "distances"], ["box"]),
    ]
    red, same, none = (np.zeros(shape, np.float32) for shape in ((3, 3, 1, 1), (3, 3, 3, 3), (12, 3, 1, 1)))
    red[0, :, 0, 0] = 40, -40, -40  # a person's coverage; nothing is a bag, or a face
    same[range(3), range(3), 1, 1] = 1
    weights = {
        "red": red, "threshold": np.float32([-20, -20, -20]), "same": same, "no_weight": none,
        "distances": np.full(12, 3, np.float32), "first": np.int64([0, 0]), "end": np.int64([544, 960]),
        "axes": np.int64([2, 3]), "stride": np.int64([16, 16]),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, "detector", [image], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
