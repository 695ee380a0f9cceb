# SPDX-License-Identifier: Apache-2.0
"""Which stretches of a region are free: first fit, neighbours merged. Pure."""

from __future__ import annotations

ALIGNMENT = 64
"""Tensors begin on cache lines: vector loads, and the GPU's copies, want no less."""


def aligned(byte_size: int) -> int:
    """Rounded up to ALIGNMENT."""
    return -(-byte_size // ALIGNMENT) * ALIGNMENT


class Extents:
    """The free stretches of `byte_size` bytes."""

    def __init__(self, byte_size: int) -> None:
        self.byte_size = byte_size
        #: (begin, end) of each free stretch: ascending, none empty, no two touching
        self._free: list[tuple[int, int]] = [(0, byte_size)]

    def __repr__(self) -> str:
        return f"<Extents {sum(end - begin for begin, end in self._free)} of {self.byte_size} bytes free>"

    def check_invariants(self) -> None:
        """Ascending, apart from each other, within bounds."""
        edges = [-1] + [edge for stretch in self._free for edge in stretch]
        assert all(edges[at] < edges[at + 1] for at in range(len(edges) - 1)), self._free
        assert edges[-1] <= self.byte_size, self._free

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in use."""
        return self._free == [(0, self.byte_size)]

    def take(self, byte_size: int) -> int | None:
        """Where `byte_size` bytes begin that are now in use; None when no free stretch is that long."""
        for at, (begin, end) in enumerate(self._free):
            if end - begin >= byte_size:
                self._free[at : at + 1] = [(begin + byte_size, end)] if end - begin > byte_size else []
                return begin
        return None

    def give(self, begin: int, byte_size: int) -> None:
        """These bytes are free again."""
        end = begin + byte_size
        kept: list[tuple[int, int]] = []
        for other_begin, other_end in self._free:
            assert other_end <= begin or end <= other_begin, (begin, byte_size, self._free)
            if other_end == begin:
                begin = other_begin
            elif other_begin == end:
                end = other_end
            else:
                kept.append((other_begin, other_end))
        self._free = sorted([*kept, (begin, end)])
