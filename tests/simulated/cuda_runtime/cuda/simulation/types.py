# SPDX-License-Identifier: Apache-2.0
"""Enumerations, handles and structs, with the names and numbers of cuda-bindings 13."""

from __future__ import annotations

import ctypes
from enum import IntEnum


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaMemoryType(IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class cudaMemcpySrcAccessOrder(IntEnum):
    cudaMemcpySrcAccessOrderInvalid = 0
    cudaMemcpySrcAccessOrderStream = 1
    cudaMemcpySrcAccessOrderDuringApiCall = 2
    cudaMemcpySrcAccessOrderAny = 3


class cudaDeviceAttr(IntEnum):
    cudaDevAttrUnifiedAddressing = 41
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76
    cudaDevAttrManagedMemory = 83
    cudaDevAttrHostRegisterSupported = 99
    cudaDevAttrHostRegisterReadOnlySupported = 113
    cudaDevAttrMemoryPoolsSupported = 115
    cudaDevAttrIpcEventSupport = 125
    cudaDevAttrMpsEnabled = 133


class CUpointer_attribute(IntEnum):
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2
    CU_POINTER_ATTRIBUTE_IS_MANAGED = 8
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9
    CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE = 10
    CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11
    CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12
    CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE = 17


class Handle:
    """Something of CUDA's, by its address."""

    __slots__ = ("_value",)

    def __init__(self, init_value: int = 0) -> None:
        self._value = int(init_value)

    def __int__(self) -> int:
        return self._value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(other) == self._value  # type: ignore[call-overload]

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._value:#x}>"


class CUstream(Handle):
    """A stream."""


class CUevent(Handle):
    """An event."""


class cudaGraph_t(Handle):
    """A recorded graph."""


class CUgraphExec(Handle):
    """A graph that can be launched."""


class CUdeviceptr(Handle):
    """A device address."""


class CUmemoryPool(Handle):
    """A stream-ordered pool."""


class cudaStream_t(CUstream):
    """A stream."""


class cudaEvent_t(CUevent):
    """An event."""


class cudaGraphExec_t(CUgraphExec):
    """A graph that can be launched."""


class cudaIpcMemHandle_t:
    """64 bytes; as of bindings 13.4 they are reached by address only."""

    def __init__(self) -> None:
        self._octets = (ctypes.c_char * 64)()

    def getPtr(self) -> int:
        return ctypes.addressof(self._octets)


class cudaUUID_t:
    def __init__(self, octets: bytes) -> None:
        self.bytes = octets


class cudaDeviceProp:
    """What cudaGetDeviceProperties tells of a device."""

    def __init__(self, name: str, octets: bytes, total_bytes: int, bus: int) -> None:
        self.name = name.encode()
        self.uuid = cudaUUID_t(octets)
        self.totalGlobalMem = total_bytes
        self.major, self.minor = 9, 0
        self.integrated = 0
        self.multiProcessorCount = 132
        self.pciDomainID, self.pciBusID, self.pciDeviceID = 0, bus, 0


class cudaPointerAttributes:
    """What CUDA knows of an address."""

    def __init__(self, kind: cudaMemoryType, device: int, device_pointer: int, host_pointer: int) -> None:
        self.type = kind
        self.device = device
        self.devicePointer = device_pointer
        self.hostPointer = host_pointer


class cudaMemcpyAttributes:
    """How the copies of a batch read their sources."""

    def __init__(self) -> None:
        self.srcAccessOrder = cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderInvalid
        self.flags = 0


CONSTANTS = {
    "CUDA_IPC_HANDLE_SIZE": 64,
    "cudaDeviceScheduleAuto": 0,
    "cudaDeviceScheduleBlockingSync": 4,
    "cudaDeviceScheduleSpin": 1,
    "cudaEventBlockingSync": 1,
    "cudaEventDefault": 0,
    "cudaEventDisableTiming": 2,
    "cudaHostAllocPortable": 1,
    "cudaHostRegisterDefault": 0,
    "cudaHostRegisterPortable": 1,
    "cudaHostRegisterReadOnly": 8,
    "cudaInitDeviceFlagsAreValid": 1,
    "cudaIpcMemLazyEnablePeerAccess": 1,
    "cudaMemAttachGlobal": 1,
    "cudaStreamNonBlocking": 1,
}
"""The numbers that cuda.bindings.runtime has as plain integers."""
