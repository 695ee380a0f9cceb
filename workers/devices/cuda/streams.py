# SPDX-License-Identifier: Apache-2.0
"""A queue of work on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ipc import cuda
from .copies import Copying
from .owner import Owner

if TYPE_CHECKING:
    from .device import Device
    from .events import Event


class Stream(Owner):
    """Work in the order in which it was put in. It does not wait for the default stream, nor the default stream for it.

    `handle` is what cuda-python takes without making an object per call, `address` what TensorRT and torch take. A lower
    `priority` is served first; CUDA brings it into the device's range.
    """

    __slots__ = ("_query", "_synchronize", "_wait", "address", "copying", "device", "handle", "priority")

    def __init__(self, device: Device, priority: int = 0) -> None:
        super().__init__()
        self.device = device
        self.priority = priority
        api = cuda.runtime()
        device.use()
        self.handle: Any = cuda.call("cudaStreamCreateWithPriority", api.cudaStreamNonBlocking, priority)
        self.address = int(self.handle)
        self.copying = Copying(self.handle)
        self._query = api.cudaStreamQuery
        self._synchronize = cuda.bound("cudaStreamSynchronize")
        self._wait = cuda.bound("cudaStreamWaitEvent")

    def __repr__(self) -> str:
        return f"<Stream {self.address:#x} on device {self.device.ordinal}{self._state()}>"

    def wait(self, event: Event) -> None:
        """What is put in from now on runs after what `event` recorded last; nothing waits for an event never recorded."""
        self._wait(self.handle, event.handle, 0)

    def synchronize(self) -> None:
        """Waits until everything in the stream is done."""
        self._synchronize(self.handle)

    def is_idle(self) -> bool:
        """Whether everything in the stream is done."""
        error = self._query(self.handle)[0]
        if error and error != NOT_READY:
            raise cuda.failure("cudaStreamQuery", error)
        return not error

    def check_invariants(self) -> None:
        """Raises AssertionError when this is the default stream, on which everything else would wait."""
        assert self.is_closed or self.address > 2, repr(self)  # 0 and 1 are the legacy stream, 2 is the thread's
        self.copying.check_invariants()

    def _release(self) -> None:
        cuda.call("cudaStreamDestroy", self.handle)


NOT_READY = 600
"""cudaErrorNotReady: not a failure, but the answer "no"."""
