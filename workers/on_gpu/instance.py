# SPDX-License-Identifier: Apache-2.0
"""A model on a GPU: the device is opened, lanes are made, the backend is warmed up, and all of it is given back."""

from __future__ import annotations

from typing import Any

from ...ipc import cuda
from ...ipc.errors import MachineError, invalid
from ...ipc.messages import Gpu, LoadModel, ModelSpec, Signature, Start
from ..backends import make_device_backend
from ..backends.on_device import DeviceBackend
from ..classification import read_labels
from ..devices.cuda import Device
from ..placements import PlacementCache
from ..region_table import RegionTable
from ..warm_up import run_samples
from .batches import DeviceRunner
from .lanes import DeviceLane, Overlap
from .memory import rooms_of

SPIN_NS = 200_000
"""The end of a batch is looked for this long, and then slept for: a small model has ended by then, and what a large one costs
in sleeping is nothing beside what it takes."""
ALWAYS_NS = 1 << 62

PRIORITIES = {"default": 0, "max": -5, "min": 0}
"""Of streams: a lower number goes first, and CUDA brings it into the device's range (cudaDeviceGetStreamPriorityRange)."""


class DeviceInstance:
    """A model that takes its tensors from the memory of a GPU, in one or more lanes."""

    def __init__(self, backend: DeviceBackend, device: Device, gpu: Gpu, overlap: Overlap | None = None) -> None:
        self._backend = backend
        self._gpu = gpu
        #: which copies have streams of their own; None: as the configuration says
        self._overlap = overlap
        self.device = device
        self._lanes: list[DeviceLane] = []

    def __repr__(self) -> str:
        return f"<DeviceInstance {self._backend!r} on {self.device!r}, {self._lanes}>"

    def load(self, order: LoadModel) -> Signature | None:
        """See Instance. Raises MachineError when the GPU is not the one that was meant."""
        if self._gpu.uuid and self.device.uuid != self._gpu.uuid:
            raise MachineError(
                f"GPU {self.device.ordinal} of this worker is {self.device.uuid}, it was to be {self._gpu.uuid}: "
                "CUDA_VISIBLE_DEVICES or the machine's GPUs have changed"
            )
        return self._backend.load(order, self.device)

    def start(self, message: Start, regions: RegionTable, directory: str) -> DeviceRunner:
        """See Instance."""
        spec, backend = message.spec, self._backend
        refuse_text(spec)
        labels = read_labels(spec, directory)
        placements = PlacementCache(spec, regions, needs_snapshots=False, has_views=False)
        rooms = rooms_of(spec, placements.shapes, backend)
        policy = spec.optimization
        overlap = self._overlap or Overlap(outputs=policy.output_copy_stream)
        for index in range(self._gpu.lanes):
            self._lanes.append(
                DeviceLane(
                    self.device,
                    index,
                    rooms,
                    overlap,
                    (policy.pinned_inputs, policy.pinned_outputs),
                    PRIORITIES[policy.priority],
                )
            )
        slots = [slot.memory.slot for lane in self._lanes for slot in lane.slots]
        backend.warm_up(spec, slots, samples_follow=bool(message.samples))
        runner = DeviceRunner(spec, backend, regions, self.device, self._lanes, placements, labels, spin_ns(self._gpu, spec))
        for lane in range(self._gpu.lanes):  # each is an instance
            run_samples(message, runner, regions, directory, lane)
        return runner

    def describe(self) -> dict[str, Any]:
        """See Instance."""
        return self._backend.describe()

    def close(self) -> None:
        """See Instance. First what computes on the memory, then the memory."""
        self._backend.close()
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()


def open_instance(backend: str, gpu: Gpu, spec: ModelSpec) -> DeviceInstance:
    """The instance on its GPU, which is opened. Raises PenstockError: no such backend, no such GPU."""
    blocking = spin_ns(gpu, spec) < ALWAYS_NS
    ordinal = gpu.ordinal if gpu.ordinal >= 0 else cuda.gpu_of_uuid(gpu.uuid).ordinal
    return DeviceInstance(make_device_backend(backend), Device(ordinal, blocking), gpu)


def spin_ns(gpu: Gpu, spec: ModelSpec) -> int:
    """How long to look for the end of a batch before sleeping. What Gpu leaves open the model's configuration says."""
    if gpu.busy_wait == "auto":
        return ALWAYS_NS if spec.optimization.busy_wait else SPIN_NS
    return ALWAYS_NS if gpu.busy_wait == "always" else 0


def refuse_text(spec: ModelSpec) -> None:
    """Raises CallerError for a tensor that no GPU can have."""
    for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            if tensor.datatype == "BYTES":
                raise invalid(
                    f"model '{spec.name}': {side} '{tensor.name}' is BYTES, text of any length, which an instance on a GPU "
                    "cannot take; use KIND_CPU"
                )
