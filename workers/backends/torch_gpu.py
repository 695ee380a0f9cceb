# SPDX-License-Identifier: Apache-2.0
"""Torch on one GPU, in memory and streams that are the worker's. All that the pytorch backend needs of torch.cuda is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...ipc.errors import Code, MachineError
from .on_device import DeviceTensor
from .torch_models import DTYPES, torch

if TYPE_CHECKING:
    from ..devices.cuda import Stream

MOST_VIEWS = 4096
"""Tensors over device memory that are kept: making one costs microseconds, and slots do not move."""


class TorchGpu:
    """One GPU, for one thread."""

    def __init__(self, ordinal: int) -> None:
        if not torch.cuda.is_available():
            built = torch.version.cuda
            why = f"it was built for CUDA {built}, and finds no driver for that" if built else "it was built without CUDA"
            raise MachineError(
                f"torch {torch.__version__} cannot use the GPU: {why}; install a build that can", Code.UNSUPPORTED
            )
        torch.cuda.set_device(ordinal)
        self._device = torch.device("cuda", ordinal)
        #: address of a stream -> torch's object of it
        self._streams: dict[int, Any] = {}
        self._current = 0
        #: where -> a tensor there; it owns nothing, so that one of memory which is gone does no harm as long as nobody asks
        self._views: dict[DeviceTensor, torch.Tensor] = {}

    def __repr__(self) -> str:
        return f"<TorchGpu {self.name}, {len(self._streams)} streams, {len(self._views)} views>"

    @property
    def name(self) -> str:
        """As torch calls it: cuda:0."""
        return str(self._device)

    def use(self, stream: Stream) -> None:
        """What torch does from now on, memory included, it does in this stream."""
        if stream.address != self._current:
            torch.cuda.set_stream(self._external(stream))
            self._current = stream.address

    def view(self, tensor: DeviceTensor) -> torch.Tensor:
        """The device memory as a tensor, without a copy."""
        view = self._views.get(tensor)
        if view is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            view = self._views[tensor] = self._made(tensor)
        return view

    def capture(self, function: Callable[[], object], stream: Stream, pool: Any) -> Any:
        """A CUDA graph of what `function` puts into the stream, which must have been there before. `.replay()` runs it.

        `pool`: what `pool()` gave for the lane; graphs that never run at once share memory. Raises what torch raises.
        """
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: the process has no other that computes, but CUDA may be called to register memory.
        with torch.cuda.graph(graph, pool=pool, stream=self._external(stream), capture_error_mode="thread_local"):
            function()
        return graph

    def pool(self) -> Any:
        """Memory that graphs may share."""
        return torch.cuda.graph_pool_handle()

    def clean(self) -> None:
        """Gives memory that torch keeps for later back to the device."""
        torch.cuda.empty_cache()

    def _external(self, stream: Stream) -> Any:
        found = self._streams.get(stream.address)
        if found is None:
            found = self._streams[stream.address] = torch.cuda.ExternalStream(stream.address, device=self._device)
        return found

    def _made(self, tensor: DeviceTensor) -> torch.Tensor:
        """As bytes first, and then as what it is: the interface's type codes know no BF16."""
        dtype = DTYPES[tensor.datatype]
        if tensor.byte_size == 0:
            return torch.empty(tensor.shape, dtype=dtype, device=self._device)
        flat = torch.as_tensor(_Interface(tensor.address, tensor.byte_size), device=self._device)
        return flat.view(dtype).view(tensor.shape)


class _Interface:
    """Bytes of device memory, as the CUDA Array Interface describes them."""

    def __init__(self, address: int, byte_size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (byte_size,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 2,
        }  # fmt: skip
