# SPDX-License-Identifier: Apache-2.0
"""Requests whose tensors lie in one region, for memory and datatypes that the client's pool has no slots for.

As in the pool, a tensor of one request follows the same tensor of the request before, so that a worker copies those that are
batched together as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ipc.tensors import byte_size, serialize_bytes
from ..extents import aligned
from ..models import Array, ModelInfo, TensorInfo
from ..regions import Placed, Region
from ..slots import PlacedRequest


class RegionLayout:
    """Where the tensors of `inputs`, a map for each request, and of their results lie."""

    def __init__(self, model: ModelInfo, batch: int, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._model = model
        self._inputs = inputs
        self._contents = [{name: _content(array) for name, array in arrays.items()} for arrays in inputs]
        self._rows = (batch,) if model.max_batch_size else ()
        #: tensor -> where its area begins, and what each request has of it
        self._areas: dict[TensorInfo, tuple[int, int]] = {}
        self.byte_size = 0
        for spec in model.inputs:
            self._add(spec, max(len(content[spec.name]) for content in self._contents))
        for spec in model.outputs:
            size = byte_size(spec.datatype, self._rows + spec.dims)
            if size is not None:  # else the broker finds a place for it
                self._add(spec, size)

    def __repr__(self) -> str:
        return f"<RegionLayout of {len(self._inputs)} requests for '{self._model.name}', {self.byte_size} bytes>"

    def check_invariants(self) -> None:
        """Areas follow one another."""
        ends = [begin + aligned(size) * len(self._inputs) for begin, size in self._areas.values()]
        assert [begin for begin, _ in self._areas.values()] + [self.byte_size] == [0, *ends], self

    def fill(self, region: Region) -> list[PlacedRequest]:
        """Writes the inputs into a region of at least `byte_size`; the requests, in order."""
        return [PlacedRequest(self._model.name, self._model.asked_version, *places) for places in self.place(region)]

    def place(self, region: Region) -> list[tuple[dict[str, Placed], dict[str, Placed | None]]]:
        """The same, but only where the inputs of each request lie, and where its outputs are to (None: no place is known)."""
        return [self._places(region, number) for number in range(len(self._inputs))]

    def _add(self, spec: TensorInfo, size: int) -> None:
        self._areas[spec] = self.byte_size, size
        self.byte_size += aligned(size) * len(self._inputs)

    def _places(self, region: Region, number: int) -> tuple[dict[str, Placed], dict[str, Placed | None]]:
        inputs, outputs = {}, {}
        for spec in self._model.inputs:
            content = self._contents[number][spec.name]
            offset = self._offset(spec, number)
            region.memory[offset : offset + len(content)] = content
            shape = self._inputs[number][spec.name].shape
            inputs[spec.name] = Placed(region, spec.datatype, shape, offset, len(content))
        for spec in self._model.outputs:
            outputs[spec.name] = self._place(region, spec, number) if spec in self._areas else None
        return inputs, outputs

    def _place(self, region: Region, spec: TensorInfo, number: int) -> Placed:
        return Placed(region, spec.datatype, self._rows + spec.dims, self._offset(spec, number), self._areas[spec][1])

    def _offset(self, spec: TensorInfo, number: int) -> int:
        begin, size = self._areas[spec]
        return begin + number * aligned(size)


def _content(array: Array) -> Array:
    """The bytes that `encoded` has. Those of numbers are the array's own: a closed loop may have gigabytes of them."""
    if array.dtype.kind == "O":
        return np.frombuffer(encoded(array), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def encoded(array: Array) -> bytes:
    """The array as it lies in memory; strings as BYTES elements."""
    return serialize_bytes(array.ravel().tolist()) if array.dtype.kind == "O" else array.tobytes()
