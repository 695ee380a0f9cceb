# SPDX-License-Identifier: Apache-2.0
"""Plans: a network of simple operators, its inputs and outputs, its profiles, and properties that an engine may have."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
MAGIC = b"simulated plan\n"
DTYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
    "UINT8": np.uint8, "BF16": np.uint16, "FP8": np.uint8,
}  # fmt: skip


@dataclass
class Plan:
    """What a plan file says. Shapes have -1 where they vary; each profile has [min, opt, max] for each input that varies."""

    version: str
    inputs: dict[str, tuple[str, list[int]]]
    outputs: dict[str, tuple[str, list[int]]]
    ops: list[dict[str, Any]]
    profiles: list[dict[str, list[list[int]]]] = field(default_factory=list)
    gpu: str = "Simulated GPU"
    host_inputs: list[str] = field(default_factory=list)
    host_outputs: list[str] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    activation_bytes: int = 1024
    #: of an 8.5 plan from a network without EXPLICIT_BATCH
    is_implicit: bool = False
    #: VERSION_COMPATIBLE: brings host code
    has_host_code: bool = False
    #: bytes of weights that come to the device in each execution
    streamed_weights: int = 0
    #: replayed graphs read shapes from the context, which they share with what is enqueued after them
    reads_shapes_from_context: bool = False

    def to_bytes(self) -> bytes:
        return MAGIC + json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(content: bytes) -> Plan | None:
        return Plan(**json.loads(content[len(MAGIC) :])) if content.startswith(MAGIC) else None

    @property
    def has_loops(self) -> bool:
        return any(op["op"] == "loop" for op in self.ops)

    @property
    def depends_on_data(self) -> bool:
        return any(op["op"] in ("nonzero", "onnx") and op.get("depends_on_data", True) for op in self.ops)

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All tensors of the network."""
        tensors = dict(inputs)
        for op in self.ops:
            OPERATORS[op["op"]](op, tensors)
        return tensors


def _write(op: dict[str, Any], tensors: dict[str, Array], value: Any) -> None:
    tensors[op["out"]] = np.asarray(value)


def _scale(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    source = tensors[op["in"][0]]
    _write(op, tensors, (source * op["value"]).astype(source.dtype))


def _add(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    _write(op, tensors, tensors[op["in"][0]] + tensors[op["in"][1]])


def _row_sum(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    source = tensors[op["in"][0]]
    _write(op, tensors, source.sum(axis=-1, keepdims=True, dtype=source.dtype))


def _batch_mean(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Rows that know each other: what lies behind a batch changes it."""
    source = tensors[op["in"][0]]
    _write(op, tensors, (source - source.mean(axis=0, keepdims=True)).astype(source.dtype))


def _nonzero(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    _write(op, tensors, np.argwhere(tensors[op["in"][0]]).astype(np.int32))


def _fill(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Of the shape that a shape tensor says."""
    _write(op, tensors, np.full(tuple(tensors[op["in"][0]].tolist()), op["value"], np.float32))


def _constant(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Of a shape that has nothing to do with the inputs'."""
    _write(op, tensors, np.full(op["shape"], op["value"], np.float32))


def _identity(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    _write(op, tensors, tensors[op["in"][0]])


def _cast(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    _write(op, tensors, tensors[op["in"][0]].astype(DTYPES[op["to"]]))


def _onnx(op: dict[str, Any], tensors: dict[str, Array]) -> None:
    """A whole model, by onnx's reference implementation. 8.5 has its INT64 tensors as INT32."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(base64.b64decode(op["model"]))
    evaluator = ReferenceEvaluator(model)
    wanted = [onnx.helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type) for each in model.graph.input]
    feeds = {name: tensors[name].astype(dtype) for name, dtype in zip(evaluator.input_names, wanted, strict=True)}
    for name, value, kind in zip(evaluator.output_names, evaluator.run(None, feeds), op["kinds"], strict=True):
        tensors[name] = np.asarray(value).astype(DTYPES[kind])


OPERATORS: dict[str, Callable[[dict[str, Any], dict[str, Array]], None]] = {
    "scale": _scale, "add": _add, "row_sum": _row_sum, "batch_mean": _batch_mean, "nonzero": _nonzero, "fill": _fill,
    "constant": _constant, "identity": _identity, "loop": _identity, "cast": _cast, "plugin": _scale, "onnx": _onnx,
}  # fmt: skip


def output_shapes(plan: Plan, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> dict[str, Shape]:
    """Shapes of the outputs for those of the inputs, by trying it; -1 where data decides. `values`: of host inputs."""
    inputs = {
        name: values[name] if name in values else np.zeros(shapes[name], DTYPES[kind])
        for name, (kind, _) in plan.inputs.items()
    }
    tensors = plan.evaluate(inputs)
    decided = {op["out"] for op in plan.ops if op["op"] == "nonzero"}
    found: dict[str, Shape] = {}
    for name, (_, declared) in plan.outputs.items():
        shape = tensors[name].shape
        is_of_data = name in decided or (plan.depends_on_data and name not in decided and _is_onnx(plan))
        found[name] = tuple(-1 if is_of_data and want == -1 else size for want, size in zip(declared, shape, strict=True))
    return found


def _is_onnx(plan: Plan) -> bool:
    return any(op["op"] == "onnx" and op.get("depends_on_data") for op in plan.ops)


def is_within(shape: Sequence[int], bounds: Sequence[Sequence[int]]) -> bool:
    low, _, high = bounds
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
