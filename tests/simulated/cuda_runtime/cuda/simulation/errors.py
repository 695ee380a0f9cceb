# SPDX-License-Identifier: Apache-2.0
"""The errors of the simulation, with the numbers and texts of the real ones."""

from __future__ import annotations

from enum import IntEnum


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInvalidDevicePointer = 17
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorInsufficientDriver = 35
    cudaErrorCallRequiresNewerDriver = 36
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorDeviceUninitialized = 201
    cudaErrorMapBufferObjectFailed = 205
    cudaErrorECCUncorrectable = 214
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchTimeout = 702
    cudaErrorAssert = 710
    cudaErrorHostMemoryAlreadyRegistered = 712
    cudaErrorHostMemoryNotRegistered = 713
    cudaErrorHardwareStackError = 714
    cudaErrorMisalignedAddress = 716
    cudaErrorLaunchFailure = 719
    cudaErrorNotSupported = 801
    cudaErrorSystemDriverMismatch = 803
    cudaErrorMpsClientTerminated = 810
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureMerge = 902
    cudaErrorStreamCaptureUnmatched = 903
    cudaErrorStreamCaptureUnjoined = 904
    cudaErrorStreamCaptureIsolation = 905
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorCapturedEvent = 907
    cudaErrorStreamCaptureWrongThread = 908
    cudaErrorUnknown = 999


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_LAUNCH_FAILED = 719
    CUDA_ERROR_UNKNOWN = 999


MEANINGS = {
    cudaError_t.cudaSuccess: "no error",
    cudaError_t.cudaErrorInvalidValue: "invalid argument",
    cudaError_t.cudaErrorMemoryAllocation: "out of memory",
    cudaError_t.cudaErrorInitializationError: "initialization error",
    cudaError_t.cudaErrorInvalidDevicePointer: "invalid device pointer",
    cudaError_t.cudaErrorInvalidMemcpyDirection: "invalid copy direction for memcpy",
    cudaError_t.cudaErrorInsufficientDriver: "CUDA driver version is insufficient for CUDA runtime version",
    cudaError_t.cudaErrorCallRequiresNewerDriver: "API call is not supported in the installed CUDA driver",
    cudaError_t.cudaErrorNoDevice: "no CUDA-capable device is detected",
    cudaError_t.cudaErrorInvalidDevice: "invalid device ordinal",
    cudaError_t.cudaErrorDeviceUninitialized: "invalid device context",
    cudaError_t.cudaErrorMapBufferObjectFailed: "mapping of buffer object failed",
    cudaError_t.cudaErrorECCUncorrectable: "uncorrectable ECC error encountered",
    cudaError_t.cudaErrorInvalidResourceHandle: "invalid resource handle",
    cudaError_t.cudaErrorIllegalState: "the operation cannot be performed in the present state",
    cudaError_t.cudaErrorNotReady: "device not ready",
    cudaError_t.cudaErrorIllegalAddress: "an illegal memory access was encountered",
    cudaError_t.cudaErrorLaunchTimeout: "the launch timed out and was terminated",
    cudaError_t.cudaErrorAssert: "device-side assert triggered",
    cudaError_t.cudaErrorHostMemoryAlreadyRegistered: "part or all of the requested memory range is already mapped",
    cudaError_t.cudaErrorHostMemoryNotRegistered: "pointer does not correspond to a registered memory region",
    cudaError_t.cudaErrorHardwareStackError: "hardware stack error",
    cudaError_t.cudaErrorMisalignedAddress: "misaligned address",
    cudaError_t.cudaErrorLaunchFailure: "unspecified launch failure",
    cudaError_t.cudaErrorNotSupported: "operation not supported",
    cudaError_t.cudaErrorSystemDriverMismatch: "system has unsupported display driver / cuda driver combination",
    cudaError_t.cudaErrorMpsClientTerminated: "the MPS client has been terminated by the server",
    cudaError_t.cudaErrorStreamCaptureUnsupported: "operation not permitted when stream is capturing",
    cudaError_t.cudaErrorStreamCaptureInvalidated: "operation failed due to a previous error during capture",
    cudaError_t.cudaErrorStreamCaptureMerge: "operation would result in a merge of separate capture sequences",
    cudaError_t.cudaErrorStreamCaptureUnmatched: "capture was not ended in the same stream as it began",
    cudaError_t.cudaErrorStreamCaptureUnjoined: "capturing stream has unjoined work",
    cudaError_t.cudaErrorStreamCaptureIsolation: "dependency created on uncaptured work in another stream",
    cudaError_t.cudaErrorStreamCaptureImplicit: "operation would make the legacy stream depend on a capturing blocking stream",
    cudaError_t.cudaErrorCapturedEvent: "operation not permitted on an event last recorded in a capturing stream",
    cudaError_t.cudaErrorStreamCaptureWrongThread: "attempt to terminate a thread-local capture sequence from another thread",
    cudaError_t.cudaErrorUnknown: "unknown error",
}

STICKY = frozenset(
    {
        cudaError_t.cudaErrorECCUncorrectable,
        cudaError_t.cudaErrorIllegalAddress,
        cudaError_t.cudaErrorLaunchTimeout,
        cudaError_t.cudaErrorAssert,
        cudaError_t.cudaErrorHardwareStackError,
        cudaError_t.cudaErrorMisalignedAddress,
        cudaError_t.cudaErrorLaunchFailure,
        cudaError_t.cudaErrorMpsClientTerminated,
    }
)


class DeviceFault(Exception):
    """An error by its name: a call returns it; work on the device that raises it loses the context."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.code = cudaError_t[name]
