# SPDX-License-Identifier: Apache-2.0
"""Slots in shared memory, and the pool that leases them.

What is made for a slot (the arrays, the encoded places of its tensors) stays with its memory: the next request of the same
layout finds it there, and costs one small message.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Raw

from ..ipc.codec import encode
from ..ipc.messages import Infer, InputTensor, OutputPlace
from ..ipc.tensors import numpy_dtype
from .arena import Arena, Placement, Sizes
from .asking import Asked
from .models import Array, Layout, TensorLayout
from .pending import Entry
from .regions import Region
from .results import InferResult, Outputs, outputs_of
from .slots import Slot, Tensors, copy_into, unplaced

DEVICE_ALIGNMENT = 256
"""What tensors on a GPU begin at a multiple of, so that a model can take them where they are (TensorRT: setTensorAddress)."""


class Prepared:
    """What a layout looks like at one placement."""

    __slots__ = ("inputs", "inputs_raw", "layout", "memory", "outputs", "outputs_raw", "reply", "reply_raw")

    def __init__(self, layout: Layout, placement: Placement) -> None:
        region = placement.region
        self.layout = layout
        self.memory: Mapping[str, Array] = {region.name: region.memory}
        offsets = iter(placement.offsets)
        places = [(spec, next(offsets) if spec.byte_size >= 0 else -1) for spec in layout.inputs + layout.outputs]
        inputs, outputs = places[: len(layout.inputs)], places[len(layout.inputs) :]
        self.inputs = Tensors((spec.name, _view(region.memory, spec, offset)) for spec, offset in inputs)
        self.outputs = Tensors((spec.name, _view(region.memory, spec, offset)) for spec, offset in outputs if offset >= 0)
        self.inputs_raw = Raw(
            encode([InputTensor(s.name, s.datatype, list(s.shape), region.name, offset, s.byte_size) for s, offset in inputs])
        )
        self.outputs_raw = Raw(
            encode([OutputPlace(s.name, region.name, at, s.byte_size) if at >= 0 else unplaced(s) for s, at in outputs])
        )
        #: the last reply's outputs as they came and as arrays: the next reply is most often the same to the byte
        self.reply_raw = b""
        self.reply: Outputs = {}

    def outputs_for(self, encoded: bytes, brought: Any) -> Outputs:
        """The arrays that a reply names."""
        if encoded == self.reply_raw:
            return self.reply
        outputs = outputs_of(encoded, self.memory, brought)
        if brought is None:
            self.reply_raw, self.reply = encoded, outputs
        return outputs


class SharedSlot(Slot):
    """A slot in a pooled region: what is written into it is what the model reads.

    When the broker was restarted under a slot whose memory cannot be used any more (a POSIX segment without a name cannot be
    registered again; a worker may still write into what a lost request left), requests go through a substitute: inputs are
    copied into it and outputs back, and the arrays that a program holds go on working.
    """

    def __init__(self, pool: SlotPool, placement: Placement, prepared: Prepared) -> None:
        layout = prepared.layout
        super().__init__(layout.model, layout.version, prepared.inputs, prepared.outputs)
        self._pool = pool
        self.placement = placement
        self.prepared = prepared
        self._substitute: SharedSlot | None = None

    @property
    def current(self) -> SharedSlot:
        """The slot that requests go through: this one, or its substitute."""
        return self if self._substitute is None else self._substitute

    @property
    def lacks_substitute(self) -> bool:
        """Whether the next request needs another slot of this layout."""
        return not self.current.placement.is_usable

    def begin(self) -> None:
        """Takes the memory for a request, or that of the substitute."""
        super().begin()
        if self._substitute is not None or not self.placement.is_usable:
            try:
                self._refresh_substitute()
            except BaseException:
                self.release()
                raise

    def _refresh_substitute(self) -> None:
        if self._substitute is not None and (self.placement.is_usable or not self._substitute.placement.is_usable):
            self._substitute.close()
            self._substitute = None
        if self._substitute is None and not self.placement.is_usable:
            self._substitute = self._pool.lease(self.prepared.layout)
        if self._substitute is not None:
            for name, array in self.inputs.items():
                self._substitute.inputs[name][...] = array

    def infer(self, number: int, asked: Asked) -> tuple[Infer, Sequence[bytes]]:
        """Names the slot's places."""
        prepared = self.current.prepared
        return self._message(number, asked, prepared.inputs_raw, prepared.outputs_raw), ()

    def build_result(self, entry: Entry) -> InferResult:
        """Views on the slot."""
        message = entry.message
        outputs = self.current.prepared.outputs_for(bytes(message.outputs), entry.brought)
        if self._substitute is not None:
            outputs = copy_into(self.outputs, outputs)
        return InferResult(outputs, message.version, message.explain)

    def lose(self) -> None:
        """The memory is suspect: it is used again only when the workers are known to be dead."""
        self.current.placement.lose()
        super().lose()

    def _give_back(self) -> None:
        if self._substitute is not None:
            self._substitute.close()
        self._pool.give_back(self.placement)


class SingleUse:
    """The lease of a request that copied its inputs into a slot: the slot goes back when its results are garbage."""

    def __init__(self, slot: SharedSlot) -> None:
        self._slot = slot
        self._owner = _Owner(slot.prepared.memory)
        weakref.finalize(self._owner, slot.close).atexit = False
        self.begin = slot.begin
        self.infer = slot.infer
        self.release = slot.release
        self.lose = slot.lose

    def build_result(self, entry: Entry) -> InferResult:
        """Arrays that keep the slot leased for as long as one of them is held."""
        message = entry.message
        if self._slot.current is not self._slot:  # the broker changed just before the request was sent
            copies = {name: _private(array) for name, array in self._slot.build_result(entry).outputs.items()}
            return InferResult(copies, message.version, message.explain)
        outputs = outputs_of(bytes(message.outputs), self._owner.kept(), entry.brought)
        return InferResult(outputs, message.version, message.explain)


class _Owner:
    """What is kept alive by every view on a single-use slot: as numpy's base, or by the array on a GPU."""

    def __init__(self, memory: Mapping[str, Any]) -> None:
        ((self._name, self._array),) = memory.items()

    def kept(self) -> Mapping[str, Any]:
        """The memory, as arrays that keep this."""
        array = self._array
        return {self._name: np.asarray(self) if isinstance(array, np.ndarray) else array.kept_by(self)}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self._array.__array_interface__)


class SlotPool:
    """Leases slots. Thread-safe; giving back takes no lock, since garbage collection does it in any thread at any time."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._lock = threading.Lock()
        #: placements given back that the arena has not been told of
        self._returned: deque[Placement] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SlotPool {self._arena!r}, {len(self._returned)} returned>"

    def check_invariants(self) -> None:
        """Those of the arena."""
        with self._lock:
            self._take_back()
            self._arena.check_invariants()

    def lease(self, layout: Layout) -> SharedSlot:
        """A slot for requests of this layout. Raises MachineError when memory is refused, and what registering it raises."""
        with self._lock:
            self._take_back()
            placement = self._arena.take(_sizes(layout))
        prepared = placement.prepared
        if prepared is None or prepared.layout != layout:
            prepared = placement.prepared = Prepared(layout, placement)
        return SharedSlot(self, placement, prepared)

    def lacks(self, layout: Layout) -> int:
        """How large a region must be added before `lease` can do without asking for one; 0: none."""
        with self._lock:
            self._take_back()
            return self._arena.lacks(_sizes(layout))

    def add(self, region: Region, epoch: int) -> None:
        """A region that was registered with the broker of that epoch."""
        with self._lock:
            self._arena.add(region, epoch)

    def give_back(self, placement: Placement) -> None:
        """The slot is closed and its memory released."""
        self._returned.append(placement)
        if self._closed:  # nobody takes it back any more; asked after it was put there: `close` sees it, or this does
            self._returned.clear()

    def close(self) -> None:
        """Forgets all memory. Idempotent."""
        self._closed = True
        with self._lock:
            self._take_back()
            self._arena.close()

    def _take_back(self) -> None:
        while self._returned:
            self._arena.give(self._returned.popleft())


def _private(array: Any) -> Array:
    """A copy, in the CPU's memory."""
    return array.copy() if isinstance(array, np.ndarray) else array.read()


def _sizes(layout: Layout) -> Sizes:
    placed = [spec for spec in layout.inputs + layout.outputs if spec.byte_size >= 0]
    if layout.device is None:
        return tuple(map(_capacity, placed))
    return tuple(-(-spec.byte_size // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT for spec in placed)


def _capacity(spec: TensorLayout) -> int:
    """BYTES content differs from request to request: rounded up, so that slots are found again."""
    return 1 << max(spec.byte_size - 1, 63).bit_length() if spec.datatype == "BYTES" else spec.byte_size


def _view(memory: Array, spec: TensorLayout, offset: int) -> Array:
    content = memory[offset : offset + spec.byte_size]
    return content if spec.datatype == "BYTES" else content.view(numpy_dtype(spec.datatype)).reshape(spec.shape)
