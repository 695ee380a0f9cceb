# SPDX-License-Identifier: Apache-2.0
"""CUDA memory of other processes, as a worker on a GPU has it.

An allocation is opened once, whatever number of regions lie in it, and each region is checked against what was opened. The
rules are those of cudaIpcOpenMemHandle (driver_types.h, cuda_runtime_api.h): legacy handles only, never in the process that
exported them, on Linux itself only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc import cuda
from ...ipc.errors import CallerError, Code, MachineError, PenstockError, invalid

if TYPE_CHECKING:
    from ...ipc.messages import MapRegion
    from ..devices.cuda import Device

Octets = npt.NDArray[np.uint8]

INSTEAD = "use a memfd or system region, which instances on GPUs pin"


class CudaRegion:
    """A region in device memory that another process allocated. `address` is a device address: nothing to be looked at."""

    __slots__ = ("_allocations", "_handle", "address", "byte_size")
    is_mapped = False
    space = "device"
    pinned = False
    unpinned = ""

    def __init__(self, allocations: Allocations, handle: bytes, address: int, byte_size: int) -> None:
        self._allocations = allocations
        self._handle = handle
        self.address = address
        self.byte_size = byte_size

    def __repr__(self) -> str:
        return f"<CudaRegion {self.byte_size} bytes {f'at {self.address:#x}' if self._handle else 'closed'}>"

    def read(self, offset: int, into: Octets) -> None:
        """Copies bytes out of the region; they are there when it returns."""
        cuda.copy(into.ctypes.data, self.address + offset, into.size)

    def write(self, offset: int, data: Octets) -> None:
        """Copies bytes into the region; they are there when it returns."""
        cuda.copy(self.address + offset, data.ctypes.data, data.size)

    def close(self) -> None:
        """Gives the memory back. No work that touches it may be in flight any more. Idempotent."""
        handle, self._handle = self._handle, b""
        if handle:
            self._allocations.give_back(handle)


class _Opened:
    """An allocation that is open in this process, and how many regions lie in it."""

    __slots__ = ("address", "base", "byte_size", "regions")

    def __init__(self, address: int, base: int, byte_size: int) -> None:
        self.address = address  # what the handle stands for
        self.base = base
        self.byte_size = byte_size  # from `base` on
        self.regions = 0


class Allocations:
    """What this worker has open of other processes' device memory, by handle: 64 bytes, equal for equal allocations."""

    def __init__(self, device: Device) -> None:
        self._device = device
        #: handle -> its allocation, with at least one region in it
        self._opened: dict[bytes, _Opened] = {}

    def __repr__(self) -> str:
        counts = sorted(opened.regions for opened in self._opened.values())
        return f"<Allocations {len(counts)} open on {self._device!r}, with {counts} regions>"

    def check_invariants(self) -> None:
        """Nothing is open that no region lies in."""
        assert all(opened.regions > 0 for opened in self._opened.values()), repr(self)

    def region(self, message: MapRegion) -> CudaRegion:
        """The region of a MapRegion. Raises PenstockError with what is wrong with its handle, and what to use instead."""
        opened = self._opened.get(message.handle)
        if opened is None:
            opened = self._open(message)
        end = opened.address + message.offset + message.byte_size
        if end > opened.base + opened.byte_size:
            if not opened.regions:
                cuda.close_ipc(opened.address)
            room = opened.base + opened.byte_size - opened.address
            raise invalid(
                f"the CUDA memory of this handle has {room} bytes; offset {message.offset} + byte_size {message.byte_size} is "
                f"{message.offset + message.byte_size}"
            )
        self._opened[message.handle] = opened
        opened.regions += 1
        return CudaRegion(self, message.handle, opened.address + message.offset, message.byte_size)

    def give_back(self, handle: bytes) -> None:
        """A region is closed; with the last one of its allocation that is closed too."""
        opened = self._opened[handle]
        opened.regions -= 1
        if not opened.regions:
            del self._opened[handle]
            try:
                cuda.close_ipc(opened.address)
            except cuda.CudaError as error:
                if not error.is_sticky:  # when the context is lost, what was open in it is not any more
                    raise

    def _open(self, message: MapRegion) -> _Opened:
        if message.pid == os.getpid():
            raise CallerError(f"CUDA memory cannot be opened by the process that made it, {SAME}", Code.UNSUPPORTED)
        if cuda.is_wsl():
            raise CallerError(f"CUDA memory cannot be shared between processes under WSL: {INSTEAD}", Code.UNSUPPORTED)
        cuda.use(self._device.ordinal)
        try:
            address = cuda.open_ipc(message.handle)
        except cuda.CudaError as error:
            if error.is_sticky:
                raise
            raise refusal(error.cause, self._device.info.is_mig) from error
        try:
            lies_on = cuda.pointer_kind(address).ordinal
            if lies_on != self._device.ordinal:
                raise invalid(f"this CUDA memory does not lie on {self._device.uuid}, the GPU that it was registered with")
            return _Opened(address, *cuda.address_range(address))
        except PenstockError:
            cuda.close_ipc(address)
            raise


class Cause(NamedTuple):
    """Why a handle is refused, in words; `by_machine`: not for what the caller gave."""

    text: str
    by_machine: bool = False


SAME = f"in whose address space it is already: {INSTEAD}, or export it from another process"

NO_HANDLE = Cause(
    "it is not the handle of memory that came from cudaMalloc and is still there. Memory of pools (cudaMallocAsync), managed "
    "memory and virtual memory (torch's expandable_segments) have no handle: allocate with CudaRegion.allocate and copy, or "
    "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False"
)
CAUSES = {
    "cudaErrorInvalidValue": NO_HANDLE,
    "cudaErrorInvalidResourceHandle": NO_HANDLE,
    "cudaErrorInvalidDevicePointer": NO_HANDLE,
    "cudaErrorDeviceUninitialized": Cause(f"this process made it, {SAME}"),
    "cudaErrorMapBufferObjectFailed": Cause(
        "the driver cannot map it. The process that made it must be alive and, in containers, share the IPC and PID namespaces "
        f"(--ipc=host --pid=host); otherwise {INSTEAD}"
    ),
    "cudaErrorNotSupported": Cause(
        f"CUDA memory cannot be shared between processes here, as under WSL or on Tegra: {INSTEAD}", by_machine=True
    ),
    "cudaErrorOperatingSystem": Cause(f"the operating system refuses to share it: {INSTEAD}", by_machine=True),
    "cudaErrorInvalidDevice": Cause(f"it lies on a GPU that this worker cannot reach: {INSTEAD}"),
    "cudaErrorPeerAccessUnsupported": Cause(f"it lies on a GPU that this worker's cannot reach: {INSTEAD}"),
    "cudaErrorTooManyPeers": Cause(f"this worker's GPU has too many peers: {INSTEAD}", by_machine=True),
}
"""Error of cudaIpcOpenMemHandle -> what it means."""

OTHER = Cause(f"the driver refuses to open it: {INSTEAD}", by_machine=True)
ACROSS_MIG = "; between MIG instances of a GPU no CUDA memory can be shared"


def refusal(name: str, is_mig: bool) -> PenstockError:
    """The error for what cudaIpcOpenMemHandle answered."""
    cause = CAUSES.get(name, OTHER)
    message = f"the CUDA handle cannot be opened ({name}): {cause.text}{ACROSS_MIG if is_mig else ''}"
    return MachineError(message, Code.UNSUPPORTED) if cause.by_machine else invalid(message)
