# SPDX-License-Identifier: Apache-2.0
"""The host as a device: views on regions, one copy per run, and private memory that is used again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ipc.errors import PenstockError
from ..packing import Run
from ..region_table import MappedRegion, Octets, RegionTable

ALIGNMENT = 64
"""Private memory begins at a cache line."""


def view(region: MappedRegion, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """A tensor where it lies, at any byte offset."""
    tensor: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=region.array, offset=offset)
    return tensor


def gather(regions: RegionTable, runs: Sequence[Run], into: Octets) -> dict[int, PenstockError]:
    """Copies runs next to each other, one copy each; first request of a run -> why it could not be read.

    What could not be read is zeros: its request fails alone, and its neighbours are executed with something harmless.
    """
    failures: dict[int, PenstockError] = {}
    for run in runs:
        part = into[run.start : run.start + run.byte_size]
        try:
            regions[run.region].read(run.offset, part)
        except PenstockError as error:
            failures[run.first] = error
            part[...] = 0
    return failures


def scatter(regions: RegionTable, runs: Sequence[Run], source: Octets) -> dict[int, PenstockError]:
    """The reverse of gather, with the same result."""
    failures: dict[int, PenstockError] = {}
    for run in runs:
        try:
            regions[run.region].write(run.offset, source[run.start : run.start + run.byte_size])
        except PenstockError as error:
            failures[run.first] = error
    return failures


class Scratch:
    """Private memory by key, kept from batch to batch. It grows by powers of two and is overwritten by its next user."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, Octets] = {}

    def take(self, key: Hashable, byte_size: int) -> Octets:
        """`byte_size` bytes of undefined content, valid until the key is taken again."""
        block = self._blocks.get(key)
        if block is None or block.size < byte_size:
            capacity = 1 << max(byte_size - 1, ALIGNMENT - 1).bit_length()
            raw = np.empty(capacity + ALIGNMENT, np.uint8)
            begin = -raw.ctypes.data % ALIGNMENT
            block = self._blocks[key] = raw[begin : begin + capacity]
        return block[:byte_size]

    def clear(self) -> None:
        """Gives the memory back."""
        self._blocks.clear()

    def check_invariants(self) -> None:
        """Raises AssertionError when a block is misaligned."""
        assert all(block.ctypes.data % ALIGNMENT == 0 for block in self._blocks.values()), repr(self)

    def __repr__(self) -> str:
        return f"<Scratch {len(self._blocks)} blocks, {sum(block.size for block in self._blocks.values())} bytes>"
