# SPDX-License-Identifier: Apache-2.0
"""TorchScript modules and exported programs of torch, on a GPU, in the lane's stream.

Inputs are looked at where they lie in device memory; outputs are copied into their places by the device, in the same stream, or
are torch's own memory, held until the slot is used again. That memory comes from torch's allocator in the lane's stream, and is
freed there: whoever reads it in another stream is done with it before the slot's next batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...ipc.errors import ModelError
from ...ipc.messages import LoadModel, ModelSpec, Signature
from .device_zeros import fill_inputs, largest, zero_work
from .on_device import DeviceBackend, DeviceTensor, DeviceWork, Slot
from .pytorch_libtorch import WARM_UP_EXECUTIONS
from .torch_forward import Forward, signature_of
from .torch_gpu import TorchGpu
from .torch_graphs import Bucket, TorchGraph, buckets, capture
from .torch_models import Program, load_program, torch
from .torch_settings import TorchSettings, read_settings

if TYPE_CHECKING:
    from ..devices.cuda import Device


class _InSlot:
    """What belongs to a slot: its graphs, by rows, and outputs in torch's own memory."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.graphs: dict[int, TorchGraph] = {}
        #: results of the slot's last batch that somebody may be reading
        self.held: list[torch.Tensor] = []


class TorchCuda(DeviceBackend):
    """One program for all lanes: its weights are there once."""

    def __init__(self, open_gpu: Callable[[int], TorchGpu] = TorchGpu) -> None:
        self._open_gpu = open_gpu
        self._gpu: TorchGpu | None = None
        self._program: Program | None = None
        self._settings: TorchSettings | None = None
        self._forward: Forward | None = None
        self._instance = ""
        self._in_slots: dict[tuple[int, int], _InSlot] = {}
        self._buckets: list[Bucket] = []

    def __repr__(self) -> str:
        graphs = sum(len(each.graphs) for each in self._in_slots.values())
        return f"<TorchCuda {self._forward or self._program or 'closed'!r} on {self._gpu!r}, {graphs} graphs>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a graph belongs to no bucket."""
        served = {rows for bucket in self._buckets for rows in range(bucket.lower, bucket.rows + 1)}
        assert all(each.graphs.keys() <= served for each in self._in_slots.values()), repr(self)

    def load(self, order: LoadModel, device: Device) -> Signature | None:
        """Reads DIRECTORY/FILENAME (model.pt) onto the device. Raises ModelError with the file's name and the reason."""
        self._settings = read_settings(order.spec.parameters)
        self._settings.apply(order.threads)
        self._instance = order.instance
        self._gpu = self._open_gpu(device.ordinal)
        self._program = load_program(order, self._gpu.name)
        device.synchronize()  # what loading did, it did in torch's own stream, for which those of lanes do not wait
        return signature_of(self._program, order.spec)

    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:
        """Checks names, executes zeros in every lane, and captures the graphs that the configuration asks for."""
        assert self._program is not None and self._settings is not None, "warm_up before load"
        self._forward = Forward(self._program, spec, self._settings)
        self._in_slots = {(slot.lane.index, slot.index): _InSlot(slot) for slot in slots}
        if not samples_follow:
            self._execute_zeros(spec, [slot for slot in slots if slot.index == 0])
        self._buckets = buckets(spec)
        if self._buckets:
            self._capture_all(spec)
        for slot in slots:
            slot.lane.stream.synchronize()

    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Raises what forward raises."""
        assert self._gpu is not None and self._settings is not None, "enqueue before warm_up"
        self._gpu.use(work.slot.lane.stream)
        in_slot = self._in_slot(work.slot)
        in_slot.held.clear()
        rows = sum(work.rows_of)
        graph = in_slot.graphs.get(rows)
        if graph is not None and graph.serves(work):
            graph.replay(rows)
            return work.places
        results = self._run(work)
        if self._settings.cache_cleaning:
            self._gpu.clean()
        return results

    def replays(self, rows: int) -> bool:
        """Whether every slot has a graph for it."""
        return bool(self._in_slots) and all(rows in each.graphs for each in self._in_slots.values())

    def describe(self) -> dict[str, Any]:
        """The version of torch, and the batch sizes that have graphs."""
        sizes = {graph.rows for each in self._in_slots.values() for graph in each.graphs.values()}
        return {"torch": str(torch.__version__), "graphs": sorted(sizes)}

    def close(self) -> None:
        """Frees graphs, program and memory."""
        self._in_slots.clear()
        self._forward = None
        self._program = None
        if self._gpu is not None:
            self._gpu.clean()
            self._gpu = None

    def _in_slot(self, slot: Slot) -> _InSlot:
        """A slot that has outgrown its memory is another, for which there are no graphs."""
        key = (slot.lane.index, slot.index)
        found = self._in_slots.get(key)
        if found is None or (found.slot is not slot and found.slot != slot):
            found = self._in_slots[key] = _InSlot(slot)
        return found

    def _run(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Executes plainly, in the current stream."""
        assert self._gpu is not None and self._forward is not None
        gpu = self._gpu
        inputs = [None if tensor is None else gpu.view(tensor) for tensor in work.inputs]
        is_lent = any(
            tensor is not None and (room is None or tensor.address != room.address)
            for tensor, room in zip(work.inputs, work.slot.inputs, strict=True)
        )
        found = self._forward.compute(inputs, work.wanted, is_lent)
        delivered = [
            self._held(result, work, at) if place is None else self._placed(result, place, work, at)
            for at, (result, place) in enumerate(zip(found, work.places, strict=True))
        ]
        return work.places if all(place is not None for place in work.places) else delivered

    def _placed(self, result: torch.Tensor, place: DeviceTensor, work: DeviceWork, at: int) -> DeviceTensor:
        assert self._gpu is not None and self._forward is not None
        if work.wanted[at] in self._forward.shapes.sources:
            result = result.reshape(-1)
        if tuple(result.shape) != place.shape:
            raise ModelError(
                f"returned output '{self._forward.output_name(work.wanted[at])}' as {list(result.shape)}, "
                f"its configuration says {list(place.shape)}"
            )
        self._gpu.view(place).copy_(result)
        return place

    def _held(self, result: torch.Tensor, work: DeviceWork, at: int) -> DeviceTensor:
        assert self._gpu is not None and self._forward is not None
        result = result.to(self._gpu.name).contiguous()
        self._in_slot(work.slot).held.append(result)
        datatype = self._forward.output_datatype(work.wanted[at])
        return DeviceTensor(result.data_ptr(), datatype, tuple(result.shape), result.numel() * result.element_size())

    def _execute_zeros(self, spec: ModelSpec, slots: Sequence[Slot]) -> None:
        assert self._forward is not None
        for slot in slots:
            fill_inputs(slot)
            for rows in sorted({1, largest(spec)}):
                work = zero_work(spec, self._forward.shapes, slot, rows)
                for _ in range(WARM_UP_EXECUTIONS if work is not None else 0):
                    assert work is not None
                    self.enqueue(work)
            slot.lane.stream.synchronize()

    def _capture_all(self, spec: ModelSpec) -> None:
        """Graphs for every slot, or, with one line that says why, none: batches would else differ in what they cost."""
        assert self._gpu is not None and self._forward is not None
        pools: dict[int, Any] = {}
        for in_slot in self._in_slots.values():
            lane = in_slot.slot.lane
            self._gpu.use(lane.stream)
            pool = pools.setdefault(lane.index, self._gpu.pool())
            for bucket in self._buckets:
                try:
                    graph = capture(spec, self._forward.shapes, in_slot.slot, bucket, self._gpu, pool, self._run)
                except Exception as error:  # noqa: BLE001 - of whatever kind: what cannot be captured is executed plainly
                    self._give_up(bucket, error)
                    return
                for rows in range(bucket.lower, bucket.rows + 1):
                    in_slot.graphs.setdefault(rows, graph)

    def _give_up(self, bucket: Bucket, error: Exception) -> None:
        for in_slot in self._in_slots.values():
            in_slot.graphs.clear()
        reason = str(error).strip().splitlines()
        sys.stderr.write(
            f"{self._instance}: no CUDA graphs, batches are executed plainly: a batch of {bucket.rows} cannot be captured: "
            f"{reason[-1] if reason else type(error).__name__}\n"
        )
