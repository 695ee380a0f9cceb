# SPDX-License-Identifier: Apache-2.0
"""CUDA regions: memory on a GPU, which workers there use without a copy over the bus.

They are shared by the 64-byte handles of CUDA IPC, as Triton's CUDA shared memory is (tritonclient.utils.cuda_shared_memory):
between processes on Linux itself, for memory of cudaMalloc alone. What has no handle is refused here, with what to do instead.
"""

from __future__ import annotations

import base64
import binascii
import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ipc import cuda
from ..ipc.errors import CallerError, Code, invalid
from ..ipc.gpus import is_wsl
from ..ipc.messages import Register
from .device_arrays import DeviceArray, on, on_device
from .regions import Region

INSTEAD = "use a MemfdRegion or SystemRegion, which workers on GPUs pin"
COPY = "allocate a region with CudaRegion.allocate and copy the tensor into it"
HAS_NO_HANDLE = {
    cuda.Memory.POOL: (
        "memory of a pool or of virtual memory management (cudaMallocAsync, torch's expandable_segments or its cudaMallocAsync "
        f"backend) has no IPC handle: {COPY}, or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False before torch starts"
    ),
    cuda.Memory.MANAGED: f"managed memory has no IPC handle: {COPY}",
    cuda.Memory.HOST_PINNED: f"it is host memory: {INSTEAD}",
    cuda.Memory.UNKNOWN: "it is no memory that CUDA knows of",
}


class _Memory:
    """An address on a GPU that this process holds: `give_back` is called with it when nothing refers to it any more."""

    __slots__ = ("__weakref__", "address")

    def __init__(self, ordinal: int, address: int, give_back: Callable[[int], None]) -> None:
        self.address = address
        weakref.finalize(self, _given_back, ordinal, address, give_back).atexit = False  # the process's end does it all


def _given_back(ordinal: int, address: int, give_back: Callable[[int], None]) -> None:
    with on(ordinal):
        give_back(address)


class CudaRegion(Region):
    """Memory on GPU `device` (in this process's numbering). Made with `allocate`, `wrap` or `from_raw_handle`.

    The process that allocated it must keep it until no worker has it open, and so `unregister` returns only then: call it
    before `close`. Where that process dies, requests in the region fail; other clients' do not.
    """

    kind = "cuda"

    def __init__(
        self, name: str, handle: bytes, byte_size: int, offset: int, device: int, uuid: str, memory: DeviceArray | None
    ) -> None:
        super().__init__(name, byte_size, offset)
        self.handle = handle
        self.device = device
        self.uuid = uuid  # "": the broker goes by `device`
        self._memory = memory  # None: another process's, not opened
        self._closed = False

    def check_invariants(self) -> None:
        """What is open is all there."""
        assert not (self._closed and self._memory), self
        assert self._memory is None or self._memory.nbytes == self.byte_size, self

    @classmethod
    def allocate(cls, name: str, byte_size: int, device: int = 0) -> CudaRegion:
        """Fresh memory, of zeros. Raises MachineError where there is none, CallerError where it could not be shared.

        It takes a multiple of 2 MiB: cudaMalloc cuts smaller allocations from a block, and IPC would share all of that.
        """
        if byte_size < 1:
            raise invalid(f"region '{name}': byte_size must be at least 1, got {byte_size}")
        uuid = _shareable(name, device)
        total = -(-byte_size // cuda.IPC_GRANULE) * cuda.IPC_GRANULE
        with on(device):
            memory = _Memory(device, cuda.malloc(total), cuda.free)
            cuda.call("cudaMemset", memory.address, 0, total)
            cuda.call("cudaStreamSynchronize", 0)
            handle = cuda.ipc_handle(memory.address)
        return cls(
            name, handle, byte_size, 0, device, uuid, DeviceArray(memory, device, memory.address, np.uint8, (byte_size,))
        )

    @classmethod
    def wrap(cls, name: str, tensor: Any) -> CudaRegion:
        """The memory of a dense tensor of cupy, torch, numba or another library, which it keeps. Nothing is copied.

        Workers can reach the whole allocation that the tensor lies in; libraries cut small tensors from large ones. Raises
        CallerError for memory that has no IPC handle, saying why and what to do instead.
        """
        array = on_device(tensor)
        if array is None or not array.nbytes:
            raise invalid(f"region '{name}': a CUDA region wraps a tensor on a GPU that is not empty, given is {tensor!r:.200}")
        kind = cuda.pointer_kind(array.address).kind
        if kind in HAS_NO_HANDLE:
            raise CallerError(f"region '{name}': this tensor cannot be shared: {HAS_NO_HANDLE[kind]}", Code.UNSUPPORTED)
        uuid = _shareable(name, array.ordinal)
        with on(array.ordinal):
            base, _ = cuda.address_range(array.address)
            handle = cuda.ipc_handle(base)
        content = DeviceArray(array, array.ordinal, array.address, np.uint8, (array.nbytes,))
        return cls(name, handle, array.nbytes, array.address - base, array.ordinal, uuid, content)

    @classmethod
    def from_raw_handle(
        cls, name: str, raw_handle: bytes | str, byte_size: int, device: int = 0, offset: int = 0
    ) -> CudaRegion:
        """Memory of another process, which it exported with `raw_handle()`, or tritonclient's get_raw_handle.

        Here it is opened when it is first looked at. The broker cannot know when its exporter ends: unregister it before that.
        """
        try:
            handle = base64.b64decode(raw_handle, validate=True)
        except binascii.Error as error:
            raise invalid(f"region '{name}': a raw handle is base64: {error}") from error
        if len(handle) != cuda.HANDLE_BYTES:
            raise invalid(f"region '{name}': a raw handle has {cuda.HANDLE_BYTES} bytes, got {len(handle)}")
        return cls(name, handle, byte_size, offset, device, "", None)

    def raw_handle(self) -> bytes:
        """The handle in base64, as tritonclient's get_raw_handle gives it."""
        return base64.b64encode(self.handle)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def memory(self) -> DeviceArray:
        """The memory, as bytes on the GPU. Raises CallerError when it is closed, and CudaError when it cannot be opened."""
        if self._closed:
            raise CallerError(f"region '{self.name}' is closed")
        if self._memory is None:
            with on(self.device):
                opened = _Memory(self.device, cuda.open_ipc(self.handle), cuda.close_ipc)
            self._memory = DeviceArray(opened, self.device, opened.address + self.offset, np.uint8, (self.byte_size,))
        return self._memory

    def array(self, offset: int, dtype: npt.DTypeLike, shape: Sequence[int]) -> DeviceArray:
        """A part of it as an array of that dtype and shape, for cupy, torch and others: they share its memory."""
        byte_size = prod(shape) * np.dtype(dtype).itemsize
        if offset < 0 or offset + byte_size > self.byte_size:
            raise invalid(
                f"region '{self.name}' has {self.byte_size} bytes; {np.dtype(dtype)}{list(shape)} at {offset} needs {byte_size}"
            )
        return self.memory[offset : offset + byte_size].view(dtype).reshape(shape)

    def view(self, datatype: str, shape: Sequence[int], offset: int = 0) -> DeviceArray:
        """A tensor of the region as an array on the GPU."""
        found: DeviceArray = super().view(datatype, shape, offset)
        return found

    def write(self, values: npt.NDArray[Any], offset: int = 0, stream: object = None) -> None:
        """Copies an array into it, numpy's or one on a GPU; about `stream` see DeviceArray.write."""
        source = values if isinstance(values, np.ndarray) else on_device(values)
        if source is None:
            source = np.asarray(values)
        self.array(offset, source.dtype, source.shape).write(source, stream)

    def read(self, offset: int, dtype: npt.DTypeLike, shape: Sequence[int], stream: object = None) -> npt.NDArray[Any]:
        """A part of it as numpy's array, after what is in the stream; complete when this returns."""
        return self.array(offset, dtype, shape).read(stream)

    def registration(self, number: int) -> tuple[Register, tuple[int, ...]]:
        """Register, with the handle."""
        message = Register(
            number, self.name, self.kind, self.byte_size, offset=self.offset, handle=self.handle, device_id=self.device,
            uuid=self.uuid,
        )  # fmt: skip
        return message, ()

    def close(self) -> None:
        """Gives the memory up, which goes with the last array on it. Unregister it first. Idempotent."""
        self._closed = True
        self._memory = None


def _shareable(name: str, device: int) -> str:
    """The UUID of a GPU whose memory processes can share. Raises CallerError for another."""
    found = cuda.gpus()
    if not 0 <= device < len(found):
        raise invalid(f"region '{name}': there is no GPU {device}; this process sees {len(found)}")
    if found[device].is_mig or is_wsl():
        why = "between MIG instances" if found[device].is_mig else "under WSL"
        raise CallerError(f"region '{name}': CUDA memory is not shared {why}: {INSTEAD}", Code.UNSUPPORTED)
    return found[device].uuid
