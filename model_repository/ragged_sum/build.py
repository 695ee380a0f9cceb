# SPDX-License-Identifier: Apache-2.0
"""Writes the `ragged_sum` model, 1/model.onnx: the sum of each row, of rows that differ in length and lie one after the other.

VALUES FP32 [elements] are all rows, LENGTHS INT32 [rows] says how long each is, SUM FP32 [rows]. A row's sum is the difference
of the running sum at its end and at its beginning: no padding, and no loop.

usage: python build.py      needs onnx
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 13, 8
"""Old enough for onnxruntime 1.18, the oldest that Penstock takes."""


def graph() -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("VALUES", TensorProto.FLOAT, ["elements"]),
        helper.make_tensor_value_info("LENGTHS", TensorProto.INT32, ["rows"]),
    ]
    outputs = [helper.make_tensor_value_info("SUM", TensorProto.FLOAT, ["rows"])]
    constants = [
        numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        numpy_helper.from_array(np.array(0), "axis"),
    ]
    nodes = [
        helper.make_node("CumSum", ["VALUES", "axis"], ["running"]),
        helper.make_node("Concat", ["nothing", "running"], ["sums"], axis=0),
        helper.make_node("CumSum", ["LENGTHS", "axis"], ["ends"]),
        helper.make_node("Sub", ["ends", "LENGTHS"], ["begins"]),
        helper.make_node("Gather", ["sums", "ends"], ["after"]),
        helper.make_node("Gather", ["sums", "begins"], ["before"]),
        helper.make_node("Sub", ["after", "before"], ["SUM"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "ragged_sum", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ragged_sum/build.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    version = Path(__file__).parent / "1"
    version.mkdir(exist_ok=True)
    onnx.save(graph(), version / "model.onnx")
