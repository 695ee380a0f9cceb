# SPDX-License-Identifier: Apache-2.0
"""Work recorded once and put into a stream by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....ipc import cuda
from .owner import Owner

if TYPE_CHECKING:
    from .streams import Stream


class Graph(Owner):
    """What a function put into a stream, ready to be launched. Addresses in it stay as they were captured.

    Two launches of one graph never overlap: what is to run at once needs a graph each.
    """

    __slots__ = ("_executable", "_launch")

    def __init__(self, executable: Any) -> None:
        super().__init__()
        self._executable = executable
        self._launch = cuda.bound("cudaGraphLaunch")

    @classmethod
    def capture(cls, stream: Stream, function: Callable[[], None]) -> Graph:
        """Records what `function` puts into the stream; nothing of it is executed.

        Only the calling thread is held to what is allowed meanwhile. Raises what `function` raises, and CudaError when
        something in it cannot be recorded; the stream is as before then.
        """
        mode = cuda.runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            function()
        except BaseException:
            _discard(cuda.runtime().cudaStreamEndCapture(stream.handle))
            raise
        recorded = cuda.call("cudaStreamEndCapture", stream.handle)
        try:
            return cls(cuda.call("cudaGraphInstantiate", recorded, 0))
        finally:
            cuda.call("cudaGraphDestroy", recorded)

    def __repr__(self) -> str:
        return f"<Graph {int(self._executable):#x}{self._state()}>"

    def launch(self, stream: Stream) -> None:
        """Puts the recorded work into a stream."""
        self._launch(self._executable, stream.handle)

    def upload(self, stream: Stream) -> None:
        """Brings the graph to the device, so that its first launch is as fast as the others."""
        cuda.call("cudaGraphUpload", self._executable, stream.handle)

    def check_invariants(self) -> None:
        """Raises AssertionError when there is no graph."""
        assert self.is_closed or int(self._executable), repr(self)

    def _release(self) -> None:
        cuda.call("cudaGraphExecDestroy", self._executable)


def _discard(ended: tuple[Any, Any]) -> None:
    """Throws away a capture whose function failed. That it could not be ended well is a consequence, and is no news."""
    error, recorded = ended
    if error:
        cuda.runtime().cudaGetLastError()
    elif recorded is not None:
        cuda.call("cudaGraphDestroy", recorded)
