# SPDX-License-Identifier: Apache-2.0
"""Writes the `simple` model, 1/model.onnx: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1, all INT32 [batch, 16].

The tensors are those of Triton's own example model of this name, so that its example clients work on it.

usage: python build.py      needs onnx
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

OPSET, IR_VERSION = 13, 8
"""Old enough for onnxruntime 1.18, the oldest that Penstock takes."""


def graph() -> onnx.ModelProto:
    names = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16]) for name in names]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "simple", tensors[:2], tensors[2:]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="simple/build.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    version = Path(__file__).parent / "1"
    version.mkdir(exist_ok=True)
    onnx.save(graph(), version / "model.onnx")
