# SPDX-License-Identifier: Apache-2.0
"""A TensorRT backend with what a worker gives it: a device, lanes, slots. The same over simulated and real packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.ipc import cuda
from penstock.ipc.messages import Gpu, LoadModel, ModelSpec, Optimization, Signature, TensorSpec
from penstock.ipc.tensors import byte_size, numpy_dtype
from penstock.workers.backends.on_device import DeviceTensor, DeviceWork, Lane, Slot
from penstock.workers.backends.tensorrt_plan import TensorRT
from penstock.workers.devices.cuda import Device, DeviceBuffer, Stream

pytest.importorskip("onnx", reason="needs onnx")  # which a machine with a GPU need not have
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Tensors = dict[str, tuple[str, list[int]]]


def spec_of(inputs: Tensors, outputs: Tensors, max_batch_size: int = 8, **more: Any) -> ModelSpec:
    sides = [[TensorSpec(name, *kind) for name, kind in side.items()] for side in (inputs, outputs)]
    return ModelSpec("m", 1, "tensorrt", max_batch_size, *sides, **more)


def affine_onnx(rows: int | str = "n", width: int = 4) -> onnx.ModelProto:
    """y = 3 x + 1, rows of `width`."""
    constants = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in (("three", 3), ("one", 1))]
    nodes = [helper.make_node("Mul", ["x", "three"], ["z"]), helper.make_node("Add", ["z", "one"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "affine", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nonzero_onnx(width: int = 6) -> onnx.ModelProto:
    """The positions of what is not zero: as many as there are."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, width]),
        helper.make_tensor_value_info("y", TensorProto.INT64, [2, "count"]),
    ]
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "nonzero", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def build(trt: Any, model: onnx.ModelProto, *profiles: dict[str, list[list[int]]]) -> bytes:
    """A plan of an ONNX model, made as any program makes it."""
    from penstock.workers.backends.plans.library import library

    logger = library()._logger
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, bounds in shapes.items():
            profile.set_shape(name, *(tuple(bound) for bound in bounds))
        config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    assert built is not None, library().log.reason()
    return bytes(built)


class PlanRig:
    """A plan, loaded by a backend; after warm_up its slots can be filled and executed."""

    def __init__(self, plan: bytes, directory: Path, filename: str = "model.plan", **gpu: Any) -> None:
        (directory / filename).write_bytes(plan)
        self.directory = directory
        self.filename = filename
        self.gpu = Gpu("", **gpu)
        self.backend = TensorRT()
        self.device = Device(0, blocking=False)
        self.streams: list[Stream] = []
        self.slots: list[Slot] = []
        self._buffers: list[DeviceBuffer] = []
        self.spec: ModelSpec | None = None

    def load(self, spec: ModelSpec | None = None) -> Signature:
        given = ModelSpec("m", 1, "tensorrt", 0, [], []) if spec is None else spec
        order = LoadModel(given, "m_0_0", str(self.directory), self.filename, gpu=self.gpu)
        return self.backend.load(order, self.device)

    def warm_up(self, spec: ModelSpec, lanes: int = 1, slots: int = 2, room: int = 0) -> PlanRig:
        """`room`: elements for each tensor with variable dims; 0: the slot has no memory for it."""
        self.load(spec)
        self.spec = spec
        for index in range(lanes):
            lane = Lane(index, Stream(self.device))
            self.streams.append(lane.stream)
            for number in range(slots):
                inputs, outputs = (tuple(self._memory(tensor, room) for tensor in side) for side in (spec.inputs, spec.outputs))
                self.slots.append(Slot(lane, number, inputs, outputs))
        self.backend.warm_up(spec, self.slots)
        self.backend.check_invariants()
        return self

    def _memory(self, tensor: TensorSpec, room: int) -> DeviceTensor | None:
        assert self.spec is not None
        shape = ((self.spec.max_batch_size,) if self.spec.max_batch_size else ()) + tuple(tensor.dims)
        size = byte_size(tensor.datatype, shape if room == 0 else (room,))
        if size is None:
            return None
        return DeviceTensor(self.buffer(size), tensor.datatype, shape, size)

    def buffer(self, size: int) -> int:
        self._buffers.append(DeviceBuffer(size))
        return self._buffers[-1].address

    def fill(self, slot: Slot, *contents: Array, elsewhere: bool = False) -> list[DeviceTensor]:
        """Brings arrays into a slot's inputs, or into other memory."""
        given = []
        for home, content in zip(slot.inputs, contents, strict=True):
            address = self.buffer(content.nbytes) if elsewhere or home is None else home.address
            cuda.copy(address, content.ctypes.data, content.nbytes)
            datatype = next(tensor.datatype for tensor in self.spec.inputs if numpy_dtype(tensor.datatype) == content.dtype)  # type: ignore[union-attr]
            given.append(DeviceTensor(address, datatype, content.shape, content.nbytes))
        return given

    def places(self, slot: Slot, rows: int) -> list[DeviceTensor | None]:
        """The slot's memory for each output, as so many rows fill it."""
        assert self.spec is not None
        found: list[DeviceTensor | None] = []
        for home, tensor in zip(slot.outputs, self.spec.outputs, strict=True):
            shape = ((rows,) if self.spec.max_batch_size else ()) + tuple(tensor.dims)
            size = byte_size(tensor.datatype, shape)
            found.append(None if home is None or size is None else DeviceTensor(home.address, tensor.datatype, shape, size))
        return found

    def enqueue(
        self, slot: Slot, inputs: Sequence[DeviceTensor], places: Sequence[DeviceTensor | None] | None = None
    ) -> list[Any]:
        """The results, not waited for."""
        assert self.spec is not None
        rows = inputs[0].shape[0] if self.spec.max_batch_size else 1
        where = self.places(slot, rows) if places is None else places
        work = DeviceWork([rows], inputs, tuple(range(len(self.spec.outputs))), where, slot)
        results = self.backend.enqueue(work)
        self.backend.check_invariants()
        assert all(result is not None for result in results)
        return list(results)

    def run(
        self, *contents: Array, slot: int = 0, elsewhere: bool = False, places: Sequence[DeviceTensor | None] | None = None
    ) -> list[Array]:
        """Executes arrays in a slot; the outputs."""
        where = self.slots[slot]
        results = self.enqueue(where, self.fill(where, *contents, elsewhere=elsewhere), places)
        where.lane.stream.synchronize()
        return [self.read(result) for result in results]

    def read(self, tensor: DeviceTensor) -> Array:
        content = np.empty(tensor.shape, numpy_dtype(tensor.datatype))
        cuda.copy(content.ctypes.data, tensor.address, tensor.byte_size)
        return content

    def close(self) -> None:
        for stream in self.streams:
            stream.synchronize()
        self.backend.close()
        self.backend.close()
        for stream in self.streams:
            stream.close()
        for buffer in self._buffers:
            buffer.close()


def graphs_off() -> Optimization:
    return Optimization(cuda_graphs=False)
