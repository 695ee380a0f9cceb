# SPDX-License-Identifier: Apache-2.0
"""The memory that batches on a device use in turn: tensors of the model on the device, and host memory beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...ipc.cuda import CudaError
from ...ipc.errors import MachineError
from ...ipc.messages import ModelSpec, TensorSpec
from ...ipc.tensors import byte_size
from ..backends.on_device import ALIGNMENT, DeviceBackend, DeviceTensor, Lane, Slot
from ..devices.cuda import DeviceBuffer, PinnedBuffer
from ..packing import aligned
from ..ragged import Shape
from ..region_table import Octets
from ..shapes import Shapes

FIRST_BLOCK_BYTES = 1 << 20
LARGEST_STEP_BYTES = 64 << 20


class Room(NamedTuple):
    """What a tensor takes of a slot. `byte_size` is that of the largest batch; None: only a batch tells."""

    datatype: str
    shape: Shape
    byte_size: int | None


def rooms_of(spec: ModelSpec, shapes: Shapes, backend: DeviceBackend) -> tuple[list[Room], list[Room]]:
    """The rooms of what Work.inputs holds, and of the outputs."""

    def room(tensor: TensorSpec, is_flat: bool) -> Room:
        dims = tensor.dims if tensor.reshape is None else tensor.reshape
        shape = (-1,) if is_flat else shapes.full(spec.max_batch_size, dims)
        known = byte_size(tensor.datatype, shape)
        return Room(tensor.datatype, shape, backend.largest(tensor.name) if known is None else known)

    computed = shapes.model_inputs[len(spec.inputs) :]
    inputs = [room(tensor, tensor.ragged) for tensor in spec.inputs] + [room(tensor, True) for tensor in computed]
    return inputs, [room(tensor, bool(tensor.shaped_as)) for tensor in spec.outputs]


class SlotMemory:
    """Device memory of one slot. What has a known size has its place for good; the rest grows by powers of two."""

    def __init__(self, lane: Lane, index: int, inputs: Sequence[Room], outputs: Sequence[Room]) -> None:
        self._rooms = [*inputs, *outputs]
        self._inputs = len(inputs)
        begins: list[int] = []
        end = 0
        for room in self._rooms:
            begins.append(end)
            end = aligned(end + (room.byte_size or 0), ALIGNMENT)
        self._block = _allocated(end, lane, index)
        #: position in _rooms -> where it has grown to
        self._grown: dict[int, DeviceBuffer] = {}
        self._tensors: list[DeviceTensor | None] = [
            None if room.byte_size is None else DeviceTensor(self._block.address + begin, *room)  # type: ignore[arg-type]  # byte_size is there
            for room, begin in zip(self._rooms, begins, strict=True)
        ]
        self.slot = self._made(lane, index)

    def __repr__(self) -> str:
        grown = sum(buffer.byte_size for buffer in self._grown.values())
        return f"<SlotMemory {self.slot.lane.index}.{self.slot.index}: {self._block.byte_size} bytes, {grown} grown>"

    def input(self, at: int, byte_size: int) -> int:
        """The address of an input, where `byte_size` bytes have room. May renew `slot`."""
        return self._address(at, byte_size)

    def output(self, at: int, byte_size: int) -> int:
        """The address of an output, in the same way."""
        return self._address(self._inputs + at, byte_size)

    def close(self) -> None:
        """Gives the memory back; nothing may be in flight. Idempotent."""
        self._block.close()
        for buffer in self._grown.values():
            buffer.close()
        self._grown.clear()

    def check_invariants(self) -> None:
        """Raises AssertionError when a tensor is misaligned, or `slot` says anything else than what is there."""
        assert all(tensor is None or tensor.address % ALIGNMENT == 0 for tensor in self._tensors), repr(self)
        assert [*self.slot.inputs, *self.slot.outputs] == self._tensors, repr(self)

    def _address(self, at: int, byte_size: int) -> int:
        tensor = self._tensors[at]
        if tensor is None or tensor.byte_size < byte_size:
            tensor = self._grow(at, byte_size)
        return tensor.address

    def _grow(self, at: int, byte_size: int) -> DeviceTensor:
        """The batch that had this slot has ended: what is too small can go before what is larger comes."""
        if at in self._grown:
            self._grown.pop(at).close()
        self._tensors[at] = None
        self.slot = self._made(self.slot.lane, self.slot.index)
        capacity = 1 << max(byte_size - 1, ALIGNMENT - 1).bit_length()
        buffer = self._grown[at] = DeviceBuffer(capacity)
        datatype, shape, _ = self._rooms[at]
        tensor = self._tensors[at] = DeviceTensor(buffer.address, datatype, shape, capacity)
        self.slot = self._made(self.slot.lane, self.slot.index)
        return tensor

    def _made(self, lane: Lane, index: int) -> Slot:
        return Slot(lane, index, tuple(self._tensors[: self._inputs]), tuple(self._tensors[self._inputs :]))


def _allocated(byte_size: int, lane: Lane, index: int) -> DeviceBuffer:
    try:
        return DeviceBuffer(byte_size)
    except CudaError as error:
        raise MachineError(
            f"slot {index} of lane {lane.index} needs {byte_size} bytes on the GPU for the inputs and outputs of its largest "
            f"batch; lower max_batch_size: {error.message}"
        ) from error


class Staging:
    """Host memory of one slot, through which goes what the GPU cannot reach.

    The slots of a lane are used in turn, so that their parts make a ring: each is used again when its batch has ended. It
    grows by blocks of twice the size of the last, at most LARGEST_STEP_BYTES unless one tensor takes more. What the machine
    does not pin is pageable, and only slower.
    """

    def __init__(self, is_pinned: bool) -> None:
        #: whether all of it is; False from the first refusal on
        self.is_pinned = is_pinned
        self._buffers: list[PinnedBuffer] = []
        self._blocks: list[Octets] = []
        #: the block that is being filled, and how far
        self._at = 0
        self._end = 0

    def __repr__(self) -> str:
        kind = "pinned" if self.is_pinned else "pageable"
        return f"<Staging {len(self._blocks)} {kind} blocks, {sum(block.size for block in self._blocks)} bytes>"

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was taken since `clear`."""
        return self._at == self._end == 0

    def take(self, byte_size: int) -> Octets:
        """`byte_size` bytes of undefined content, the caller's until `clear`."""
        while self._at < len(self._blocks):
            block = self._blocks[self._at]
            begin = self._end
            if begin + byte_size <= block.size:
                self._end = aligned(begin + byte_size)
                return block[begin : begin + byte_size]
            self._at += 1
            self._end = 0
        block = self._more(byte_size)
        self._end = aligned(byte_size)
        return block[:byte_size]

    def clear(self) -> None:
        """Everything that was taken is free again: its batch has ended."""
        self._at = self._end = 0

    def close(self) -> None:
        """Gives the memory back; nothing may be in flight. Idempotent."""
        self._blocks.clear()
        self.clear()
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()

    def check_invariants(self) -> None:
        """Raises AssertionError when more is taken than there is."""
        assert self._at <= len(self._blocks), repr(self)
        assert len(self._buffers) == len(self._blocks) or not self.is_pinned, repr(self)

    def _more(self, byte_size: int) -> Octets:
        last = self._blocks[-1].size if self._blocks else FIRST_BLOCK_BYTES // 2
        capacity = max(min(2 * last, LARGEST_STEP_BYTES), byte_size)
        block = self._pinned(capacity) if self.is_pinned else None
        if block is None:
            block = np.empty(capacity, np.uint8)
        self._blocks.append(block)
        return block

    def _pinned(self, capacity: int) -> Octets | None:
        """None where the machine has no more memory that can be pinned; from then on it is not asked again."""
        try:
            buffer = PinnedBuffer(capacity)
        except CudaError as error:
            if error.is_sticky:
                raise
            sys.stderr.write(
                f"warning: {capacity} bytes of host memory are not pinned, and so copied slower: {error.message}\n"
            )
            self.is_pinned = False
            return None
        self._buffers.append(buffer)
        return buffer.array
