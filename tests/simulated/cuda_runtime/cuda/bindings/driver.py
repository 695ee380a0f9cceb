# SPDX-License-Identifier: Apache-2.0
"""What the project and tritonclient use of cuda.bindings.driver, simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..simulation.errors import CUresult, DeviceFault
from ..simulation.machine import MACHINE
from ..simulation.memory import Kind
from ..simulation.types import CUdeviceptr, CUevent, CUgraphExec, CUmemoryPool, CUpointer_attribute, CUstream, cudaUUID_t

__all__ = [
    "CUdeviceptr", "CUevent", "CUgraphExec", "CUmemoryPool", "CUpointer_attribute", "CUresult", "CUstream", "cuDeviceGet",
    "cuDeviceGetCount", "cuDeviceGetUuid", "cuDevicePrimaryCtxGetState", "cuDriverGetVersion", "cuGetErrorName",
    "cuGetErrorString", "cuInit", "cuMemGetAddressRange", "cuPointerGetAttribute",
]  # fmt: skip

FIRST_OF_A_POOL = 0x9001


def _call(name: str, results: int, function: Callable[[], Any]) -> tuple[Any, ...]:
    with MACHINE.lock:
        try:
            MACHINE.enter(name)
            value = function()
        except DeviceFault as error:
            known = {one.value: one for one in CUresult}
            return (known.get(error.code.value, CUresult.CUDA_ERROR_UNKNOWN), *[None] * results)
    return (
        (CUresult.CUDA_SUCCESS,)
        if not results
        else (CUresult.CUDA_SUCCESS, value)
        if results == 1
        else (CUresult.CUDA_SUCCESS, *value)
    )


def cuInit(Flags: int) -> tuple[Any, ...]:
    return _call("cuInit", 0, lambda: MACHINE.device(0))


def cuDriverGetVersion() -> tuple[CUresult, int]:
    return CUresult.CUDA_SUCCESS, 13000


def cuGetErrorName(error: Any) -> tuple[CUresult, bytes]:
    return CUresult.CUDA_SUCCESS, CUresult(error).name.encode()


def cuGetErrorString(error: Any) -> tuple[CUresult, bytes]:
    return CUresult.CUDA_SUCCESS, CUresult(error).name.removeprefix("CUDA_ERROR_").replace("_", " ").lower().encode()


def cuDeviceGetCount() -> tuple[Any, ...]:
    return _call("cuDeviceGetCount", 1, lambda: len(MACHINE.devices))


def cuDeviceGet(ordinal: int) -> tuple[Any, ...]:
    return _call("cuDeviceGet", 1, lambda: (MACHINE.device(ordinal), ordinal)[1])


def cuDeviceGetUuid(dev: Any) -> tuple[Any, ...]:
    return _call("cuDeviceGetUuid", 1, lambda: cudaUUID_t(MACHINE.device(int(dev)).octets))


def cuDevicePrimaryCtxGetState(dev: Any) -> tuple[Any, ...]:
    ordinal = int(dev)
    return _call("cuDevicePrimaryCtxGetState", 2, lambda: (MACHINE.contexts.get(ordinal, 0), int(ordinal in MACHINE.contexts)))


def cuMemGetAddressRange(dptr: Any) -> tuple[Any, ...]:
    def find() -> tuple[CUdeviceptr, int]:
        one = _memory(int(dptr))
        return CUdeviceptr(one.address), one.extent

    return _call("cuMemGetAddressRange", 2, find)


def cuPointerGetAttribute(attribute: CUpointer_attribute, ptr: Any) -> tuple[Any, ...]:
    def get() -> Any:
        one = _memory(int(ptr))
        values = {
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE: 1 if one.kind.is_host else 2,
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_MANAGED: one.kind is Kind.MANAGED,
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: one.ordinal,
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: one.kind is Kind.DEVICE,
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: CUdeviceptr(one.address),
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_RANGE_SIZE: one.extent,
            CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: CUmemoryPool(FIRST_OF_A_POOL * (one.kind is Kind.POOL)),
        }
        return values[attribute]

    return _call("cuPointerGetAttribute", 1, get)


def _memory(address: int) -> Any:
    one = MACHINE.memory.around(address)
    if one is None or one.is_freed:
        raise DeviceFault("cudaErrorInvalidValue")
    return one
