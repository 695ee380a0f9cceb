# SPDX-License-Identifier: Apache-2.0
"""One GPU, and this process's context on it."""

from __future__ import annotations

from ....ipc import cuda
from .owner import Owner


class Device(Owner):
    """A GPU with its primary context, which TensorRT, torch and onnxruntime in this process share.

    `blocking`: a thread that waits for the device sleeps; else it spins, which is faster by some microseconds and costs a core.
    An event says for itself how it is waited for. The context ends with the process, never before: what shares it cannot know.
    """

    __slots__ = ("blocking", "info", "ordinal")

    def __init__(self, ordinal: int, blocking: bool) -> None:
        super().__init__()
        self.ordinal = ordinal
        self.blocking = blocking
        api = cuda.runtime()
        flags = api.cudaDeviceScheduleBlockingSync if blocking else api.cudaDeviceScheduleSpin
        self.info = self._described()
        cuda.call("cudaInitDevice", ordinal, flags, api.cudaInitDeviceFlagsAreValid)
        self.use()

    def __repr__(self) -> str:
        return f"<Device {self.ordinal}: {self.info.name} {self.info.uuid}{self._state()}>"

    @property
    def uuid(self) -> str:
        return self.info.uuid

    def use(self) -> None:
        """Makes this the calling thread's device: each thread that makes streams, events or buffers on it says so once."""
        cuda.use(self.ordinal)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device, whoever uses it. Other processes may change that at any moment."""
        self.use()
        free, total = cuda.call("cudaMemGetInfo")
        return free, total

    @property
    def is_mps(self) -> bool:
        """Whether this process shares the GPU through an MPS daemon. CUDA does without a word when there is none."""
        attribute = getattr(cuda.runtime().cudaDeviceAttr, "cudaDevAttrMpsEnabled", None)
        return attribute is not None and bool(cuda.call("cudaDeviceGetAttribute", attribute, self.ordinal))

    def synchronize(self) -> None:
        """Waits until the device has done all that this process gave it, in any stream."""
        self.use()
        cuda.call("cudaDeviceSynchronize")

    def check_invariants(self) -> None:
        """Raises AssertionError when this is not the device that it was opened as."""
        assert self.info.ordinal == self.ordinal, repr(self)

    def _described(self) -> cuda.GpuInfo:
        found = cuda.gpus()
        for info in found:
            if info.ordinal == self.ordinal:
                return info
        raise cuda.CudaUnavailable(f"there is no GPU {self.ordinal}: this process sees {len(found)}, counted from 0")

    def _release(self) -> None:
        self.synchronize()  # a process that ends with work in flight disturbs its neighbours under MPS (its manual, 2.3.3)
