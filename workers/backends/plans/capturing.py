# SPDX-License-Identifier: Apache-2.0
"""Makes the CUDA graphs of a lane at load, and compares each with plain execution before any request gets it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from ....ipc import cuda
from ....ipc.errors import ModelError
from ....ipc.messages import ModelSpec
from ....ipc.tensors import byte_size
from ...devices.cuda import Graph
from ...shapes import Shapes as ModelShapes
from .buckets import Bucket
from .engines import EngineTensor
from .executions import Execution, LaneExecutions
from .profiles import Profile, Profiles, Shape
from .stations import Route, Station
from .verification import Octets, difference, random_content

POISON = 0xFF
"""What outputs are filled with before a graph is tried: one that does nothing is noticed, too."""


class NotCapturable(Exception):  # noqa: N818 - a property of the model, not a fault
    """Why there are no graphs."""


class Prepared(NamedTuple):
    """A bucket that can become a graph: on which profile, and what it makes of its inputs."""

    bucket: Bucket
    profile: Profile
    produced: tuple[Shape, ...]


Captured = tuple[Station, Prepared, Graph]


class Capturing:
    """Makes graphs for all stations of a lane, of one model."""

    def __init__(
        self, spec: ModelSpec, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor], positions: Sequence[int],
        profiles: Profiles, executions: LaneExecutions,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._inputs = inputs
        self._outputs = outputs
        self._positions = positions
        self._profiles = profiles
        self._executions = executions

    def __repr__(self) -> str:
        return f"<Capturing for '{self._spec.name}', {self._executions!r}>"

    def furnish(self, stations: Sequence[Station], buckets: Sequence[Bucket]) -> None:
        """Gives each station a graph for each bucket that the engine takes and that computes what plain execution does.

        Where nothing can be captured there are none, and a line of the log says why.
        """
        try:
            prepared = self._prepared(buckets)
            for station in stations if prepared else ():
                self._check_room(station, prepared)
                self._make_room(station, prepared)
            captured = self._capture_all(stations, prepared)
            try:
                while captured:  # only now: a later capture may have spoilt an earlier one
                    self._admit(*captured[0])
                    captured.popleft()
            finally:
                _close(captured)
        except NotCapturable as reason:
            self._executions.drop_graphs()
            self._say(f"no CUDA graphs: {reason}")

    # --- before capture --------------------------------------------------------------------------------------------------

    def _prepared(self, buckets: Sequence[Bucket]) -> list[Prepared]:
        found = []
        for tensor in self._inputs if buckets else ():
            if tensor.is_on_host:
                raise NotCapturable(f"input '{tensor.name}' decides about shapes")
        for bucket in buckets:
            shapes = bucket.shapes(bucket.rows)
            profile = self._profiles.best(shapes)
            if profile is not None:
                produced = self._executions.on(profile).prepare(shapes)
                self._check_outputs(bucket, produced)
                found.append(Prepared(bucket, profile, produced))
        return found

    def _check_outputs(self, bucket: Bucket, produced: Sequence[Shape]) -> None:
        """Raises NotCapturable where memory at fixed addresses would not do."""
        shapes = ModelShapes(self._spec)
        for tensor, position, shape in zip(self._outputs, self._positions, produced, strict=True):
            if -1 in shape:
                raise NotCapturable(f"the shape of output '{tensor.name}' depends on data")
            if position < 0:
                continue
            output = self._spec.outputs[position]
            expected = shapes.full(bucket.rows, output.dims if output.reshape is None else output.reshape)
            if len(shape) != len(expected) or any(want not in (-1, have) for want, have in zip(expected, shape, strict=True)):
                raise NotCapturable(
                    f"output '{tensor.name}' has shape {list(shape)} where the configuration says {list(expected)}"
                )

    def _check_room(self, station: Station, prepared: Sequence[Prepared]) -> None:
        for number, tensor in enumerate(self._outputs):
            needed = max(_size(tensor, each.produced[number]) for each in prepared)
            room = station.room(number)
            if room is not None and room < needed:
                raise NotCapturable(f"output '{tensor.name}' needs {needed} bytes, and its memory has {room}")

    def _make_room(self, station: Station, prepared: Sequence[Prepared]) -> None:
        shapes = [each.bucket.shapes(each.bucket.rows) for each in prepared]
        inputs = [max(_size(tensor, each[number]) for each in shapes) for number, tensor in enumerate(self._inputs)]
        outputs = [
            max(_size(tensor, each.produced[number]) for each in prepared) for number, tensor in enumerate(self._outputs)
        ]
        station.make_room(inputs, outputs)

    # --- capture ---------------------------------------------------------------------------------------------------------

    def _capture_all(self, stations: Sequence[Station], prepared: Sequence[Prepared]) -> deque[Captured]:
        captured: deque[Captured] = deque()
        try:
            for station, each in product(stations, prepared):
                graph = self._capture(station, each)
                captured.append((station, each, graph))
                graph.upload(station.slot.lane.stream)
        except BaseException:
            _close(captured)
            raise
        return captured

    def _capture(self, station: Station, prepared: Prepared) -> Graph:
        """The graph of one bucket. Enqueued once before, since that is when TensorRT settles what follows from new shapes."""
        try:
            execution = self._executions.for_graph(prepared.profile)
        except ModelError as error:  # for want of memory, without which batches are still executed
            raise NotCapturable(f"there is no context for that of {prepared.bucket}: {error.message}") from error
        stream = station.slot.lane.stream
        self._enqueue(station, execution, prepared.bucket, prepared.bucket.rows)
        stream.synchronize()
        try:
            with self._executions.quietly():
                return Graph.capture(stream, lambda: execution.launch(stream))
        except (cuda.CudaError, ModelError) as error:
            if isinstance(error, cuda.CudaError) and error.is_sticky:
                raise
            raise NotCapturable(f"capture of {prepared.bucket} failed: {error.message}") from error

    def _enqueue(self, station: Station, execution: Execution, bucket: Bucket, rows: int) -> None:
        """Plain execution at the addresses of the graph."""
        execution.prepare(bucket.shapes(rows))
        for tensors, addresses in ((self._inputs, station.sources), (self._outputs, station.targets)):
            for tensor, address in zip(tensors, addresses, strict=True):
                execution.bind(tensor.name, address)
        execution.launch(station.slot.lane.stream)

    # --- comparison ------------------------------------------------------------------------------------------------------

    def _admit(self, station: Station, prepared: Prepared, graph: Graph) -> None:
        """Lets batches go by the graph: those of its own size and, if zeros behind a batch change nothing, smaller ones."""
        bucket, lowest = prepared.bucket, prepared.bucket.rows
        wrong = self._compare(station, prepared, graph, lowest)
        if wrong:
            self._say(f"the CUDA graph of {bucket} is not used: {wrong}")
            graph.close()
            return
        smaller = [rows for rows in range(bucket.lowest, bucket.rows) if self._profiles.best(bucket.shapes(rows)) is not None]
        if smaller:
            wrong = self._compare(station, prepared, graph, smaller[0])
            lowest = bucket.rows if wrong else smaller[0]
            if wrong:
                self._say(f"the CUDA graph of {bucket} is used for full batches only; for batch {smaller[0]}, {wrong}")
        routes = {bucket.shapes(rows): self._route(prepared, graph, rows) for rows in range(lowest, bucket.rows + 1)}
        if not station.add(routes):
            graph.close()

    def _route(self, prepared: Prepared, graph: Graph, rows: int) -> Route:
        bucket = prepared.bucket
        filled, read = (
            tuple(_size(tensor, shape) for tensor, shape in zip(self._inputs, bucket.shapes(count), strict=True))
            for count in (rows, bucket.rows)
        )
        produced = tuple((rows, *shape[1:]) if bucket.rows else shape for shape in prepared.produced)
        return Route(graph, max(rows, 1), filled, read, produced)

    def _compare(self, station: Station, prepared: Prepared, graph: Graph, rows: int) -> str:
        """In what the graph differs from plain execution for a batch of so many rows, on random inputs; "" for nothing.

        Outputs that the configuration leaves out are nobody's, and need not have rows.
        """
        route, stream = self._route(prepared, graph, rows), station.slot.lane.stream
        stream.synchronize()
        for tensor, address, size in zip(self._inputs, station.sources, route.read, strict=True):
            _write(address, random_content(tensor.datatype, size))
        station.spoil(route.read)
        profile = self._profiles.choose(prepared.bucket.shapes(rows))
        self._enqueue(station, self._executions.on(profile), prepared.bucket, rows)
        stream.synchronize()
        served = [number for number, position in enumerate(self._positions) if position >= 0]
        sizes = {number: _size(self._outputs[number], route.produced[number]) for number in served}
        expected = {number: _read(station.targets[number], size) for number, size in sizes.items()}
        for number, size in sizes.items():
            _write(station.targets[number], np.full(size, POISON, np.uint8))
        station.launch(route)
        stream.synchronize()
        for number, content in expected.items():
            tensor = self._outputs[number]
            found = difference(tensor.datatype, content, _read(station.targets[number], content.size))
            if found:
                return f"output '{tensor.name}' of the graph and of plain execution: {found}"
        return ""

    def _say(self, text: str) -> None:
        sys.stderr.write(f"model '{self._spec.name}': {text}\n")


def _close(captured: Iterable[Captured]) -> None:
    for _, _, graph in captured:
        graph.close()


def _read(address: int, byte_size: int) -> Octets:
    content = np.empty(byte_size, np.uint8)
    cuda.copy(content.ctypes.data, address, byte_size)
    return content


def _write(address: int, content: Octets) -> None:
    cuda.copy(address, content.ctypes.data, content.size)


def _size(tensor: EngineTensor, shape: Shape) -> int:
    size = byte_size(tensor.datatype, shape)
    assert size is not None, f"{tensor.name} {shape} has no size yet"
    return size
