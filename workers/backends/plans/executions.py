# SPDX-License-Identifier: Apache-2.0
"""Execution contexts of one lane. TensorRT is told shapes and addresses only where they are others than the last time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ....ipc.errors import ModelError
from ....ipc.tensors import byte_size
from ...devices.cuda import Copy, CopyKind, DeviceBuffer, PinnedBuffer, copy_all
from ..on_device import ALIGNMENT, DeviceTensor, Lane
from .engines import Engines, EngineTensor
from .library import Library
from .memory import Arrival, GrowingBuffer, make_allocator
from .profiles import Profile, Shape, Shapes

if TYPE_CHECKING:
    from ...devices.cuda import Stream


class Execution:
    """One execution context, which stays on its profile."""

    def __init__(self, library: Library, context: Any, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor]) -> None:
        self._library = library
        self._context = context
        self._inputs = inputs
        self._outputs = outputs
        #: shapes of the inputs as TensorRT has them, and those of the outputs that follow; None before the first
        self._shapes: Shapes | None = None
        self._produced: tuple[Shape, ...] = ()
        self._addresses: dict[str, int] = {}
        #: outputs whose shape depends on data -> who receives them, and whom TensorRT calls
        self._arrivals: dict[str, Arrival] = {}
        self._allocators: dict[str, Any] = {}
        #: inputs that TensorRT reads on the host -> their values
        self._host_values = {
            tensor.name: PinnedBuffer(byte_size(tensor.datatype, tensor.dims) or 0) for tensor in inputs if tensor.is_on_host
        }

    def __repr__(self) -> str:
        return f"<Execution of shapes {self._shapes}, {len(self._addresses)} addresses, {list(self._arrivals.values())}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a tensor lies where TensorRT does not take it, or outputs have shapes without inputs."""
        assert all(address % ALIGNMENT == 0 for address in self._addresses.values()), repr(self)
        assert self._shapes is None or len(self._produced) == len(self._outputs), repr(self)
        for arrival in self._arrivals.values():
            arrival.check_invariants()

    def fetch_host_values(self, inputs: Sequence[DeviceTensor | None], stream: Stream) -> None:
        """Brings the inputs that TensorRT reads on the host there, which waits for the stream. Comes before `prepare`."""
        for tensor, given in zip(self._inputs, inputs, strict=True):
            buffer = self._host_values.get(tensor.name)
            if buffer is not None and given is not None:
                copy_all([Copy(buffer.address, given.address, given.byte_size)], stream, CopyKind.FROM_DEVICE)
        if self._host_values:
            stream.synchronize()
            self._shapes = None  # what the outputs look like depends on them

    def prepare(self, shapes: Shapes) -> tuple[Shape, ...]:
        """Sets the shapes of the inputs; those of the outputs, -1 where only data tells. Raises ModelError."""
        if shapes == self._shapes:
            return self._produced
        log, self._shapes = self._library.log, None
        log.forget()
        for tensor, shape in zip(self._inputs, shapes, strict=True):
            if tensor.is_on_host:
                self.bind(tensor.name, self._host_values[tensor.name].address)
            if tensor.is_dynamic and not self._context.set_input_shape(tensor.name, self._library.trt.Dims(shape)):
                raise ModelError(f"TensorRT refuses shape {list(shape)} of input '{tensor.name}': {log.reason()}")
        try:
            missing = self._context.infer_shapes() if self._host_values else ()
            produced = tuple(tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self._outputs)
        except (RuntimeError, ValueError) as error:  # of shapes that do not go together follow Dims of length -1
            given = ", ".join(f"{tensor.name} {list(shape)}" for tensor, shape in zip(self._inputs, shapes, strict=True))
            raise ModelError(f"TensorRT cannot infer the shapes that follow from {given}: {log.reason(str(error))}") from error
        if missing:
            raise ModelError(f"TensorRT cannot infer shapes without {', '.join(missing)}: {log.reason()}")
        self._shapes, self._produced = shapes, produced
        return produced

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies in the next execution."""
        if self._addresses.get(name) != address:
            if not self._context.set_tensor_address(name, address):
                raise ModelError(f"TensorRT refuses address {address:#x} of tensor '{name}': {self._library.log.reason()}")
            self._addresses[name] = address

    def expect(self, name: str, memory: GrowingBuffer) -> Arrival:
        """An output whose shape depends on data goes into `memory`, which grows if need be, in the next execution."""
        arrival = self._arrivals.get(name)
        if arrival is None:
            arrival = Arrival()
            allocator = self._allocators[name] = make_allocator(self._library.trt, arrival)
            if not self._context.set_output_allocator(name, allocator):
                raise ModelError(f"TensorRT refuses to give output '{name}' any shape: {self._library.log.reason()}")
            self._arrivals[name] = arrival
        arrival.expect(memory)
        return arrival

    def launch(self, stream: Stream) -> None:
        """Puts the execution into the stream. Raises ModelError with TensorRT's reason."""
        self._library.log.forget()
        if not self._context.execute_async_v3(stream.address):
            for arrival in self._arrivals.values():
                if arrival.failure is not None:
                    raise arrival.failure
            raise ModelError(f"TensorRT could not execute the model: {self._library.log.reason()}")

    def close(self) -> None:
        """Lets go of the context; the stream is idle by then. Idempotent."""
        self._context = None
        self._arrivals.clear()
        self._allocators.clear()
        for buffer in self._host_values.values():
            buffer.close()


class LaneExecutions:
    """The contexts of one lane: one for each profile, and more for graphs. They share the memory that they compute in.

    That they can, since work of a lane never runs at once.
    """

    def __init__(self, library: Library, engines: Engines, lane: Lane) -> None:
        self._library = library
        self._engines = engines
        self._stream = lane.stream
        self._activations = DeviceBuffer(engines.activation_bytes)
        #: profile -> its execution
        self._plain: dict[int, Execution] = {}
        self._of_one_graph: list[Execution] = []
        self._of_graphs: dict[int, Execution] = {}

    def __repr__(self) -> str:
        return f"<LaneExecutions on profiles {list(self._plain)}, {len(self._all())} in all, in {self._activations!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when contexts have no memory to compute in."""
        assert not (self._activations.is_closed and self._all()), repr(self)
        for execution in self._all():
            execution.check_invariants()

    def on(self, profile: Profile) -> Execution:
        """The execution for what is not in a graph."""
        execution = self._plain.get(profile.number)
        if execution is None:
            context = self._engines.context(profile.number, self._stream, self._memory)
            execution = self._plain[profile.number] = self._around(context)
        return execution

    def for_graph(self, profile: Profile) -> Execution:
        """An execution for one graph: its own where shapes vary, as NVIDIA advises, since what a context holds is in the graph.

        Where TensorRT allows no second context on a profile, all graphs of a profile share one, which executes nothing else:
        what is found right when all were captured stays so.
        """
        if not any(tensor.needs_profile for tensor in self._engines.inputs):
            return self.on(profile)
        execution = self._of_graphs.get(profile.number)
        if execution is None:
            context = self._engines.another_context(profile.number, self._stream, self._memory)
            if context is not None:
                execution = self._around(context)
                self._of_one_graph.append(execution)
            else:
                context = self._engines.context(profile.number, self._stream, self._memory)
                execution = self._of_graphs[profile.number] = self._around(context)
        return execution

    def quietly(self) -> AbstractContextManager[None]:
        """Around what may fail without harm: TensorRT logs nothing."""
        return self._library.log.quietly()

    def drop_graphs(self) -> None:
        """Lets go of the contexts that were made for graphs, of which there are none; the stream is idle."""
        for execution in (*self._of_one_graph, *self._of_graphs.values()):
            execution.close()
        self._of_one_graph.clear()
        self._of_graphs.clear()

    def close(self) -> None:
        """Lets go of all contexts, then of their memory. Idempotent."""
        self.drop_graphs()
        for execution in self._plain.values():
            execution.close()
        self._plain.clear()
        self._activations.close()

    def _all(self) -> list[Execution]:
        return [*self._plain.values(), *self._of_one_graph, *self._of_graphs.values()]

    @property
    def _memory(self) -> tuple[int, int]:
        return self._activations.address, self._activations.byte_size

    def _around(self, context: Any) -> Execution:
        return Execution(self._library, context, self._engines.inputs, self._engines.outputs)
