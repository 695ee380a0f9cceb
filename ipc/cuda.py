# SPDX-License-Identifier: Apache-2.0
"""CUDA, as every process of ours uses it. The only importer of cuda-python, which is loaded by the first call that needs it.

cuda-python raises nothing: each call returns (error, *results). Here a call returns its results or raises CudaError, which
names the call and the cause. cuda-python 12.6 and later is understood; what differs between versions is dealt with here. Before
12.9.1 calls keep Python's other threads from running, those that wait included.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from .errors import Code, MachineError, invalid
from .gpus import GpuInfo, is_mig_name, is_wsl, uuid_text

__all__ = [
    "HANDLE_BYTES", "IPC_GRANULE", "CudaError", "CudaUnavailable", "GpuInfo", "Memory", "Pointer", "address_range", "bound",
    "call", "check", "close_ipc", "copy", "copy_async", "driver", "driver_call", "failure", "free", "gpu_of_uuid", "gpus",
    "ipc_handle", "is_present", "is_wsl", "malloc", "open_ipc", "pointer_kind", "runtime", "use",
]  # fmt: skip

HANDLE_BYTES = 64
"""CUDA_IPC_HANDLE_SIZE."""

IPC_GRANULE = 2 << 20
"""What an exported allocation should be a multiple of: cudaMalloc takes smaller ones from a block, and IPC shares the whole
block with everything else in it (CUDA programming guide, Interprocess Communication)."""

UNUSABLE = frozenset(
    {"cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorStubLibrary", "cudaErrorInitializationError"}
    | {"cudaErrorDevicesUnavailable", "cudaErrorSystemNotReady", "cudaErrorSystemDriverMismatch"}
    | {"cudaErrorCompatNotSupportedOnDevice", "cudaErrorMpsConnectionFailed", "cudaErrorMpsServerNotReady"}
    | {"cudaErrorMpsMaxClientsReached", "cudaErrorMpsMaxConnectionsReached"}
)
"""What says that this process cannot use any GPU, rather than that some call was wrong."""

STICKY = frozenset(
    {"cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable", "cudaErrorContained", "cudaErrorIllegalAddress"}
    | {"cudaErrorLaunchTimeout", "cudaErrorContextIsDestroyed", "cudaErrorAssert", "cudaErrorHardwareStackError"}
    | {"cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress", "cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc"}
    | {"cudaErrorLaunchFailure", "cudaErrorTensorMemoryLeak", "cudaErrorMpsClientTerminated", "cudaErrorExternalDevice"}
)
"""After these "the process must be terminated and relaunched" (driver_types.h, cudaError): every later call fails too."""


class CudaUnavailable(MachineError):  # noqa: N818 - a condition of the machine, which its users expect
    """CUDA cannot be used here: no cuda-python, no driver, or no device."""


class CudaError(MachineError):
    """A CUDA call failed. `call` is its name, `cause` that of the error, e.g. "cudaErrorMemoryAllocation"."""

    def __init__(self, call_name: str, cause: str, meaning: str) -> None:
        super().__init__(f"{call_name} failed: {cause} ({meaning})", Code.INTERNAL)
        self.call = call_name
        self.cause = cause

    @property
    def is_sticky(self) -> bool:
        """Whether the context is lost: nothing on the device can be used any more by this process."""
        return self.cause in STICKY


@functools.cache
def runtime() -> Any:
    """The module of the runtime API. Raises CudaUnavailable where cuda-python is not installed, or cannot be loaded."""
    try:
        from cuda.bindings import runtime as module
    except ImportError as error:
        module = _before_bindings("cudart", error)
    return module


@functools.cache
def driver() -> Any:
    """The module of the driver API; as runtime()."""
    try:
        from cuda.bindings import driver as module
    except ImportError as error:
        module = _before_bindings("cuda", error)
    return module


def _before_bindings(name: str, error: ImportError) -> Any:
    """What cuda-python 12.6.0 calls its modules."""
    try:
        if name == "cudart":
            from cuda import cudart as module
        else:
            from cuda import cuda as module
    except ImportError:
        raise CudaUnavailable(f"CUDA needs cuda-python: {error}; pip install 'penstock[gpu]'") from error
    return module


def is_present() -> bool:
    """Whether this process sees some GPU; gpus() says why not. Loads CUDA, but makes no context."""
    try:
        return bool(call("cudaGetDeviceCount"))
    except MachineError:
        return False


def failure(call_name: str, error: Any) -> MachineError:
    """The exception for an error that a call returned. The runtime forgets that it failed (cudaGetLastError)."""
    if isinstance(error, runtime().cudaError_t):
        names = (runtime().cudaGetErrorName(error)[1], runtime().cudaGetErrorString(error)[1])
        runtime().cudaGetLastError()
    else:
        names = (driver().cuGetErrorName(error)[1], driver().cuGetErrorString(error)[1])
    cause, meaning = ((name or b"unknown").decode() for name in names)
    if cause in UNUSABLE:
        return CudaUnavailable(f"this machine has no usable NVIDIA GPU or driver: {call_name} says {cause} ({meaning})")
    return CudaError(call_name, cause, meaning)


def check(call_name: str, result: tuple[Any, ...]) -> Any:
    """The results in what a call returned: None, the only one, or a tuple. Raises CudaError or CudaUnavailable."""
    if result[0]:
        raise failure(call_name, result[0])
    return None if len(result) == 1 else result[1] if len(result) == 2 else result[1:]


def call(name: str, *arguments: Any) -> Any:
    """Calls the runtime API; its results, as check() gives them."""
    return check(name, _called(getattr(runtime(), name), arguments))


def driver_call(name: str, *arguments: Any) -> Any:
    """Calls the driver API; its results, as check() gives them."""
    return check(name, _called(getattr(driver(), name), arguments))


def _called(function: Callable[..., tuple[Any, ...]], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        return function(*arguments)
    except RuntimeError as error:  # from the driver API, and before 12.9.1 from the runtime too: libcuda cannot be loaded
        raise CudaUnavailable(f"this machine has no NVIDIA driver: {error}") from error


def bound(name: str) -> Callable[..., Any]:
    """A checked call of the runtime API, looked up once: for what is called again and again."""
    function = getattr(runtime(), name)

    def checked(*arguments: Any) -> Any:
        result = function(*arguments)
        if result[0]:
            raise failure(name, result[0])
        return None if len(result) == 1 else result[1]

    return checked


def gpus() -> list[GpuInfo]:
    """Every device of this process, by ordinal. Makes no context. Raises CudaUnavailable where there is none."""
    return [_info(ordinal) for ordinal in range(call("cudaGetDeviceCount"))]


def _info(ordinal: int) -> GpuInfo:
    properties = call("cudaGetDeviceProperties", ordinal)
    name = _text(properties.name)
    return GpuInfo(
        ordinal=ordinal,
        uuid=uuid_text(properties.uuid.bytes, is_mig_name(name)),
        name=name,
        total_bytes=properties.totalGlobalMem,
        capability=(properties.major, properties.minor),
        pci_bus_id=_text(call("cudaDeviceGetPCIBusId", 32, ordinal)),
        is_mig=is_mig_name(name),
        is_integrated=bool(properties.integrated),
    )


def _text(octets: bytes) -> str:
    return octets.split(b"\0", 1)[0].decode()


def gpu_of_uuid(uuid: str) -> GpuInfo:
    """The device with this UUID. Raises MachineError naming those that this process can see."""
    found = gpus()
    for gpu in found:
        if gpu.uuid == uuid:
            return gpu
    seen = ", ".join(f"{gpu.ordinal}: {gpu.uuid}" for gpu in found)
    raise MachineError(f"no GPU {uuid} is visible to this process, which sees {seen}; CUDA_VISIBLE_DEVICES decides")


def use(ordinal: int) -> None:
    """Makes a device the calling thread's, and its primary context where there is none yet."""
    call("cudaSetDevice", ordinal)


def malloc(byte_size: int) -> int:
    """Device memory of the calling thread's device: its address, at a multiple of 256. Its content is undefined."""
    return int(call("cudaMalloc", byte_size))


def free(address: int) -> None:
    """Gives memory of malloc() back. The device finishes what it is doing first."""
    call("cudaFree", address)


def ipc_handle(address: int) -> bytes:
    """The 64 bytes by which another process opens the allocation that begins at `address`."""
    handle = call("cudaIpcGetMemHandle", address)
    return ctypes.string_at(int(handle.getPtr()), HANDLE_BYTES)


def open_ipc(handle: bytes) -> int:
    """Maps another process's allocation; its address here. Each open needs a close_ipc.

    Raises CudaError, for one when the handle is this process's own, or its exporter is gone.
    """
    if len(handle) != HANDLE_BYTES:
        raise invalid(f"a CUDA IPC handle has {HANDLE_BYTES} bytes, got {len(handle)}")
    struct = runtime().cudaIpcMemHandle_t()
    # bindings 13.4 took away its attribute `reserved`; the memory behind it is the same in all versions
    ctypes.memmove(int(struct.getPtr()), handle, HANDLE_BYTES)
    return int(call("cudaIpcOpenMemHandle", struct, runtime().cudaIpcMemLazyEnablePeerAccess))


def close_ipc(address: int) -> None:
    """Undoes one open_ipc. The caller has seen to it that the device uses the memory no more."""
    call("cudaIpcCloseMemHandle", address)


def address_range(address: int) -> tuple[int, int]:
    """First address and byte size of the allocation, or the mapping of one, that `address` lies in.

    The calling thread has a device (use): the driver API does not make a context by itself.
    """
    base, byte_size = driver_call("cuMemGetAddressRange", address)
    return int(base), int(byte_size)


class Memory(Enum):
    """What lies behind an address. Only DEVICE can be exported by ipc_handle."""

    DEVICE = "device"
    MANAGED = "managed"
    POOL = "pool"  # a stream-ordered pool's (cudaMallocAsync), or pieced together (cuMemCreate)
    HOST_PINNED = "pinned host"
    UNKNOWN = "unknown"  # host memory that CUDA knows nothing of, or no memory at all


class Pointer(NamedTuple):
    """What CUDA knows of an address: the kind of memory, and the device that it lies on or was made for; -1 for none."""

    kind: Memory
    ordinal: int


def pointer_kind(address: int) -> Pointer:
    """What lies behind an address of this process. An IPC mapping of DEVICE memory cannot be exported again: it is POOL."""
    types = runtime().cudaMemoryType
    attributes = call("cudaPointerGetAttributes", address)
    if attributes.type == types.cudaMemoryTypeDevice:
        exportable = driver().CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        kind = Memory.DEVICE if driver_call("cuPointerGetAttribute", exportable, address) else Memory.POOL
    elif attributes.type == types.cudaMemoryTypeManaged:
        kind = Memory.MANAGED
    elif attributes.type == types.cudaMemoryTypeHost:
        kind = Memory.HOST_PINNED
    else:
        return Pointer(Memory.UNKNOWN, -1)
    return Pointer(kind, attributes.device)


def copy(destination: int, source: int, byte_size: int) -> None:
    """Copies in any direction, after everything in the default stream, and returns when it is done."""
    call("cudaMemcpy", destination, source, byte_size, runtime().cudaMemcpyKind.cudaMemcpyDefault)
    call("cudaStreamSynchronize", 0)  # between two places on a device, and from pinned memory, cudaMemcpy may return early


def copy_async(destination: int, source: int, byte_size: int, stream: Any) -> None:
    """Puts a copy in any direction into a stream (a handle, or its address)."""
    call("cudaMemcpyAsync", destination, source, byte_size, runtime().cudaMemcpyKind.cudaMemcpyDefault, stream)
