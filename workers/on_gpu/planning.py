# SPDX-License-Identifier: Apache-2.0
"""From placed requests to work on a device: what is bound where it lies, what is copied from where, what is staged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...ipc.errors import PenstockError
from ...ipc.messages import Copied, ModelSpec
from ...ipc.tensors import FLOATING, ITEM_BYTES, byte_size, elements
from ..account import Account
from ..backends.on_device import ALIGNMENT, DeviceBackend, DeviceTensor, DeviceWork
from ..devices.cuda import Copy
from ..inputs import Job, spans_of
from ..packing import Run, Span, is_one_run, merge
from ..placements import PlacementCache
from ..ragged import Shape
from ..region_table import MappedRegion, Region, RegionTable

if TYPE_CHECKING:
    from .lanes import DeviceSlot

BIND_BYTES = 8 << 20
"""A CUDA graph computes on its own memory. From this size on a copy on the device costs more than the graph saves."""


class Plan(NamedTuple):
    """One execution: what is copied before it and the work. `copied`: what that comes to, by the kind of copy."""

    inward: list[Copy]
    work: DeviceWork
    copied: list[Copied]


class Way(NamedTuple):
    """How a GPU reaches a region."""

    address: int
    #: straight, by copies of these kinds; else through staging
    reads: bool
    writes: bool
    inward: str
    outward: str
    #: pinned in more than one piece, so that a copy may have to be made in pieces too
    is_divided: bool


class Reach:
    """The ways to regions. Says once in a worker that it takes the longer one, and why."""

    def __init__(self, spec: ModelSpec, regions: RegionTable) -> None:
        self._regions = regions
        self._pinned_inputs = spec.optimization.pinned_inputs
        self._pinned_outputs = spec.optimization.pinned_outputs
        self._has_warned = False
        #: region -> its way, for regions that were used
        self.known: dict[int, Way] = {}

    def __repr__(self) -> str:
        return f"<Reach of {self._regions!r}, {len(self.known)} ways known{', has warned' if self._has_warned else ''}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a way leads to a region that is gone."""
        assert all(number in self._regions for number in self.known), repr(self)

    def way(self, number: int) -> Way:
        """The way to a mapped region."""
        way = self.known.get(number)
        if way is None:
            region = self._regions[number]
            on_device = region.space == "device"
            straight = on_device or region.space == "pinned"
            pageable = region.space == "host"
            way = self.known[number] = Way(
                region.address,
                straight or (pageable and not self._pinned_inputs),
                straight or (pageable and not self._pinned_outputs),
                "d2d" if on_device else "h2d",
                "d2d" if on_device else "d2h",
                isinstance(region, MappedRegion) and region.registration is not None and region.registration.is_divided,
            )
        return way

    def forget(self, number: int) -> None:
        """A region goes."""
        self.known.pop(number, None)

    def copies(self, number: int, copy: Copy) -> Sequence[Copy]:
        """A copy from or to a region that is pinned in pieces, in pieces that CUDA takes."""
        region = self._regions[number]
        assert isinstance(region, MappedRegion) and region.registration is not None, "no other is"
        return region.registration.divided([copy])

    def stages(self, number: int) -> Region:
        """The region, of which bytes go through staging."""
        region = self._regions[number]
        if region.unpinned and not self._has_warned:  # that of one request alone is not meant to be
            self._has_warned = True
            sys.stderr.write(
                f"warning: region {number}, and perhaps others, goes through memory of this worker, which costs one more copy "
                f"of each tensor, by the CPU: {region.unpinned}\n"
            )
        return region


class Planner:
    """Makes the plan of an execution for a slot."""

    def __init__(
        self, spec: ModelSpec, backend: DeviceBackend, regions: RegionTable, placements: PlacementCache, reach: Reach
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._regions = regions
        self._shapes = placements.shapes
        #: per input: the model may read it where the client has it, whatever the client does with it meanwhile
        self._may_bind = [tensor.datatype in FLOATING or not backend.needs_snapshots for tensor in spec.inputs]
        self._reach = reach

    def __repr__(self) -> str:
        return f"<Planner of '{self._spec.name}' with {self._reach!r}>"

    def plan(self, jobs: Sequence[Job], slot: DeviceSlot) -> Plan:
        """The plan of an execution of these jobs, in their order. A job that cannot be read gets its error, and is zeros.

        Raises PenstockError where the device has no memory for it.
        """
        inward: list[Copy] = []
        account = Account()
        rows_of = [job.prepared.rows for job in jobs]
        rows = sum(rows_of)
        inputs = [self._input(index, jobs, rows, slot, inward, account) for index in range(len(self._spec.inputs))]
        if self._spec.batch_inputs:
            inputs += self._computed(jobs, slot, inward, account)
        sets = {job.prepared.wanted for job in jobs}
        wanted = sets.pop() if len(sets) == 1 else tuple(sorted(set().union(*sets)))
        places = [self._place(output, jobs, rows, inputs, slot) for output in wanted]
        return Plan(inward, DeviceWork(rows_of, inputs, wanted, places, slot.memory.slot), account.copies())

    # --- inputs ----------------------------------------------------------------------------------------------------------

    def _input(
        self, index: int, jobs: Sequence[Job], rows: int, slot: DeviceSlot, inward: list[Copy], account: Account
    ) -> DeviceTensor | None:
        tensor = self._spec.inputs[index]
        shape = jobs[0].prepared.shapes[index]
        if shape is None:
            return None  # left out, by all of them
        if tensor.ragged:
            shape = (sum(elements(each) for job in jobs if (each := job.prepared.shapes[index]) is not None),)
        elif len(jobs) > 1:
            shape = (rows, *shape[1:])
        runs = merge(spans_of(index, jobs), self._regions.isolated)
        total = ITEM_BYTES[tensor.datatype] * elements(shape)
        if len(runs) == 1 and self._may_bind[index]:
            bound = self._bound(runs[0].region, runs[0].offset, total, rows)
            if bound:
                return DeviceTensor(bound, tensor.datatype, shape, total)
        address = slot.memory.input(index, total)
        self._read(runs, address, jobs, slot, inward, account)
        return DeviceTensor(address, tensor.datatype, shape, total)

    def _bound(self, number: int, offset: int, total: int, rows: int) -> int:
        """The address of a dense tensor in a region, where the model can compute on it there; else 0."""
        region = self._regions[number]
        address = region.address + offset
        fits = region.space == "device" and address % ALIGNMENT == 0
        return address if fits and (total >= BIND_BYTES or not self._backend.replays(rows)) else 0

    def _read(
        self, runs: Sequence[Run], to: int, jobs: Sequence[Job], slot: DeviceSlot, inward: list[Copy], account: Account
    ) -> None:
        """Adds the copies of an input's runs, to where they begin in memory at `to`."""
        for number, offset, size, start, first, _ in runs:
            if not size:
                continue
            way = self._reach.known.get(number) or self._reach.way(number)
            account.copied(way.inward, 1, size)
            if way.reads:
                copy = Copy(to + start, way.address + offset, size)
                inward += self._reach.copies(number, copy) if way.is_divided else (copy,)
                continue
            content = slot.inward.take(size)
            try:
                self._reach.stages(number).read(offset, content)
            except PenstockError as error:
                jobs[first].error = error
                content[...] = 0
            account.copied("gather", 1, size)
            inward.append(Copy(to + start, content.ctypes.data, size))

    def _computed(self, jobs: Sequence[Job], slot: DeviceSlot, inward: list[Copy], account: Account) -> list[DeviceTensor]:
        """The batch inputs: computed here, and staged."""
        found: list[DeviceTensor] = []
        values = self._shapes.computed([job.prepared.shapes for job in jobs])
        first = len(self._spec.inputs)
        for at, (tensor, value) in enumerate(zip(self._shapes.model_inputs[first:], values, strict=True), first):
            address = slot.memory.input(at, value.nbytes)
            if value.nbytes:
                content = slot.inward.take(value.nbytes)
                content[...] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
                inward.append(Copy(address, content.ctypes.data, value.nbytes))
                account.copied("h2d", 1, value.nbytes)
            found.append(DeviceTensor(address, tensor.datatype, value.shape, value.nbytes))
        return found

    # --- outputs ---------------------------------------------------------------------------------------------------------

    def _place(
        self, output: int, jobs: Sequence[Job], rows: int, inputs: Sequence[DeviceTensor | None], slot: DeviceSlot
    ) -> DeviceTensor | None:
        datatype = self._spec.outputs[output].datatype
        shape: Shape = self._shapes.produced(output, rows, inputs)
        total = byte_size(datatype, shape)
        if total is None:
            return None
        address = self._own(output, jobs, total, rows) or slot.memory.output(output, total)
        return DeviceTensor(address, datatype, shape, total)

    def _own(self, output: int, jobs: Sequence[Job], total: int, rows: int) -> int:
        """The address of the requests' own places, where the model can write to them; else 0."""
        spans: list[Span] = []
        for job in jobs:
            target = job.prepared.targets.get(output)
            if target is None or target.span is None or target.needed is None:
                return 0
            spans.append(target.span)
        return self._bound(spans[0].region, spans[0].offset, total, rows) if is_one_run(spans, self._regions.isolated) else 0
