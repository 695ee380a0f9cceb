# SPDX-License-Identifier: Apache-2.0
"""Random lives of a worker on a simulated GPU: whatever comes between what, every request is answered once, and with its own.

Memory of all kinds comes and goes, batches of all kinds are in flight in one to three lanes, streams stand still and go on, and
calls of CUDA fail. A seed is one life; it is the same each time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from device_rig import POISON, DeviceMemory, DeviceRig, Kernel
from simulated.fixtures import SimulatedCuda
from worker_rig import Memory, Tensor, spec_of, unplaced

from penstock.ipc.cuda import CudaError
from penstock.ipc.messages import BatchDone, Gpu, InputSlice, MapRegion, ModelSpec, Optimization, OutputSlice, Placement
from penstock.workers.backends.identity_cuda import IdentityCuda
from penstock.workers.backends.on_device import DeviceBackend, DeviceWork
from penstock.workers.on_gpu.batches import Ended
from penstock.workers.on_gpu.lanes import Overlap

SEEDS = 32
STEPS = 100
PLACES, PLACE_BYTES = 12, 1024
"""Of each region: where a tensor may lie. Few, so that the same placements come again."""
MOST_REGIONS = 6
MILD = (
    "cudaMemcpyAsync:cudaErrorInvalidValue", "cudaMemcpyBatchAsync:cudaErrorInvalidValue", "cudaMalloc:cudaErrorMemoryAllocation",
    "cudaHostAlloc:cudaErrorMemoryAllocation", "cudaHostRegister:cudaErrorMemoryAllocation", "cudaEventElapsedTime:cudaErrorUnknown",
)  # fmt: skip
"""What costs requests, or only time."""
GRAVE = (
    "cudaEventRecord:cudaErrorUnknown", "cudaStreamWaitEvent:cudaErrorUnknown", "cudaEventQuery:cudaErrorUnknown",
    "cudaEventSynchronize:cudaErrorLaunchFailure", "cudaMemcpyAsync:cudaErrorIllegalAddress",
)  # fmt: skip
"""What may cost the worker."""


class ClientSlot(NamedTuple):
    """Where a client has an input and wants the output, if anywhere: (region, place); `is_narrow`: that is too small."""

    source: tuple[int, int]
    place: tuple[int, int] | None
    rows: int
    elements: int
    is_narrow: bool

    def places(self) -> set[tuple[int, int]]:
        return {self.source} if self.place is None else {self.source, self.place}


class Asked(NamedTuple):
    """A request in flight, and what it is to get."""

    slot: ClientSlot
    expected: Tensor


class Life:
    """A rig, the memory of its clients, and what they wait for."""

    def __init__(self, seed: int, simulated: SimulatedCuda) -> None:
        self.random = random.Random(seed)
        self.simulation = simulated.simulation
        #: whether dims are variable: outputs are as long as the model says
        self.is_variable = self.random.random() < 0.4
        self.rig = DeviceRig(
            self._spec(),
            self._backend(),
            Gpu("", lanes=self.random.randint(1, 3)),
            isolate=True,
            overlap=Overlap(self.random.random() < 0.7, self.random.random() < 0.5),
        )
        #: number -> memory, mapped in the worker, which has nothing else but the rig's own
        self.memories: dict[int, Memory | DeviceMemory] = {}
        self.numbers = 10
        #: (region, place) that no request in flight has
        self.free: set[tuple[int, int]] = set()
        self.slots: list[ClientSlot] = []
        #: batch -> its requests, for those in flight
        self.asked: dict[int, list[Asked]] = {}
        self.batches = 0
        self.held: set[Any] = set()
        #: what requests may have failed of
        self.excuses: set[str] = set()
        self.is_lost = False
        for _ in range(2):
            self.map()

    def _spec(self) -> ModelSpec:
        kind = ("FP32", [-1] if self.is_variable else [self.random.choice([2, 64])])
        if self.random.random() < 0.2:
            kind = ("INT32", kind[1])  # which is never computed on where a client can change it
        spec = spec_of("kernel", {"x": kind}, {"y": kind}, max_batch_size=12)
        is_pinned = self.random.random() < 0.8
        fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
        return ModelSpec(**{**fields, "optimization": Optimization(pinned_inputs=is_pinned, pinned_outputs=is_pinned)})

    def _backend(self) -> DeviceBackend:
        if self.is_variable:
            return IdentityCuda()
        backend = Kernel(self.simulation, lambda x: [x * 2])
        backend.has_graphs = self.random.random() < 0.5
        backend.before = self._maybe_fail
        return backend

    def _maybe_fail(self, work: DeviceWork) -> None:
        if self.random.random() < 0.03:
            self.excuses.add("the model failed")
            raise RuntimeError("the model failed")

    # --- what may happen -------------------------------------------------------------------------------------------------

    def step(self) -> None:
        steps: dict[Callable[[], None], int] = {
            self.submit: 16, self.look: 8, self.map: 2, self.unmap: 1, self.hold: 3, self.go_on: 3, self.break_call: 1,
        }  # fmt: skip
        (chosen,) = self.random.choices(list(steps), list(steps.values()))
        self.attempt(chosen)
        self.check()

    def attempt(self, something: Callable[[], None]) -> None:
        """What raises CudaError costs the worker, and with it all that is in flight."""
        try:
            something()
        except CudaError as error:
            self.excuses.add(error.cause)
            self.is_lost = True
            self.go_on()
            self.take(self.rig.runner.lose(error))

    def map(self) -> None:
        if len(self.memories) >= MOST_REGIONS:
            return
        self.numbers += 1
        number, kind = self.numbers, self.random.choice(["memfd", "system", "single", "device", "device"])
        memory: Memory | DeviceMemory
        if kind == "device":
            memory = self.rig.map_device(number, PLACES * PLACE_BYTES)
        else:
            memory = Memory(number, PLACES * PLACE_BYTES)
            message = MapRegion(number, memory.byte_size, sealed=kind != "system", single_use=kind == "single")
            self.rig.regions.map(message, os.dup(memory.fd))
            self.rig.memories.append(memory)
        self.memories[number] = memory
        self.free |= {(number, place) for place in range(PLACES)}

    def unmap(self) -> None:
        """As the worker's loop does it. What used the region has been answered when it is gone."""
        if not self.memories:
            return
        number = self.random.choice(sorted(self.memories))
        self.go_on()
        self.rig.runner.forget_region(number)
        self.take(self.rig.runner.finished())
        assert not [asked for batch in self.asked.values() for asked in batch if number in dict(asked.slot.places())]
        self.rig.regions.unmap(number)
        memory = self.memories.pop(number)
        self.free -= {(number, place) for place in range(PLACES)}
        self.slots = [slot for slot in self.slots if number not in dict(slot.places())]
        memory.close()
        self.rig.memories.remove(memory)

    def submit(self) -> None:
        lane = self.random.choice(self.rig.runner.lanes)
        if not self.rig.runner.has_room(lane) and self.held:
            return  # it would be waited for
        elements = self.random.choice([0, 1, 2, 50]) if self.is_variable else self.rig.spec.inputs[0].dims[0]
        found = [self._request(elements) for _ in range(self.random.choice([1, 1, 1, 1, 2, 3, 6]))]
        requests = [each for each in found if each is not None]
        if requests:
            self.batches += 1
            self.asked[self.batches] = [asked for _, asked in requests]
            self.rig.submit(self.batches, *(placement for placement, _ in requests), lane=lane)

    def _request(self, elements: int) -> tuple[Placement, Asked] | None:
        """Mostly one that came before, as from a client that uses its slots again."""
        again = [slot for slot in self.slots if slot.elements == elements and slot.places() <= self.free]
        if again and self.random.random() < 0.8:
            slot = self.random.choice(again[:3])
        elif len(self.free) >= 2:
            source, place = self.random.sample(sorted(self.free), 2)
            rows = self.random.choice([1, 1, 2])
            is_placed = self.random.random() < 0.85
            is_narrow = is_placed and self.is_variable and elements > 0 and self.random.random() < 0.1
            slot = ClientSlot(source, place if is_placed else None, rows, elements, is_narrow)
            self.slots.append(slot)
        else:
            return None
        self.free -= slot.places()
        dtype = np.float32 if self.rig.spec.inputs[0].datatype == "FP32" else np.int32
        numbers = [self.random.randint(1, 1 << 20) for _ in range(slot.rows * elements)]
        x = np.array(numbers, dtype).reshape(slot.rows, elements)
        given, output = self._put(slot.source, x), unplaced(0)
        if slot.place is not None:
            self._put(slot.place, np.full(PLACE_BYTES, POISON, np.uint8))
            output = OutputSlice(0, slot.place[0], slot.place[1] * PLACE_BYTES, x.nbytes - slot.is_narrow)
        return Placement(slot.rows, [given], [output]), Asked(slot, x if self.is_variable else x * 2)

    def _put(self, place: tuple[int, int], tensor: Tensor) -> InputSlice:
        return self.memories[place[0]].put(place[1] * PLACE_BYTES, tensor)

    def look(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.take(self.rig.runner.finished())

    def hold(self) -> None:
        policy = self.rig.spec.optimization
        is_pinned = policy.pinned_inputs and policy.pinned_outputs  # a copy to pageable memory is waited for
        if is_pinned and not self.excuses - {"the model failed"}:  # what is done again after a failure waits for room
            lane = self.random.choice(self.rig.instance._lanes)
            stream = self.random.choice([lane._copy_in, lane.lane.stream, lane._copy_out])
            self.held.add(stream.handle)
            self.simulation.hold(stream.handle)

    def go_on(self) -> None:
        for handle in self.held:
            self.simulation.release(handle)
        self.held.clear()

    def break_call(self) -> None:
        self.go_on()
        name, cause = self.random.choice(GRAVE if self.random.random() < 0.1 else MILD).split(":")
        self.excuses.add(cause)
        self.simulation.fail(name, cause, self.random.randint(1, 4))

    # --- what must be ----------------------------------------------------------------------------------------------------

    def take(self, ended: list[Ended]) -> None:
        """Reports: each of a batch that is in flight, with what its requests were to get."""
        for each in ended:
            requests = self.asked.pop(each.batch.batch)
            assert each.report.batch == each.batch.batch
            fds = list(each.fds)
            for at, asked in enumerate(requests):
                self._check(asked, each.report, at, fds)
                self.free |= asked.slot.places()
            assert not fds

    def _check(self, asked: Asked, done: BatchDone, at: int, fds: list[int]) -> None:
        item = done.items[at] if done.items else None
        message = done.message or (item.message if item is not None and item.code else "")
        if asked.slot.is_narrow and message:
            assert "needs" in message or self._is_excused(message), message
        elif message:
            assert self._is_excused(message), message
        if message:
            return
        assert not asked.slot.is_narrow
        if asked.slot.place is None:
            assert item is not None and item.fds == 1
            fd = fds.pop(0)
            content = os.pread(fd, 1 << 20, 0)[: asked.expected.nbytes]
            os.close(fd)
            np.testing.assert_array_equal(np.frombuffer(content, asked.expected.dtype), asked.expected.reshape(-1))
            return
        number, place = asked.slot.place
        found = self.memories[number].get(place * PLACE_BYTES, "UINT8", [PLACE_BYTES])
        size = asked.expected.nbytes
        np.testing.assert_array_equal(found[:size].view(asked.expected.dtype), asked.expected.reshape(-1))
        assert (found[size:] == POISON).all(), "written beyond the output"

    def _is_excused(self, message: str) -> bool:
        return any(excuse in message for excuse in self.excuses)

    def check(self) -> None:
        self.rig.runner.check_invariants()
        self.rig.regions.check_invariants()
        assert self.rig.runner.in_flight == len(self.asked)

    def end(self) -> None:
        """All is answered, and nothing held."""
        self.go_on()
        if not self.is_lost:
            self.attempt(self.drain)
        if not self.is_lost:
            assert all(len(lane.free) == len(lane.slots) for lane in self.rig.instance._lanes)
            assert self.rig.runner.awaited() == []
        assert self.asked == {}
        self.rig.close()

    def drain(self) -> None:
        self.rig.runner.drain()
        self.take(self.rig.runner.finished())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_request_is_answered_once_and_with_its_own_whatever_happens(seed: int, simulated_cuda: SimulatedCuda) -> None:
    life = Life(seed, simulated_cuda)
    for _ in range(STEPS):
        life.step()
        if life.is_lost:
            break
    life.end()
