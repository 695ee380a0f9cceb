# SPDX-License-Identifier: Apache-2.0
"""Regions: shared memory that a client registers with the broker under a name.

A MemfdRegion has no other name and dies with its last user. A SystemRegion is a POSIX segment with a key, which other programs
know it by, and which whoever made it must unlink. CUDA memory is in cuda_regions.py.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..ipc.errors import invalid
from ..ipc.messages import Register
from ..ipc.regions import Mapping, create_memfd
from ..ipc.system_regions import create_system, open_system, unlink_system
from ..ipc.tensors import byte_size as tensor_bytes
from ..ipc.tensors import numpy_dtype

R = TypeVar("R", bound="Region")


class Placed(NamedTuple):
    """A tensor of a request that lies in a region of the caller's own. For an output, `byte_size` is its capacity."""

    region: Region
    datatype: str
    shape: tuple[int, ...]
    offset: int
    byte_size: int


class Region(ABC):
    """Shared memory that this process can use. `memory` is all of it as bytes, valid for as long as a view on it lives."""

    kind: ClassVar[Literal["memfd", "system", "cuda"]]

    def __init__(self, name: str, byte_size: int, offset: int = 0) -> None:
        self.name = name
        self.byte_size = byte_size
        self.offset = offset

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.byte_size} bytes{' closed' if self.closed else ''}>"

    @abstractmethod
    def check_invariants(self) -> None:
        """What is open is all there, what is closed is not."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close` was called."""

    @property
    @abstractmethod
    def memory(self) -> Any:
        """The memory, as an array of bytes: numpy's, or a DeviceArray."""

    def view(self, datatype: str, shape: Sequence[int], offset: int = 0) -> Any:
        """A tensor of the region as an array, to be read and written in place."""
        size = self._tensor_bytes(datatype, shape, offset)
        return self.memory[offset : offset + size].view(numpy_dtype(datatype)).reshape(tuple(shape))

    def tensor(self, datatype: str, shape: Sequence[int], offset: int = 0) -> Placed:
        """A tensor of the region, to be given to `Client.infer` as an input, or as the place of an output."""
        return Placed(self, datatype, tuple(shape), offset, self._tensor_bytes(datatype, shape, offset))

    def _tensor_bytes(self, datatype: str, shape: Sequence[int], offset: int) -> int:
        size = tensor_bytes(datatype, shape)
        if size is None:
            raise invalid(f"region '{self.name}': {datatype} {list(shape)} has no fixed size")
        if offset < 0 or offset + size > self.byte_size:
            raise invalid(f"region '{self.name}' has {self.byte_size} bytes; {datatype} {list(shape)} at {offset} needs {size}")
        return size

    @abstractmethod
    def registration(self, number: int) -> tuple[Register, tuple[int, ...]]:
        """The message that registers it, and the descriptors that go with it."""

    def unlink(self) -> None:  # noqa: B027 - most regions have no key to be removed
        """Removes the key, where this region has one and made it. The memory stays with those who have it. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Gives the memory up; views stay valid. Idempotent."""

    def __enter__(self: R) -> R:  # noqa: PYI019 - typing.Self came with Python 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class HostRegion(Region):
    """Shared memory mapped into this process."""

    def __init__(self, name: str, fd: int, byte_size: int, offset: int = 0) -> None:
        super().__init__(name, byte_size, offset)
        self._fd = fd
        try:
            self._mapping = Mapping(fd, byte_size, offset)
        except BaseException:
            os.close(fd)
            raise

    def check_invariants(self) -> None:
        """The descriptor is open just as long as the mapping is."""
        self._mapping.check_invariants()
        assert (self._fd < 0) == self._mapping.closed, self

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._mapping.closed

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The memory, as bytes."""
        return self._mapping.array

    @property
    def memory(self) -> npt.NDArray[np.uint8]:
        """The same."""
        return self._mapping.array

    def view(self, datatype: str, shape: Sequence[int], offset: int = 0) -> npt.NDArray[Any]:
        """A tensor of the region as an array, to be read and written in place."""
        found: npt.NDArray[Any] = super().view(datatype, shape, offset)
        return found

    def close(self) -> None:
        """Gives the memory up; views stay valid, and the broker keeps its own hold until it is unregistered. Idempotent."""
        self._mapping.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemfdRegion(HostRegion):
    """Fresh sealed memory without a key. For the local link, which hands descriptors over."""

    kind = "memfd"

    def __init__(self, name: str, byte_size: int) -> None:
        super().__init__(name, create_memfd(f"penstock-{name}"[:200], byte_size), byte_size)

    def registration(self, number: int) -> tuple[Register, tuple[int, ...]]:
        """Register, with the descriptor."""
        return Register(number, self.name, self.kind, self.byte_size, fds=1), (self._fd,)


class SystemRegion(HostRegion):
    """A POSIX shared memory segment: Triton's `system` kind. Made with `create` or `attach`."""

    kind = "system"

    def __init__(self, name: str, key: str, fd: int, byte_size: int, offset: int, owned: bool) -> None:
        self.key = key
        self._owned = owned
        super().__init__(name, fd, byte_size, offset)

    @classmethod
    def create(cls, name: str, key: str, byte_size: int) -> SystemRegion:
        """A fresh segment. Its key is unlinked by `close`. Raises CallerError when it exists, MachineError without memory."""
        return cls(name, key, create_system(key, byte_size), byte_size, 0, owned=True)

    @classmethod
    def attach(cls, name: str, key: str, byte_size: int, offset: int = 0) -> SystemRegion:
        """A segment that another program made, and will unlink."""
        return cls(name, key, open_system(key), byte_size, offset, owned=False)

    def registration(self, number: int) -> tuple[Register, tuple[int, ...]]:
        """Register, with the key."""
        return Register(number, self.name, self.kind, self.byte_size, self.key, self.offset), ()

    def unlink(self) -> None:
        """Nobody can open the segment by its key any more."""
        if self._owned:
            self._owned = False
            unlink_system(self.key)

    def close(self) -> None:
        """As for every region; also unlinks the key, where this process made it."""
        self.unlink()
        super().close()


def make_region(kind: Literal["memfd", "system", "cuda"], name: str, byte_size: int, device: int = 0) -> Region:
    """A fresh region that nobody knows yet. A system region's key has this process's pid in it; `device` is for a cuda one."""
    if kind == "cuda":
        from .cuda_regions import CudaRegion  # here: it builds on this module, and most programs have no use for it

        return CudaRegion.allocate(name, byte_size, device)
    if kind == "memfd":
        return MemfdRegion(name, byte_size)
    return SystemRegion.create(name, f"penstock-{os.getpid()}-{name.removeprefix('~')}", byte_size)
