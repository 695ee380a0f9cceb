# SPDX-License-Identifier: Apache-2.0
"""Enumerations that are the same in all versions, dims, and blocks of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class ErrorCode(IntEnum):
    SUCCESS = 0
    INTERNAL_ERROR = 1
    MEM_ALLOC_FAILED = 2
    MODEL_DESERIALIZE_FAILED = 3
    INVALID_VALUE = 4
    INVALID_GRAPH = 5
    INVALID_NODE = 6
    UNSUPPORTED_GRAPH = 7
    UNSUPPORTED_NODE = 8


class Dims:
    MAX_DIMS = 8

    def __init__(self, shape: Iterable[int] = ()) -> None:
        self._sizes = tuple(int(size) for size in shape)
        self._length = len(self._sizes)
        if self._length > self.MAX_DIMS:
            raise ValueError(f"Input length {self._length}. Max expected length is 8")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and self._sizes == tuple(other)

    def __hash__(self) -> int:
        return hash(self._sizes)

    def __repr__(self) -> str:
        return str(self._sizes)


def no_dims() -> Dims:
    """What stands for a shape that there is none of: of length -1, which Python takes for no length (ValueError)."""
    dims = Dims()
    dims._length = -1
    return dims


class IHostMemory(bytes):
    """Bytes, as the real one offers them by the buffer protocol."""

    @property
    def nbytes(self) -> int:
        return len(self)


def sizes(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)
