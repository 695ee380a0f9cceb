# SPDX-License-Identifier: Apache-2.0
"""Host memory that is there already, pinned for the device: a client's region, mapped by this worker."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence

from ....ipc import cuda
from .copies import Copy
from .owner import Owner

CHUNK_BYTES = 1 << 30
"""Pinning holds locks of the driver that every CUDA process on the machine waits for, at about 0.1 s per GB; and some kernels
(Linux 6.11 to 6.13) pin at most 2 GB at once."""


class HostRegistration(Owner):
    """The whole pages of `byte_size` bytes from `address` on, pinned; the device then copies from and to them by itself.

    The memory is the caller's, and stays mapped until after close(). `read_only` is for a mapping that may not be written. What
    is pinned already, by anyone in this process, is refused: cudaErrorHostMemoryAlreadyRegistered. All is pinned or nothing.
    """

    __slots__ = ("_chunks", "address", "byte_size", "read_only")

    def __init__(self, address: int, byte_size: int, read_only: bool = False) -> None:
        super().__init__()
        self.address = address
        self.byte_size = byte_size
        self.read_only = read_only
        #: where each pinned chunk begins, rising; each ends where the next begins
        self._chunks: list[int] = []
        api = cuda.runtime()
        flags = api.cudaHostRegisterPortable | (api.cudaHostRegisterReadOnly if read_only else 0)
        begin, end = _pages(address, byte_size)
        try:
            for start in range(begin, end, CHUNK_BYTES):
                cuda.call("cudaHostRegister", start, min(CHUNK_BYTES, end - start), flags)
                self._chunks.append(start)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        chunks = f"{len(self._chunks)} chunk{'s' if len(self._chunks) != 1 else ''}"
        return f"<HostRegistration of {self.byte_size} bytes at {self.address:#x}, {chunks}{self._state()}>"

    @property
    def is_divided(self) -> bool:
        """Whether it has more than one chunk, so that a copy may have to be divided."""
        return len(self._chunks) > 1

    def divided(self, copies: Sequence[Copy]) -> Sequence[Copy]:
        """The same copies, none across the border of two chunks: CUDA takes a copy within one registration only."""
        if not self.is_divided:
            return copies
        return [piece for copy in copies for piece in self._pieces(copy)]

    def check_invariants(self) -> None:
        """Raises AssertionError when other than the whole pages of the memory are pinned."""
        begin, end = _pages(self.address, self.byte_size)
        assert self._chunks == ([] if self.is_closed else list(range(begin, end, CHUNK_BYTES))), repr(self)

    def _pieces(self, copy: Copy) -> list[Copy]:
        begin, end = _pages(self.address, self.byte_size)
        host = copy.src if begin <= copy.src < end else copy.dst
        cuts = [chunk - host for chunk in self._chunks if host < chunk < host + copy.byte_size]
        edges = [0, *cuts, copy.byte_size]
        return [Copy(copy.dst + start, copy.src + start, stop - start) for start, stop in itertools.pairwise(edges)]

    def _release(self) -> None:
        while self._chunks:
            cuda.call("cudaHostUnregister", self._chunks.pop())


def _pages(address: int, byte_size: int) -> tuple[int, int]:
    begin = address - address % mmap.PAGESIZE
    end = address + max(byte_size, 1)
    return begin, end + -end % mmap.PAGESIZE
