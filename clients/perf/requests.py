# SPDX-License-Identifier: Apache-2.0
"""The requests that are sent over and over: slots with inputs in them, in the memory that was asked for.

A slot of the client's pool is what a program would use, and is used wherever it has that kind of memory: memfd on the local
link, system over ZeroMQ, cuda over both. For the other, and for strings (no pooled slot is cut for those), a region is made and
registered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal

from ...ipc.errors import BrokerError
from ..client import Client
from ..models import Array, ModelInfo, layout_of_arrays
from ..models import Memory as SlotMemory
from ..regions import Region, make_region
from ..slots import InlineSlot, Slot
from .inputs import prepared_inputs
from .plan import Memory, Plan, Point
from .region_slots import RegionLayout, encoded


class PreparedRequests:
    """The slots of one point, each with its inputs. A context manager: they are given back in the end."""

    def __init__(self, client: Client, model: ModelInfo, plan: Plan, point: Point) -> None:
        self._client = client
        self._model = model
        self._plan = plan
        self._point = point
        self._held = ExitStack()
        self._registered = ""  # the region that was made, if any
        #: slot -> what its inputs are
        self.inputs: dict[Slot, Mapping[str, Array]] = {}

    def __repr__(self) -> str:
        return f"<PreparedRequests {len(self.inputs)} for {self._point} of '{self._model.name}' in {self._plan.memory}>"

    def check_invariants(self) -> None:
        """Enough for what a closed loop has in flight, once they are there; those of the slots."""
        assert not self.inputs or self._point.request_rate or len(self.inputs) >= self._point.concurrency, self
        for slot in self.inputs:
            slot.check_invariants()

    def __enter__(self) -> PreparedRequests:
        try:
            arrays = prepared_inputs(self._model, self._plan, self._point)
            self.inputs = dict(zip(self._slots(arrays), arrays, strict=True))
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.inputs.clear()
        with self._held:
            if self._registered and not (kind and issubclass(kind, BrokerError)):  # else the session has ended, and all with it
                self._client.unregister(self._registered)

    def _slots(self, arrays: Sequence[Mapping[str, Array]]) -> Sequence[Slot]:
        pooled: Memory = "memfd" if self._client.address.kind == "local" else "system"
        if self._plan.memory == "none":
            return [self._inline(inputs) for inputs in arrays]
        has_strings = any(spec.datatype == "BYTES" for spec in self._model.inputs)
        if self._plan.memory == "cuda" or (self._plan.memory == pooled and not has_strings):
            return [self._pooled(inputs) for inputs in arrays]
        layout = RegionLayout(self._model, self._point.batch, arrays)
        return layout.fill(self._region(layout.byte_size))

    def _pooled(self, inputs: Mapping[str, Array]) -> Slot:
        batch = self._point.batch if self._model.max_batch_size else None
        shapes = {name: array.shape[1 if batch else 0 :] for name, array in inputs.items()}
        memory: SlotMemory = "cuda" if self._plan.memory == "cuda" else "shared"
        slot = self._held.enter_context(self._client.buffers(self._model, batch, shapes=shapes, memory=memory))
        for name, array in inputs.items():
            slot.inputs[name][...] = array
        return slot

    def _inline(self, inputs: Mapping[str, Array]) -> Slot:
        contents = {name: encoded(array) if array.dtype.kind == "O" else array for name, array in inputs.items()}
        shapes = {name: array.shape for name, array in inputs.items()}
        return InlineSlot(layout_of_arrays(self._model, contents, shapes, None), contents, {})

    def _region(self, byte_size: int) -> Region:
        kind: Literal["memfd", "system"] = "memfd" if self._plan.memory == "memfd" else "system"
        region = make_region(kind, f"perf-{os.urandom(6).hex()}", max(byte_size, 1))
        self._held.callback(region.close)
        self._client.register(region)
        self._registered = region.name
        region.unlink()  # the broker has it open: should this process be killed, no name is left behind
        return region
