# SPDX-License-Identifier: Apache-2.0
"""Memory of a device, and host memory that a device can reach by itself."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from ....ipc import cuda
from .owner import Owner

ALIGNMENT = 256
"""What TensorRT asks of a tensor's address (setTensorAddress in NvInferRuntime.h), and what cudaMalloc gives at least."""


def aligned(byte_size: int) -> int:
    """The next multiple of ALIGNMENT, so that what follows begins at one."""
    return -(-byte_size // ALIGNMENT) * ALIGNMENT


class DeviceBuffer(Owner):
    """Memory on the device that the thread uses, of undefined content. `byte_size` is what was asked for, rounded up."""

    __slots__ = ("address", "byte_size")

    def __init__(self, byte_size: int) -> None:
        super().__init__()
        self.byte_size = aligned(max(byte_size, 1))
        self.address = cuda.malloc(self.byte_size)

    def __repr__(self) -> str:
        return f"<DeviceBuffer of {self.byte_size} bytes at {self.address:#x}{self._state()}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when the memory is misaligned."""
        assert self.is_closed or (self.address and self.address % ALIGNMENT == 0), repr(self)
        assert self.byte_size % ALIGNMENT == 0, repr(self)

    def _release(self) -> None:
        cuda.free(self.address)


class PinnedBuffer(Owner):
    """Host memory that the device copies from and to without the processor. Views on `array` are not to outlive it."""

    __slots__ = ("address", "array", "byte_size")

    def __init__(self, byte_size: int) -> None:
        super().__init__()
        self.byte_size = aligned(max(byte_size, 1))
        self.address = int(cuda.call("cudaHostAlloc", self.byte_size, cuda.runtime().cudaHostAllocPortable))
        octets = (ctypes.c_uint8 * self.byte_size).from_address(self.address)
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(octets)

    def __repr__(self) -> str:
        return f"<PinnedBuffer of {self.byte_size} bytes at {self.address:#x}{self._state()}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when `array` is not the memory."""
        assert self.is_closed or (self.array.ctypes.data, self.array.size) == (self.address, self.byte_size), repr(self)

    def _release(self) -> None:
        self.array = np.empty(0, np.uint8)
        cuda.call("cudaFreeHost", self.address)
