# SPDX-License-Identifier: Apache-2.0
"""Copies between host and device, put into a stream: one call each, or one call for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ....ipc import cuda

if TYPE_CHECKING:
    from .streams import Stream

BATCHED_FROM = 4
"""From so many copies on they are put in by one call (cudaMemcpyBatchAsync, CUDA 12.8). cuda-python builds four lists for it
and looks at every element, which costs as much as two or three plain calls; the bench of the GPU path has both."""


class Copy(NamedTuple):
    """So many bytes from one address to another."""

    dst: int
    src: int
    byte_size: int


class CopyKind(Enum):
    """Between which memories: what CUDA calls the kind of a copy."""

    TO_DEVICE = "cudaMemcpyHostToDevice"
    FROM_DEVICE = "cudaMemcpyDeviceToHost"
    WITHIN_DEVICE = "cudaMemcpyDeviceToDevice"
    ANY = "cudaMemcpyDefault"  # CUDA looks at the addresses

    __hash__ = object.__hash__  # Enum's own is a call of Python for each copy; members are single objects


def copy_all(copies: Sequence[Copy], stream: Stream, kind: CopyKind = CopyKind.ANY, is_pinned: bool = True) -> None:
    """Puts copies into a stream, in no order among themselves: none may write what another reads or writes.

    Host memory is pinned, unless `is_pinned` is False: then it is read, and written, before this returns.
    """
    stream.copying.put(copies, kind, is_pinned)


def fill_zero(address: int, byte_size: int, stream: Stream) -> None:
    """Puts zeros into device memory, in stream order."""
    if byte_size:
        stream.copying.fill_zero(address, byte_size)


class Copying:
    """The calls by which copies get into one stream, looked up once. Which way is best is found out as they are made.

    A batched call that fails where single calls succeed is not tried again: the driver is older than cuda-python, or does not
    take what it is given. While a graph is captured copies are put in singly, which every driver can capture.
    """

    __slots__ = ("_attributes", "_batched", "_fill", "_is_captured", "_kinds", "_single", "_stream")

    def __init__(self, stream: Any) -> None:
        api = cuda.runtime()
        self._stream = stream
        self._single = api.cudaMemcpyAsync
        self._fill = cuda.bound("cudaMemsetAsync")
        self._kinds = {kind: getattr(api.cudaMemcpyKind, kind.value) for kind in CopyKind}
        #: cudaMemcpyBatchAsync; None where there is none, or it was refused
        self._batched: Any = getattr(api, "cudaMemcpyBatchAsync", None)
        self._is_captured = api.cudaStreamIsCapturing
        self._attributes: Any = None
        if self._batched is not None:
            self._attributes = api.cudaMemcpyAttributes()
            # sources are read in stream order, as by single copies: a kernel before them may have written them
            self._attributes.srcAccessOrder = api.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream

    def __repr__(self) -> str:
        return f"<Copying into {int(self._stream):#x}, {'one call for all' if self._batched else 'one call each'}>"

    @property
    def is_batched(self) -> bool:
        """Whether many copies are put in by one call."""
        return self._batched is not None

    def put(self, copies: Sequence[Copy], kind: CopyKind, is_pinned: bool = True) -> None:
        """See copy_all. Of pageable memory in a batch CUDA does not say when it is read: that is copied singly."""
        is_many = len(copies) >= BATCHED_FROM and self._batched is not None and is_pinned
        if is_many and not self._is_captured(self._stream)[1]:
            self._put_batched(copies, kind)
        else:
            self._put_singly(copies, kind)

    def fill_zero(self, address: int, byte_size: int) -> None:
        self._fill(address, 0, byte_size, self._stream)

    def check_invariants(self) -> None:
        """Raises AssertionError when there is a batched call without what it needs."""
        assert self._batched is None or self._attributes is not None, repr(self)

    def _put_singly(self, copies: Sequence[Copy], kind: CopyKind) -> None:
        put, way, stream = self._single, self._kinds[kind], self._stream
        for dst, src, byte_size in copies:
            if byte_size:
                error = put(dst, src, byte_size, way, stream)[0]
                if error:
                    raise cuda.failure("cudaMemcpyAsync", error)

    def _put_batched(self, copies: Sequence[Copy], kind: CopyKind) -> None:
        filled = [copy for copy in copies if copy.byte_size]  # an empty one fails the whole batch
        if not filled:
            return
        destinations, sources, sizes = (list(column) for column in zip(*filled, strict=True))
        # The result also says which copy failed before CUDA 13.
        error = self._batched(destinations, sources, sizes, len(filled), [self._attributes], [0], 1, self._stream)[0]
        if error:
            refusal = cuda.failure("cudaMemcpyBatchAsync", error)
            if isinstance(refusal, cuda.CudaError) and refusal.is_sticky:
                raise refusal
            self._put_singly(filled, kind)  # some may be put in twice, to the same effect
            self._batched = None
