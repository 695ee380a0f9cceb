# SPDX-License-Identifier: Apache-2.0
"""Placements, decoded and checked once, and remembered by their encoded bytes.

A client that reuses a slot sends the same bytes again: its request then finds its views ready, and costs one look-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..ipc.errors import BrokerError, Code, PenstockError, invalid
from ..ipc.messages import InputSlice, ModelSpec, OutputSlice, Placement, TensorSpec
from ..ipc.tensors import FLOATING, byte_size, elements, numpy_dtype
from .backends.base import Tensor, Work
from .devices.host import view
from .packing import Span
from .ragged import Shape
from .region_table import RegionTable
from .shapes import Shapes

if TYPE_CHECKING:
    from .on_gpu.lanes import DeviceSlot
    from .on_gpu.outputs import Delivery
    from .on_gpu.planning import Plan

KEPT = 4096
"""Placements remembered: what 64 clients with 64 slots each use."""


class Target(NamedTuple):
    """An output that one request wants: where (None: unplaced), how much fits, how much comes (None: not known before).

    `shape` is what the request gets, with -1 where that is not known before. With `classes` it gets, unplaced, the best that
    many classes of the output instead of that.
    """

    span: Span | None
    capacity: int
    needed: int | None
    shape: Shape
    classes: int = 0


class Prepared:
    """One placement, ready for execution."""

    __slots__ = ("is_complete", "plans", "regions", "row_shapes", "rows", "shapes", "spans", "targets", "wanted", "work")

    def __init__(
        self, rows: int, shapes: list[Shape | None], spans: list[Span | None], row_shapes: list[Shape | None],
        targets: dict[int, Target], is_complete: bool,
    ) -> None:  # fmt: skip
        self.rows = rows
        #: full shapes, as the model sees them, and places of the inputs; None where one was left out
        self.shapes = shapes
        self.spans = spans
        #: the shapes without their first dimension (of ragged inputs: without any); those of one batch must be equal
        self.row_shapes = row_shapes
        #: the wanted outputs, by their position in the spec, in the order in which they were asked for
        self.targets = targets
        self.wanted = tuple(sorted(targets))
        #: the broker knows beforehand what the outputs will be
        self.is_complete = is_complete
        #: execution straight on the request's own memory; None where something must be copied first or after
        self.work: Work | None = None
        #: the same on a device: slot -> what is to be copied and computed; empty where that cannot be known beforehand
        self.plans: dict[DeviceSlot, tuple[Plan, Delivery]] = {}
        #: every region it lies in
        self.regions = {span.region for span in spans if span is not None} | {
            target.span.region for target in targets.values() if target.span is not None
        }


class PlacementCache:
    """Encoded placement -> Prepared. Forgets the oldest beyond KEPT, and what lies in a region that goes."""

    def __init__(self, spec: ModelSpec, regions: RegionTable, needs_snapshots: bool, has_views: bool = True) -> None:
        self._spec = spec
        #: False: the model computes on a device, and no view on a region is of use
        self._has_views = has_views
        self.shapes = Shapes(spec)
        self._regions = regions
        self._decode = msgspec.msgpack.Decoder(Placement).decode
        #: per input: it must be private before execution, or it is BYTES and has no view
        self.copied = [
            tensor.datatype == "BYTES" or (needs_snapshots and tensor.datatype not in FLOATING) for tensor in spec.inputs
        ]
        #: what `get` would return without decoding
        self.kept: dict[bytes, Prepared] = {}
        #: region -> the keys of `kept` that lie in it, so that forgetting a region costs no search
        self._by_region: dict[int, set[bytes]] = {}

    def get(self, encoded: bytes) -> Prepared:
        """The prepared placement. Raises PenstockError: the request cannot be executed as placed."""
        prepared = self.kept.get(encoded)
        if prepared is None:
            try:
                placement = self._decode(encoded)
            except msgspec.DecodeError as error:
                raise BrokerError(f"a placement cannot be decoded: {error}", Code.INTERNAL) from None
            prepared = self._prepare(placement)
            self._keep(encoded, prepared)
        return prepared

    def forget_region(self, number: int) -> None:
        """Drops every view on a region."""
        for encoded in list(self._by_region.get(number, ())):
            self._drop(encoded)

    def clear(self) -> None:
        """Drops everything."""
        self.kept.clear()
        self._by_region.clear()

    def _keep(self, encoded: bytes, prepared: Prepared) -> None:
        if len(self.kept) >= KEPT:
            self._drop(next(iter(self.kept)))
        self.kept[encoded] = prepared
        for number in prepared.regions:
            self._by_region.setdefault(number, set()).add(encoded)

    def _drop(self, encoded: bytes) -> None:
        for number in self.kept.pop(encoded).regions:
            keys = self._by_region[number]
            keys.discard(encoded)
            if not keys:
                del self._by_region[number]

    def _prepare(self, placement: Placement) -> Prepared:
        spec = self._spec
        if len(placement.inputs) != len(spec.inputs):
            raise self._broken(f"{len(placement.inputs)} inputs were placed, it has {len(spec.inputs)}")
        shapes: list[Shape | None] = []
        spans: list[Span | None] = []
        row_shapes: list[Shape | None] = []
        for index, (tensor, piece) in enumerate(zip(spec.inputs, placement.inputs, strict=True)):
            shape = self._input_shape(index, piece, placement.rows)
            shapes.append(shape)
            spans.append(None if shape is None else self._span(piece.region, piece.offset, piece.byte_size))
            row_shapes.append(None if shape is None else () if tensor.ragged else shape[1:])
        targets = {piece.output: self._target(piece, placement.rows, shapes) for piece in placement.outputs}
        is_complete = all(target.span is not None and target.needed is not None for target in targets.values())
        prepared = Prepared(placement.rows, shapes, spans, row_shapes, targets, is_complete)
        is_copied = any(copied and span is not None for copied, span in zip(self.copied, spans, strict=True))
        if self._has_views and is_complete and not is_copied and not prepared.regions & self._regions.isolated:
            prepared.work = self._direct(prepared)
        return prepared

    def _input_shape(self, index: int, piece: InputSlice, rows: int) -> Shape | None:
        tensor = self._spec.inputs[index]
        if piece.region < 0:
            if not tensor.optional:
                raise self._broken(f"input '{tensor.name}' was left out, it is not optional")
            return None
        shape = tuple(piece.shape)
        self._check_input(tensor, shape, piece.byte_size, rows)
        return self.shapes.taken(index, shape)

    def _check_input(self, tensor: TensorSpec, shape: Shape, size: int, rows: int) -> None:
        expected = self.shapes.full(rows, tensor.dims)
        if len(shape) != len(expected) or any(want not in (-1, dim) for want, dim in zip(expected, shape, strict=True)):
            raise self._broken(f"input '{tensor.name}' was placed with shape {list(shape)}, it takes {list(expected)}")
        if byte_size(tensor.datatype, shape) not in (None, size):
            raise self._broken(f"input '{tensor.name}' of shape {list(shape)} was placed with {size} bytes")

    def _target(self, piece: OutputSlice, rows: int, inputs: list[Shape | None]) -> Target:
        if not 0 <= piece.output < len(self._spec.outputs):
            raise self._broken(f"output {piece.output} was asked for, it has {len(self._spec.outputs)}")
        tensor = self._spec.outputs[piece.output]
        shape = self.shapes.replied(piece.output, rows, inputs)
        needed = byte_size(tensor.datatype, shape)
        if piece.region < 0:
            return Target(None, 0, needed, shape, piece.classes)
        if needed is not None and needed > piece.byte_size:
            raise too_small(self._spec, piece.output, needed, piece.byte_size)
        span = self._span(piece.region, piece.offset, piece.byte_size)
        return Target(span if needed is None else span._replace(byte_size=needed), piece.byte_size, needed, shape)

    def _span(self, number: int, offset: int, size: int) -> Span:
        return Span(number, offset, self._regions.get(number, offset, size).address + offset, size)

    def _direct(self, prepared: Prepared) -> Work:
        spec, rows = self._spec, prepared.rows
        inputs: list[Tensor | None] = []
        for tensor, span, shape in zip(spec.inputs, prepared.spans, prepared.shapes, strict=True):
            if span is None or shape is None:
                inputs.append(None)
            else:
                inputs.append(self._view(span, tensor, (elements(shape),) if tensor.ragged else shape))
        inputs += self.shapes.computed([prepared.shapes])
        places: list[Tensor | None] = []
        for output, target in prepared.targets.items():
            tensor = spec.outputs[output]
            assert target.span is not None  # is_complete
            places.append(self._view(target.span, tensor, self.shapes.produced(output, rows, inputs)))
        return Work((rows,), inputs, tuple(prepared.targets), places, is_kept=True)

    def _view(self, span: Span, tensor: TensorSpec, shape: Shape) -> Tensor:
        return view(self._regions.mapped(span.region), span.offset, numpy_dtype(tensor.datatype), shape)

    def _broken(self, what: str) -> PenstockError:
        return BrokerError(f"model '{self._spec.name}': {what}", Code.INTERNAL)

    def check_invariants(self) -> None:
        """Raises AssertionError when a placement outlived its region or a bound."""
        assert len(self.kept) <= KEPT, repr(self)
        expected = {(number, encoded) for encoded, prepared in self.kept.items() for number in prepared.regions}
        assert expected == {(number, encoded) for number, keys in self._by_region.items() for encoded in keys}, repr(self)
        for number in self._by_region:
            assert number in self._regions, f"{self!r}: region {number} is gone"

    def __repr__(self) -> str:
        direct = sum(prepared.work is not None for prepared in self.kept.values())
        return f"<PlacementCache of '{self._spec.name}': {len(self.kept)} placements, {direct} executed in place>"


def too_small(spec: ModelSpec, output: int, needed: int, capacity: int) -> PenstockError:
    """The error of a request whose place for an output is too small."""
    return invalid(
        f"output '{spec.outputs[output].name}' of model '{spec.name}' needs {needed} bytes, its place has {capacity}"
    )


def misfit(first: Prepared, other: Prepared, spec: ModelSpec) -> PenstockError:
    """Why two placements of unequal row_shapes cannot share a batch."""
    at = next(at for at, shape in enumerate(other.row_shapes) if shape != first.row_shapes[at])
    shape, expected = (None if found is None else list(found) for found in (other.shapes[at], first.shapes[at]))
    return BrokerError(
        f"input '{spec.inputs[at].name}' of model '{spec.name}' has shape {shape} in a batch of shape {expected}", Code.INTERNAL
    )
