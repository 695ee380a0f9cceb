# SPDX-License-Identifier: Apache-2.0
"""Backends for devices, run without one: slots and streams over ordinary memory, and torch on the CPU in the place of a GPU.

This tests what they do beside computing on a GPU: naming, placing, holding, falling back. It says nothing of CUDA.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.ipc.messages import LoadModel, ModelSpec
from penstock.ipc.tensors import byte_size, numpy_dtype
from penstock.workers.backends.on_device import DeviceBackend, DeviceTensor, DeviceWork, Lane, Slot
from penstock.workers.shapes import Shapes

ROOM = 4096  # bytes for each tensor


class HostStream:
    """A stream whose work is done at once, as far as it comes here."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.copying = self
        self.synchronized = 0

    def fill_zero(self, address: int, size: int) -> None:
        ctypes.memset(address, 0, size)

    def synchronize(self) -> None:
        self.synchronized += 1


class HostDevice:
    """Device 0."""

    ordinal = 0

    def __init__(self) -> None:
        self.synchronized = 0

    def synchronize(self) -> None:
        self.synchronized += 1


class HostMemory:
    """Memory with an address, filled with ones."""

    def __init__(self, size: int = ROOM) -> None:
        self.array = np.full(size + 64, 0x01, np.uint8)
        self.address = -(-self.array.ctypes.data // 64) * 64

    def tensor(self, datatype: str, shape: tuple[int, ...]) -> DeviceTensor:
        size = byte_size(datatype, shape)
        return DeviceTensor(self.address, datatype, shape, ROOM if size is None else size)

    def put(self, array: npt.NDArray[Any], datatype: str) -> DeviceTensor:
        ctypes.memmove(self.address, array.tobytes(), array.nbytes)
        return DeviceTensor(self.address, datatype, array.shape, array.nbytes)


def read(tensor: DeviceTensor) -> npt.NDArray[Any]:
    """What lies there."""
    content = ctypes.string_at(tensor.address, tensor.byte_size)
    return np.frombuffer(content, numpy_dtype(tensor.datatype)).reshape(tensor.shape)


def slots_of(spec: ModelSpec, lanes: int = 1, each: int = 2) -> tuple[list[Slot], list[HostMemory]]:
    """Slots with room for the largest batch, -1 for variable dims, and what keeps their memory alive."""
    memories: list[HostMemory] = []
    shapes, slots, rows = Shapes(spec), [], max(1, spec.max_batch_size)

    def rooms(tensors: list[Any]) -> tuple[DeviceTensor, ...]:
        made = []
        for tensor in tensors:
            memories.append(HostMemory())
            made.append(memories[-1].tensor(tensor.datatype, tuple(shapes.full(rows, tensor.dims))))
        return tuple(made)

    for number in range(lanes):
        lane: Any = Lane(number, HostStream(4096 * (number + 1)))
        slots += [Slot(lane, index, rooms(shapes.model_inputs), rooms(spec.outputs)) for index in range(each)]
    return slots, memories


def work_on(slot: Slot, arrays: list[Any], spec: ModelSpec, is_placed: bool = True) -> DeviceWork:
    """One request's arrays in the slot's inputs, all outputs wanted, placed in the slot if their size is known."""
    inputs: list[DeviceTensor | None] = []
    for room, array, kind in zip(slot.inputs, arrays, spec.inputs, strict=True):
        assert room is not None
        ctypes.memmove(room.address, array.tobytes(), array.nbytes)
        inputs.append(DeviceTensor(room.address, kind.datatype, array.shape, array.nbytes))
    places: list[DeviceTensor | None] = []
    for room, output in zip(slot.outputs, spec.outputs, strict=True):
        shape = (len(arrays[0]), *output.dims)
        size = byte_size(output.datatype, shape)
        assert room is not None
        places.append(DeviceTensor(room.address, output.datatype, shape, size) if is_placed and size is not None else None)
    return DeviceWork((len(arrays[0]),), inputs, tuple(range(len(spec.outputs))), places, slot)


class ServedOnHost:
    """A backend, loaded and warm, over slots of host memory. A context manager, which closes it twice."""

    def __init__(self, backend: DeviceBackend, spec: ModelSpec, directory: Path, lanes: int = 1) -> None:
        self.spec = spec
        self.device: Any = HostDevice()
        self.signature = backend.load(LoadModel(spec, "m_0_0", str(directory), threads=1), self.device)
        self.slots, self._memories = slots_of(spec, lanes)
        backend.warm_up(spec, self.slots)
        self._backend: Any = backend

    def work(self, slot: int, *arrays: Any, is_placed: bool = True) -> DeviceWork:
        return work_on(self.slots[slot], list(arrays), self.spec, is_placed)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend.check_invariants()
        self._backend.close()
        self._backend.close()


class HostGraph:
    """A captured function, which runs again."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self._function()


class HostGpu:
    """TorchGpu's part, on the CPU."""

    name = "cpu"

    def __init__(self, ordinal: int) -> None:
        self.used: list[int] = []
        self.graphs: list[HostGraph] = []
        self.refuses_capture = ""
        self.cleaned = 0

    def use(self, stream: HostStream) -> None:
        self.used.append(stream.address)

    def view(self, tensor: DeviceTensor) -> Any:
        from penstock.workers.backends.pytorch_libtorch import tensor_on

        raw: Any = (ctypes.c_char * tensor.byte_size).from_address(tensor.address)
        return tensor_on(np.frombuffer(raw, numpy_dtype(tensor.datatype)).reshape(tensor.shape), tensor.datatype)

    def pool(self) -> object:
        return object()

    def capture(self, function: Callable[[], object], stream: HostStream, pool: object) -> HostGraph:
        if self.refuses_capture:
            raise RuntimeError(f"CUDA error\n{self.refuses_capture}")
        function()
        self.graphs.append(HostGraph(function))
        return self.graphs[-1]

    def clean(self) -> None:
        self.cleaned += 1
