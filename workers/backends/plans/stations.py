# SPDX-License-Identifier: Apache-2.0
"""A slot of a lane as TensorRT uses it: memory at fixed addresses, the graphs captured on it, and which batch takes which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ....ipc.tensors import byte_size
from ...devices.cuda import Copy, CopyKind, DeviceBuffer, Graph, copy_all, fill_zero
from ..on_device import DeviceTensor, DeviceWork, Slot
from .engines import EngineTensor
from .executions import Execution
from .memory import Arrival, GrowingBuffer
from .profiles import Shape, Shapes


class Route(NamedTuple):
    """How batches of certain shapes are executed: by a graph, whose inputs may be longer than theirs."""

    graph: Graph
    rows: int  # of the batch; 1 without a batch dimension
    filled: tuple[int, ...]  # bytes of each input that the batch brings
    read: tuple[int, ...]  # bytes of each input that the graph reads; behind the batch's own there are zeros
    produced: tuple[Shape, ...]  # shapes of the outputs of the engine that belong to the batch


class Station:
    """One slot.

    Inputs and outputs at the slot's own addresses are executed by a graph, without a call of TensorRT. Where the slot has no
    memory, since sizes vary, graphs have memory of their own here: inputs are copied into it, and outputs out of it.
    """

    def __init__(
        self, slot: Slot, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor], positions: Sequence[int]
    ) -> None:
        self.slot = slot
        self._inputs = inputs
        self._outputs = outputs
        #: for each output of the engine its position in the spec, -1 for one that the configuration leaves out
        self._positions = positions
        #: position in the spec -> that in the engine
        self._numbers = {position: number for number, position in enumerate(positions) if position >= 0}
        #: where graphs read each input and write each output of the engine; 0: nowhere yet
        self.sources = [0 if tensor is None else tensor.address for tensor in slot.inputs]
        homes = [self._home(number, slot) for number in range(len(outputs))]
        self.targets = [0 if home is None else home.address for home in homes]
        #: from where to where each source is known to be zeros: (0, 0) for nowhere. Only batches write, from the beginning on
        self._zeros = [(0, 0)] * len(inputs)
        #: shapes of all inputs -> how a batch of them is executed
        self.routes: dict[Shapes, Route] = {}
        #: inputs and outputs for which the slot had no memory -> memory of the graphs, at addresses that stay
        self._own_sources: dict[int, DeviceBuffer] = {}
        self._own_targets: dict[int, DeviceBuffer] = {}
        #: memory for each output where it has none, outside of graphs
        self._own = [GrowingBuffer() for _ in outputs]

    def __repr__(self) -> str:
        graphs = len({id(route.graph) for route in self.routes.values()})
        return f"<Station lane {self.slot.lane.index} slot {self.slot.index}, {graphs} graphs for {len(self.routes)} shapes>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a graph reads less than its batch brings, or without a place to read from."""
        for route in self.routes.values():
            assert all(filled <= read for filled, read in zip(route.filled, route.read, strict=True)), repr(self)
            assert all(self.sources) and all(self.targets), repr(self)
        assert all(begin >= 0 for begin, _ in self._zeros), repr(self)
        for memory in self._own:
            memory.check_invariants()

    # --- graphs ----------------------------------------------------------------------------------------------------------

    def make_room(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Gives each input and output without memory in the slot so many bytes of its own, for all graphs; inputs are zeros."""
        for addresses, own, sizes in ((self.sources, self._own_sources, inputs), (self.targets, self._own_targets, outputs)):
            for number, size in enumerate(sizes):
                if not addresses[number]:
                    own[number] = buffer = DeviceBuffer(size)
                    addresses[number] = buffer.address
        for address, size in zip(self.sources, inputs, strict=True):
            fill_zero(address, size, self.slot.lane.stream)

    def room(self, number: int) -> int | None:
        """Bytes that the slot has for an output of the engine; None: it has no memory for it."""
        home = self._home(number, self.slot)
        return None if home is None else home.byte_size

    def spoil(self, sizes: Sequence[int]) -> None:
        """So many bytes of each source, from its beginning, were written to past this object."""
        self._zeros = [(max(begin, size), end) for (begin, end), size in zip(self._zeros, sizes, strict=True)]

    def add(self, routes: dict[Shapes, Route]) -> bool:
        """Takes routes for shapes that have none yet; whether there were any. The graph of one that is taken is owned here."""
        added = {shapes: route for shapes, route in routes.items() if shapes not in self.routes}
        self.routes.update(added)
        return bool(added)

    def replayed_rows(self) -> frozenset[int]:
        """Rows of the batches that a graph executes."""
        return frozenset(route.rows for route in self.routes.values())

    def holds(self, work: DeviceWork) -> bool:
        """Whether all that is executed lies where graphs read and write it, or can be brought there."""
        if work.slot is not self.slot and not self._still_in(work.slot):
            return False
        for number, tensor in enumerate(work.inputs):
            if tensor is not None and tensor.address != self.sources[number] and number not in self._own_sources:
                return False
        for output, place in zip(work.wanted, work.places, strict=True):
            number = self._numbers[output]
            if place is not None and place.address != self.targets[number] and number not in self._own_targets:
                return False
        return True

    def replay(self, route: Route, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Executes by graph. The results as DeviceBackend.enqueue has them."""
        if self._own_sources:
            copies = [
                Copy(self.sources[number], tensor.address, tensor.byte_size)
                for number, tensor in enumerate(work.inputs)
                if tensor is not None and number in self._own_sources
            ]
            copy_all(copies, self.slot.lane.stream, CopyKind.WITHIN_DEVICE)
        self.launch(route)
        if None not in work.places and not self._own_targets:
            return work.places
        return [
            place if place is not None and place.address == self.targets[self._numbers[output]] else self._result(output, route)
            for output, place in zip(work.wanted, work.places, strict=True)
        ]

    def launch(self, route: Route) -> None:
        """Puts the graph into the stream, after zeros behind the batch where a larger one may have left its rows."""
        stream = self.slot.lane.stream
        for number, filled in enumerate(route.filled):
            read, (begin, end) = route.read[number], self._zeros[number]
            begin = max(begin, filled)
            if filled < read and (begin > filled or end < read):
                fill_zero(self.sources[number] + filled, read - filled, stream)
                begin, end = filled, max(read, end) if begin <= read else read
            self._zeros[number] = (begin, end)
        route.graph.launch(stream)

    def _result(self, output: int, route: Route) -> DeviceTensor:
        number = self._numbers[output]
        return _tensor(self._outputs[number], self.targets[number], route.produced[number])

    def _home(self, number: int, slot: Slot) -> DeviceTensor | None:
        position = self._positions[number]
        return slot.outputs[position] if position >= 0 else None

    def _still_in(self, slot: Slot) -> bool:
        """Whether outputs that graphs write into the slot's memory still have it in what the slot has become."""
        for number, target in enumerate(self.targets):
            home = self._home(number, slot)
            if number not in self._own_targets and (home is None or home.address != target):
                return False
        self.slot = slot
        return True

    # --- without a graph -------------------------------------------------------------------------------------------------

    def execute(self, execution: Execution, shapes: Shapes, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Executes where the tensors lie. The results as DeviceBackend.enqueue has them."""
        stream = self.slot.lane.stream
        execution.fetch_host_values(work.inputs, stream)
        produced = execution.prepare(shapes)
        self._bind_inputs(execution, work.inputs)
        places = dict(zip(work.wanted, work.places, strict=True))
        results: dict[int, DeviceTensor] = {}
        arrivals: dict[int, Arrival] = {}
        for number, (tensor, shape) in enumerate(zip(self._outputs, produced, strict=True)):
            position = self._positions[number]
            if -1 in shape:
                arrivals[number] = execution.expect(tensor.name, self._own[number])
            else:
                result = results[position] = self._placed(number, shape, places.get(position), work.slot)
                execution.bind(tensor.name, result.address)
        execution.launch(stream)
        for number, arrival in arrivals.items():
            tensor = self._outputs[number]
            results[self._positions[number]] = _tensor(tensor, *arrival.result(tensor.name))
        found = [results[output] for output in work.wanted]
        return work.places if _same(found, work.places) else found

    def _bind_inputs(self, execution: Execution, inputs: Iterable[DeviceTensor | None]) -> None:
        for number, (tensor, given) in enumerate(zip(self._inputs, inputs, strict=True)):
            assert given is not None, "warm_up refuses inputs that may be left out"
            if not tensor.is_on_host:
                execution.bind(tensor.name, given.address)
            if given.address == self.sources[number]:
                begin, end = self._zeros[number]
                self._zeros[number] = (max(begin, given.byte_size), end)

    def _placed(self, number: int, shape: Shape, place: DeviceTensor | None, slot: Slot) -> DeviceTensor:
        """Where an output goes: its place if it has its size, else the slot's memory if it is enough, else our own."""
        tensor = self._outputs[number]
        size = byte_size(tensor.datatype, shape) or 0
        if place is not None and place.byte_size == size:
            return place
        home = self._home(number, slot)
        address = home.address if home is not None and home.byte_size >= size else self._own[number].reserve(size)
        return _tensor(tensor, address, shape)

    def close(self) -> None:
        """Gives graphs and memory back; the stream is idle by then. Idempotent."""
        for route in self.routes.values():
            route.graph.close()
        self.routes.clear()
        for fixed in (*self._own_sources.values(), *self._own_targets.values()):
            fixed.close()
        for growing in self._own:
            growing.close()


def _tensor(tensor: EngineTensor, address: int, shape: Shape) -> DeviceTensor:
    return DeviceTensor(address, tensor.datatype, shape, byte_size(tensor.datatype, shape) or 0)


def _same(results: Sequence[DeviceTensor], places: Sequence[DeviceTensor | None]) -> bool:
    return all(result is place for result, place in zip(results, places, strict=True))
