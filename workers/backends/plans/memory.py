# SPDX-License-Identifier: Apache-2.0
"""Device memory of the backend's own, for outputs that have no place, and how TensorRT asks for it."""

from __future__ import annotations

from typing import Any

from ....ipc.errors import ModelError
from ...devices.cuda import DeviceBuffer
from ..on_device import ALIGNMENT
from .profiles import Shape


class GrowingBuffer:
    """Device memory that is kept, and replaced by a larger one where it does not suffice: by powers of two.

    Growing frees what was there, so that only who knows that nothing uses it may reserve.
    """

    def __init__(self) -> None:
        self._buffer: DeviceBuffer | None = None

    def __repr__(self) -> str:
        return f"<GrowingBuffer {self.byte_size} bytes>"

    def check_invariants(self) -> None:
        """Raises AssertionError when the memory is none to begin at, or not doubled from what it was."""
        assert self._buffer is None or not self._buffer.is_closed, repr(self)
        assert not self.byte_size & (self.byte_size - 1), repr(self)

    @property
    def byte_size(self) -> int:
        """What it has room for."""
        return 0 if self._buffer is None else self._buffer.byte_size

    def reserve(self, byte_size: int) -> int:
        """The address of at least so many bytes, of undefined content. Raises MachineError."""
        if self._buffer is None or self._buffer.byte_size < byte_size:
            self.close()
            self._buffer = DeviceBuffer(1 << max(byte_size - 1, ALIGNMENT - 1).bit_length())
        return self._buffer.address

    def close(self) -> None:
        """Frees the memory. Idempotent."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None


class Arrival:
    """Receives one output whose shape depends on data. TensorRT calls it from within the enqueue.

    An exception that leaves a callback is printed by the binding and forgotten, so it is kept here instead.
    """

    def __init__(self) -> None:
        #: where the next execution's output shall go
        self.memory: GrowingBuffer | None = None
        self.shape: Shape | None = None
        self.failure: Exception | None = None

    def __repr__(self) -> str:
        return f"<Arrival in {self.memory!r}, shape {self.shape}, failure {self.failure!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a shape has arrived, and no memory for it."""
        assert self.shape is None or self.memory is not None, repr(self)

    def expect(self, memory: GrowingBuffer) -> None:
        """Before an execution."""
        self.memory, self.shape, self.failure = memory, None, None

    def reallocate(self, byte_size: int) -> int:
        """The address of memory that suffices; 0, which fails the execution, when there is none."""
        try:
            assert self.memory is not None, "an execution that nobody expects"
            return self.memory.reserve(byte_size)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised after the enqueue
            self.failure = error
            return 0

    def notify(self, dims: Any) -> None:
        """The true shape."""
        try:
            self.shape = tuple(int(size) for size in dims)
        except Exception as error:  # noqa: BLE001 - see reallocate
            self.failure = error

    def result(self, name: str) -> tuple[int, Shape]:
        """(address, shape) of the output after the enqueue. Raises what went wrong in a callback."""
        if self.failure is not None:
            raise self.failure
        if self.shape is None or self.memory is None:
            raise ModelError(f"TensorRT did not say which shape output '{name}' has")
        return self.memory.reserve(0), self.shape


def make_allocator(trt: Any, arrival: Arrival) -> Any:
    """A trt.IOutputAllocator that hands over to `arrival`."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # mypy knows no class of it
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)  # pybind11 demands it by name

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            return arrival.reallocate(size)

        def reallocate_output_async(self, _name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            return arrival.reallocate(size)

        def notify_shape(self, _name: str, shape: Any) -> None:
            arrival.notify(shape)

    return Allocator()
