# SPDX-License-Identifier: Apache-2.0
"""One lane of a worker on a device: its streams, its slots, and the executions that are in flight in it.

An execution is copied in, computed and copied out by the device, in this order; the host only puts all of it into streams:

    copy-in stream    [in 2]         |[in 3]
    execution stream  [in 1][model 1]|[model 2]      |[model 3]
    copy-out stream                  |[out 1]        |[out 2]     where outputs have a stream of their own

The inputs of an execution that finds the lane idle go into the execution stream, which needs no event between streams: that is
the shortest way for one. Those of one that comes behind another are copied while that computes. Executions of a lane end in the
order in which they were begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ...ipc.cuda import CudaError
from ..backends.on_device import DeviceBackend, DeviceTensor, Lane
from ..devices.cuda import Copy, Device, Event, Stream, copy_all
from .flights import Execution
from .memory import Room, SlotMemory, Staging
from .planning import Plan

SLOTS = 2
"""Executions in flight per lane: while one is computed, the next is copied in (trtexec too keeps one ahead)."""

OUTPUT_STREAM_BYTES = 1 << 20
"""From so many bytes of outputs on they get a stream of their own, unless the configuration says: about 20 us on PCIe 5, which
the next execution need not wait for. Below that the event between the streams costs as much."""


class Overlap(NamedTuple):
    """Which copies have streams of their own. `outputs` None: those of OUTPUT_STREAM_BYTES and more."""

    inputs: bool = True
    outputs: bool | None = None


class CopyRefusedError(Exception):
    """CUDA takes none or not all of the copies of an execution, and `cause` says why: some request's memory is not there."""

    def __init__(self, cause: CudaError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Marks:
    """The events of a slot; which of them an execution uses depends on its streams.

    Only the last two are ever waited for. An event that a thread may sleep for costs an interrupt each time.
    """

    __slots__ = ("begun", "computed", "copied_in", "copying_out", "ended", "starting")

    def __init__(self) -> None:
        self.begun = Event(timed=True)
        self.copied_in = Event(timed=True)
        self.starting = Event(timed=True)
        self.copying_out = Event(timed=True)
        self.computed = Event(timed=True, blocking=True)
        self.ended = Event(timed=True, blocking=True)

    def __repr__(self) -> str:
        return f"<Marks, ended {self.ended!r}>"

    def close(self) -> None:
        """Gives the events back. Idempotent."""
        for event in (self.begun, self.copied_in, self.starting, self.copying_out, self.computed, self.ended):
            event.close()


class DeviceSlot:
    """What one execution needs for itself, from when it is planned until it has ended."""

    __slots__ = ("inward", "marks", "memory", "outward")

    def __init__(self, memory: SlotMemory, inward: Staging, outward: Staging) -> None:
        self.memory = memory
        #: host memory for inputs, and for outputs, that the device does not reach where they are
        self.inward = inward
        self.outward = outward
        self.marks = Marks()

    def __repr__(self) -> str:
        return f"<DeviceSlot {self.memory!r}, {self.inward!r}, {self.outward!r}>"

    def close(self) -> None:
        """Gives everything back; nothing may be in flight. Idempotent."""
        for part in (self.memory, self.inward, self.outward, self.marks):
            part.close()


class DeviceLane:
    """The streams, the slots, and what is in flight."""

    def __init__(
        self, device: Device, index: int, rooms: tuple[Sequence[Room], Sequence[Room]], overlap: Overlap,
        pinned: tuple[bool, bool], priority: int = 0, slots: int = SLOTS,
    ) -> None:  # fmt: skip
        #: what is given back in the end, the last first
        self._held = ExitStack()
        #: what it is made of
        self.slots: list[DeviceSlot] = []
        output_bytes = sum(room.byte_size or 0 for room in rooms[1])
        separate = output_bytes >= OUTPUT_STREAM_BYTES if overlap.outputs is None else overlap.outputs
        with ExitStack() as given_back:  # where the GPU has no memory for all of it
            given_back.callback(self._held.close)
            self.lane = Lane(index, self._held.enter_context(Stream(device, priority)))
            self._copy_in = self._held.enter_context(Stream(device, priority)) if overlap.inputs else self.lane.stream
            self._copy_out = self._held.enter_context(Stream(device, priority)) if separate else self.lane.stream
            for number in range(slots):
                memory = SlotMemory(self.lane, number, *rooms)
                self.slots.append(DeviceSlot(memory, Staging(pinned[0]), Staging(pinned[1])))
                self._held.callback(self.slots[-1].close)
            given_back.pop_all()
        #: slots that no execution has; used in turn
        self.free = deque(self.slots)
        #: executions that the device has not ended, in the order in which they were begun, and so in which they end
        self.running: deque[Execution] = deque()

    def __repr__(self) -> str:
        return f"<DeviceLane {self.lane.index}, {len(self.running)} running, {len(self.free)} of {len(self.slots)} slots free>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a slot is lost, or is somebody's twice."""
        held = [execution.slot for execution in self.running]
        assert len({*map(id, held), *map(id, self.free)}) == len(held) + len(self.free) <= len(self.slots), repr(self)
        for slot in self.slots:
            slot.memory.check_invariants()
            slot.inward.check_invariants()
            slot.outward.check_invariants()

    # --- into the streams ------------------------------------------------------------------------------------------------

    def begin(self, execution: Execution, plan: Plan, backend: DeviceBackend) -> Sequence[DeviceTensor | None]:
        """Puts copies in and the computation into the streams; what the backend says of the results.

        Whatever it raises: the execution runs from now on, and `deliver` or `give_up` has to follow.
        """
        execution.plan = plan
        is_behind = bool(self.running)
        self.running.append(execution)
        marks, stream = execution.slot.marks, self.lane.stream
        if not plan.inward:
            marks.copied_in.record(stream)
        elif is_behind and self._copy_in is not stream:
            marks.begun.record(self._copy_in)
            _put(plan.inward, self._copy_in, execution.slot.inward)
            marks.copied_in.record(self._copy_in)
            stream.wait(marks.copied_in)
            marks.starting.record(stream)
            execution.starting = marks.starting
        else:
            marks.begun.record(stream)
            _put(plan.inward, stream, execution.slot.inward)
            marks.copied_in.record(stream)
        results = backend.enqueue(plan.work)
        marks.computed.record(stream)
        return results

    def deliver(self, execution: Execution, outward: Sequence[Copy]) -> None:
        """Puts copies out into the streams."""
        if not outward:
            return
        marks, stream = execution.slot.marks, self._copy_out
        if stream is not self.lane.stream:
            stream.wait(marks.computed)
            marks.copying_out.record(stream)
            execution.output_from = marks.copying_out
        execution.last = marks.ended
        _put(outward, stream, execution.slot.outward)
        marks.ended.record(stream)

    def give_up(self, execution: Execution, error: BaseException) -> None:
        """An execution failed on its way into the streams: what got there must still pass before its memory is free."""
        execution.error = error
        marks, stream = execution.slot.marks, self.lane.stream
        for other in (self._copy_in, self._copy_out):
            if other is not stream:
                marks.copied_in.record(other)
                stream.wait(marks.copied_in)
        marks.ended.record(stream)
        execution.last = marks.ended

    # --- out of them -----------------------------------------------------------------------------------------------------

    def take_back(self, execution: Execution) -> None:
        """The slot of an execution that is not in flight, or not any more, is free."""
        slot = execution.slot
        slot.inward.clear()
        slot.outward.clear()
        self.free.append(slot)

    def synchronize(self) -> None:
        """Waits until the streams are empty."""
        for stream in (self._copy_in, self.lane.stream, self._copy_out):
            stream.synchronize()

    def close(self) -> None:
        """Gives the memory and the streams back; nothing may be in flight. Idempotent."""
        self._held.close()


def _put(copies: Sequence[Copy], stream: Stream, staging: Staging) -> None:
    """Where staging is pageable, so are regions that nobody pinned, which are copied without it."""
    try:
        copy_all(copies, stream, is_pinned=staging.is_pinned)
    except CudaError as error:
        if error.is_sticky:
            raise
        raise CopyRefusedError(error) from error
