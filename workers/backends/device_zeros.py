# SPDX-License-Identifier: Apache-2.0
"""Work of zeros on a device, for warming up: as zeros.py, in a slot's own memory."""

from __future__ import annotations

from collections.abc import Sequence

from ...ipc.messages import ModelSpec, TensorSpec
from ...ipc.tensors import byte_size
from ..shapes import Shapes
from .on_device import DeviceTensor, DeviceWork, Slot


def fill_inputs(slot: Slot) -> None:
    """Puts zeros into the memory of every input, in the lane's stream."""
    from ..devices.cuda.copies import fill_zero

    for room in slot.inputs:
        if room is not None:
            fill_zero(room.address, room.byte_size, slot.lane.stream)


def zero_work(spec: ModelSpec, shapes: Shapes, slot: Slot, rows: int) -> DeviceWork | None:
    """So many rows of what the inputs hold, all outputs wanted, in their places where their size is known.

    None where the slot's memory does not tell the shape of an input: variable dims, and what is computed for each execution.
    """
    inputs = [cut(tensor, room, shapes, rows) for tensor, room in zip(spec.inputs, slot.inputs, strict=False)]
    if spec.batch_inputs or None in inputs:
        return None
    places = [cut(tensor, room, shapes, rows) for tensor, room in zip(spec.outputs, slot.outputs, strict=True)]
    return DeviceWork((rows,), inputs, tuple(range(len(places))), places, slot)


def largest(spec: ModelSpec) -> int:
    """Rows of the largest batch; one for a model without a batch dimension."""
    return max(1, spec.max_batch_size)


def own(work: DeviceWork) -> bool:
    """Whether everything that the work reads or writes lies where its slot has it, which is where graphs look for it."""
    places = [work.slot.outputs[output] for output in work.wanted]
    return _at(work.inputs, work.slot.inputs) and _at(work.places, places)


def cut(tensor: TensorSpec, room: DeviceTensor | None, shapes: Shapes, rows: int) -> DeviceTensor | None:
    """So many rows at the beginning of a tensor's room, shaped as the model sees them; None where their shape is not known."""
    if room is None or tensor.ragged or tensor.shaped_as:
        return None
    shape = shapes.full(rows, tensor.dims if tensor.reshape is None else tensor.reshape)
    size = byte_size(tensor.datatype, shape)
    return None if size is None else DeviceTensor(room.address, tensor.datatype, tuple(shape), size)


def _at(tensors: Sequence[DeviceTensor | None], rooms: Sequence[DeviceTensor | None]) -> bool:
    return all(
        tensor is not None and room is not None and tensor.address == room.address
        for tensor, room in zip(tensors, rooms, strict=True)
    )
