# SPDX-License-Identifier: Apache-2.0
"""What tests of the way of a batch through a device need: a runner on a simulated GPU, memory of clients, backends to order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from worker_rig import Memory, Tensor, batch_of

from penstock.ipc import cuda
from penstock.ipc.messages import (
    BatchDone,
    Gpu,
    InputSlice,
    LoadModel,
    ModelSpec,
    OutputSlice,
    Placement,
    Signature,
    Start,
    WarmupSample,
)
from penstock.ipc.tensors import numpy_dtype
from penstock.workers.backends.identity_cuda import IdentityCuda
from penstock.workers.backends.on_device import DeviceBackend, DeviceTensor, DeviceWork, Slot
from penstock.workers.devices.cuda import Device, DeviceBuffer, Stream
from penstock.workers.on_gpu.instance import DeviceInstance
from penstock.workers.on_gpu.lanes import Overlap
from penstock.workers.on_gpu.regions import CudaRegion
from penstock.workers.region_table import RegionTable

OUT = 32768
POISON = 0xA5


class Kernel(DeviceBackend):
    """Computes `function` of the inputs' arrays, when the stream comes to it; writes down what it was given."""

    def __init__(self, simulation: Any, function: Callable[..., Sequence[Tensor]]) -> None:
        self._simulation = simulation
        self._function = function
        #: every piece of work, in the order in which it was put in
        self.works: list[DeviceWork] = []
        self.slots: Sequence[Slot] = ()
        #: called with each piece of work, before it is put in; may raise, and may set failures
        self.before: Callable[[DeviceWork], None] = lambda work: None
        #: what is returned instead of the places
        self.returns: Callable[[DeviceWork], Sequence[DeviceTensor | None]] = lambda work: work.places
        self.has_graphs = False
        self.bounds: dict[str, int] = {}
        self.is_closed = False

    def load(self, order: LoadModel, device: Device) -> Signature | None:
        return None

    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:
        self.slots = slots

    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        self.works.append(work)
        self.before(work)

        def run() -> None:
            given = [self._array(tensor) for tensor in work.inputs]
            for place, value in zip(self.returns(work), self._function(*given), strict=True):
                assert place is not None
                self._array(place)[...] = value

        touched = [(tensor.address, tensor.byte_size) for tensor in (*work.inputs, *self.returns(work)) if tensor is not None]
        self._simulation.enqueue(work.slot.lane.stream.handle, run, touched)
        return self.returns(work)

    def largest(self, name: str) -> int | None:
        return self.bounds.get(name)

    def replays(self, rows: int) -> bool:
        return self.has_graphs

    def close(self) -> None:
        self.is_closed = True

    def _array(self, tensor: DeviceTensor | None) -> Any:
        if tensor is None:
            return None
        return self._simulation.view(tensor.address, tensor.byte_size).view(numpy_dtype(tensor.datatype)).reshape(tensor.shape)


class DeviceMemory:
    """A CUDA region, filled with poison. That it is this process's own is what CUDA IPC would not allow, and no matter here."""

    def __init__(self, number: int, byte_size: int = 65536) -> None:
        self.number = number
        self.byte_size = byte_size
        self.buffer = DeviceBuffer(byte_size)
        self._write(0, np.full(byte_size, POISON, np.uint8))

    def region(self) -> CudaRegion:
        return CudaRegion(None, b"", self.buffer.address, self.byte_size)  # type: ignore[arg-type]  # nothing was opened

    def put(self, offset: int, tensor: Tensor) -> InputSlice:
        self._write(offset, tensor)
        return InputSlice(self.number, offset, tensor.nbytes, list(tensor.shape))

    def place(self, output: int, offset: int, byte_size: int) -> OutputSlice:
        return OutputSlice(output, self.number, offset, byte_size)

    def get(self, offset: int, datatype: str, shape: Sequence[int]) -> Tensor:
        found = np.empty(shape, numpy_dtype(datatype))
        cuda.copy(found.ctypes.data, self.buffer.address + offset, found.nbytes)
        return found

    def close(self) -> None:
        self.buffer.close()

    def _write(self, offset: int, tensor: Tensor) -> None:
        content = np.ascontiguousarray(tensor)
        cuda.copy(self.buffer.address + offset, content.ctypes.data, content.nbytes)


class DeviceRig:
    """A backend, loaded and warm, with the device runner around it and one pinned region mapped."""

    def __init__(
        self, spec: ModelSpec, backend: DeviceBackend | None = None, gpu: Gpu | None = None, isolate: bool = False,
        overlap: Overlap | None = None, samples: Sequence[WarmupSample] = (), directory: str = "",
    ) -> None:  # fmt: skip
        self.spec = spec
        self.backend = IdentityCuda() if backend is None else backend
        self.device = Device(0, blocking=True)
        gpu = gpu or Gpu(self.device.uuid)
        self.instance = DeviceInstance(self.backend, self.device, gpu, overlap)
        self.instance.load(LoadModel(spec, "m_0_0", directory, gpu=gpu))
        self.regions = RegionTable(isolate, self.device)
        self.memories: list[Memory | DeviceMemory] = []
        try:
            self.runner = self.instance.start(Start(spec, list(samples)), self.regions, directory)
            self.memory = self.map(Memory())
        except BaseException:
            self.close()
            raise

    def map(self, memory: Memory, sealed: bool = True) -> Memory:
        self.regions.map(memory.message(sealed), os.dup(memory.fd))
        self.memories.append(memory)
        return memory

    def map_device(self, number: int = 2, byte_size: int = 65536) -> DeviceMemory:
        memory = DeviceMemory(number, byte_size)
        self.regions._regions[number] = memory.region()  # no process exports it
        self.memories.append(memory)
        return memory

    def submit(self, number: int, *placements: Placement, lane: int = 0) -> None:
        self.runner.submit(batch_of(*placements, number=number, lane=lane))
        self.runner.check_invariants()

    def finished(self) -> list[int]:
        """The numbers of the batches that have ended since the last call; asks only once, which the simulation ignores."""
        return [each.batch.batch for each in self._finished()]

    def drained(self) -> dict[int, BatchDone]:
        """The reports of all batches in flight, by number."""
        self.runner.drain()
        return {each.batch.batch: each.report for each in self._finished()}

    def run(self, *placements: Placement) -> BatchDone:
        """Executes a batch that brings no descriptors."""
        done, fds = self.run_with_fds(*placements)
        assert (fds, done.fds) == ([], 0)
        return done

    def run_with_fds(self, *placements: Placement) -> tuple[BatchDone, list[int]]:
        done, fds = self.runner.run(batch_of(*placements))
        self.runner.check_invariants()
        assert done.fds == len(fds)
        return done, fds

    def _finished(self) -> Any:
        ended = self.runner.finished()
        self.runner.check_invariants()
        return ended

    def close(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()
        self.instance.close()
        self.regions.close()
        for memory in self.memories:
            memory.close()
        self.device.close()

    def __enter__(self) -> DeviceRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(memory: Memory | DeviceMemory, x: Tensor, at: int = 0, out: int = OUT, size: int | None = None) -> Placement:
    """One input and one output in the same region."""
    return Placement(len(x), [memory.put(at, x)], [memory.place(0, out, x.nbytes if size is None else size)])


@contextmanager
def standing_still(simulation: Any, stream: Stream) -> Iterator[None]:
    """A stream in which nothing is done within the block."""
    simulation.hold(stream.handle)
    try:
        yield
    finally:
        simulation.release(stream.handle)
