# SPDX-License-Identifier: Apache-2.0
"""What a worker's tests need of a broker: memory with tensors in it, placements, and batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Raw
from onnx import TensorProto, helper

from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    Batch,
    BatchDone,
    InputSlice,
    LoadModel,
    MapRegion,
    ModelSpec,
    OutputSlice,
    Placement,
    TensorSpec,
)
from penstock.ipc.regions import create_memfd
from penstock.ipc.tensors import deserialize_bytes, numpy_dtype, serialize_bytes
from penstock.workers.backends import make_backend
from penstock.workers.backends.base import Backend
from penstock.workers.batches import BatchRunner
from penstock.workers.classification import NO_LABELS, Labels
from penstock.workers.region_table import RegionTable

Tensor = npt.NDArray[Any]
POISON = 0xA5


def spec_of(
    backend: str, inputs: dict[str, tuple[str, list[int]]], outputs: dict[str, tuple[str, list[int]]], max_batch_size: int = 16,
    **parameters: str,
) -> ModelSpec:  # fmt: skip
    tensors = [[TensorSpec(name, *kind) for name, kind in side.items()] for side in (inputs, outputs)]
    return ModelSpec("m", 1, backend, max_batch_size, *tensors, parameters)


class Memory:
    """One region: a memfd (or any file) filled with poison, in which tensors are put at given offsets."""

    def __init__(self, number: int = 1, byte_size: int = 65536, fd: int | None = None) -> None:
        self.number = number
        self.byte_size = byte_size
        self.fd = create_memfd(f"rig-{number}", byte_size) if fd is None else fd
        os.pwrite(self.fd, bytes([POISON]) * byte_size, 0)

    def put(self, offset: int, tensor: Tensor) -> InputSlice:
        """The tensor's bytes at `offset`."""
        content = serialize_bytes(tensor.ravel().tolist()) if tensor.dtype == object else tensor.tobytes()
        os.pwrite(self.fd, content, offset)
        return InputSlice(self.number, offset, len(content), list(tensor.shape))

    def place(self, output: int, offset: int, byte_size: int) -> OutputSlice:
        return OutputSlice(output, self.number, offset, byte_size)

    def get(self, offset: int, datatype: str, shape: Sequence[int]) -> Tensor:
        """What lies at `offset` now."""
        dtype = numpy_dtype(datatype)
        count = int(np.prod(shape))
        return np.frombuffer(os.pread(self.fd, count * dtype.itemsize, offset), dtype).reshape(tuple(shape))

    def text(self, offset: int, byte_size: int, shape: Sequence[int]) -> Tensor:
        return deserialize_bytes(os.pread(self.fd, byte_size, offset), shape, "text")

    def message(self, sealed: bool = True) -> MapRegion:
        return MapRegion(self.number, self.byte_size, sealed=sealed)

    def close(self) -> None:
        os.close(self.fd)


def unplaced(output: int) -> OutputSlice:
    return OutputSlice(output, -1, 0, 0)


def batch_of(*placements: Placement, number: int = 7, lane: int = 0) -> Batch:
    return Batch(number, [Raw(encode(placement)) for placement in placements], lane)


class Rig:
    """A backend, loaded and warm, with the worker's batch runner around it and one region mapped."""

    def __init__(
        self, spec: ModelSpec, directory: Path | str = "", backend: Backend | None = None, isolate: bool = False,
        labels: Labels = NO_LABELS,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.backend = make_backend(spec.backend) if backend is None else backend
        self.backend.load(LoadModel(spec, "m_0_0", str(directory), threads=1))
        self.backend.warm_up(spec)
        self.regions = RegionTable(isolate)
        self.runner = BatchRunner(spec, self.backend, self.regions, labels)
        self.memories: list[Memory] = []
        self.memory = self.map(Memory())

    def map(self, memory: Memory, sealed: bool = True) -> Memory:
        self.regions.map(memory.message(sealed), os.dup(memory.fd))
        self.memories.append(memory)
        return memory

    def run(self, *placements: Placement) -> BatchDone:
        """Executes a batch that brings no descriptors."""
        done, fds = self.runner.run(batch_of(*placements))
        self.runner.check_invariants()
        assert (fds, done.fds) == ([], 0)
        return done

    def run_with_fds(self, *placements: Placement) -> tuple[BatchDone, list[int]]:
        done, fds = self.runner.run(batch_of(*placements))
        self.runner.check_invariants()
        assert done.fds == len(fds)
        return done, fds

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.close()
        self.backend.close()
        self.regions.close()
        for memory in self.memories:
            memory.close()


def copies(done: BatchDone) -> dict[str, tuple[int, int]]:
    return {copied.kind: (copied.count, copied.byte_size) for copied in done.copies}


# --- tiny ONNX models --------------------------------------------------------------------------------------------------------

_TYPES = {
    "FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "INT32": TensorProto.INT32, "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16, "FP16": TensorProto.FLOAT16, "BOOL": TensorProto.BOOL,
}  # fmt: skip


def write_onnx(
    directory: Path, nodes: list[onnx.NodeProto], inputs: dict[str, tuple[str, list[Any]]],
    outputs: dict[str, tuple[str, list[Any]]], constants: dict[str, Tensor] | None = None,
) -> Path:  # fmt: skip
    """Writes model.onnx; shapes are complete, a text is a symbolic dim. Returns the directory."""
    values = [
        [helper.make_tensor_value_info(name, _TYPES[datatype], shape) for name, (datatype, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", *values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    return directory


def write_prefix_model(directory: Path, width: int = 6, count: int = 4, datatype: str = "FP32") -> Path:
    """y = x[:, :count]: what identity and fake compute."""
    constants = {"begin": np.array([0]), "end": np.array([count]), "axis": np.array([1])}
    node = helper.make_node("Slice", ["x", "begin", "end", "axis"], ["y"])
    return write_onnx(directory, [node], {"x": (datatype, ["n", width])}, {"y": (datatype, ["n", count])}, constants)
