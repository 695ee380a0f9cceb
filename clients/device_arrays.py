# SPDX-License-Identifier: Apache-2.0
"""Arrays in the memory of a GPU, as every library there takes them: __cuda_array_interface__ and DLPack, nothing copied.

This process need have no other CUDA library. What is copied to and from the CPU is copied by ipc/cuda.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ipc import cuda
from ..ipc.errors import invalid
from .capsules import VERSION, capsule

CUDA = 2
"""kDLCUDA in dlpack.h."""
LEGACY_STREAM = 1
"""The default stream, in the words of DLPack and of __cuda_array_interface__."""


class DeviceArray:
    """A dense array on GPU `ordinal`, in this process's numbering. `owner` keeps the memory, and is kept by the array.

    It can be sliced along its first dimension, given another dtype or shape, written and read. For more give it to a library:
    `cupy.asarray(array)`, `torch.from_dlpack(array)`, `numba.cuda.as_cuda_array(array)`; they share its memory and keep it.
    """

    __slots__ = ("address", "dtype", "ordinal", "owner", "shape")

    def __init__(self, owner: object, ordinal: int, address: int, dtype: npt.DTypeLike, shape: Sequence[int]) -> None:
        self.owner = owner
        self.ordinal = ordinal
        self.address = address
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.shape = tuple(shape)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)} on cuda:{self.ordinal} at {self.address:#x}>"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    # --- other views of the same memory -----------------------------------------------------------------------------------

    def __getitem__(self, key: slice) -> DeviceArray:
        if not isinstance(key, slice) or key.step not in (None, 1) or not self.shape:
            raise TypeError(
                f"{self!r} can be sliced along its first dimension; for more: cupy.asarray(array), torch.from_dlpack(array)"
            )
        begin, end, _ = key.indices(self.shape[0])
        row = prod(self.shape[1:]) * self.dtype.itemsize
        shape = (max(end - begin, 0), *self.shape[1:])
        return DeviceArray(self.owner, self.ordinal, self.address + begin * row, self.dtype, shape)

    def view(self, dtype: npt.DTypeLike) -> DeviceArray:
        """The same bytes as elements of another type. Raises ValueError where they do not go into it."""
        wanted = np.dtype(dtype)
        *lead, last = self.shape
        count, rest = divmod(last * self.dtype.itemsize, wanted.itemsize)
        if rest:
            raise ValueError(f"{self!r} cannot be seen as {wanted}: its rows have {last * self.dtype.itemsize} bytes")
        return DeviceArray(self.owner, self.ordinal, self.address, wanted, (*lead, count))

    def reshape(self, shape: Sequence[int]) -> DeviceArray:
        """The same elements in another shape. Raises ValueError where there are not as many."""
        if prod(shape) != self.size:
            raise ValueError(f"{self!r} cannot be given the shape {list(shape)}")
        return DeviceArray(self.owner, self.ordinal, self.address, self.dtype, shape)

    def kept_by(self, owner: object) -> DeviceArray:
        """The same array, which keeps `owner` as well."""
        return DeviceArray((owner, self.owner), self.ordinal, self.address, self.dtype, self.shape)

    # --- the CPU's side ---------------------------------------------------------------------------------------------------

    def write(self, values: object, stream: object = None) -> None:
        """Copies an array of the same shape and dtype into it: numpy's, or one on a GPU.

        Without a stream it is done when this returns. With one (its handle as an int, or an object with __cuda_stream__,
        `cuda_stream` or `ptr`) it is only put there: synchronise the stream before the request is sent, since no worker can
        wait for it, and leave pinned `values` as they are until then.
        """
        source = values if isinstance(values, DeviceArray) else on_device(values)
        if source is None:
            host = np.ascontiguousarray(values, self.dtype if not hasattr(values, "dtype") else None)
            self._check(host.shape, host.dtype)
            self._copy(self.address, host.ctypes.data, stream)
        else:
            self._check(source.shape, source.dtype)
            self._copy(self.address, source.address, stream)

    def read(self, stream: object = None) -> npt.NDArray[Any]:
        """The array as numpy's, after what is in the stream; complete when this returns."""
        found: npt.NDArray[Any] = np.empty(self.shape, self.dtype)
        self._copy(found.ctypes.data, self.address, stream)
        if stream is not None:
            cuda.call("cudaStreamSynchronize", stream_handle(stream))
        return found

    def __setitem__(self, key: slice | Any, values: object) -> None:
        """Writes all of it (`array[...] = values`), or rows of it."""
        (self if key is Ellipsis else self[key]).write(values)

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise TypeError(f"{self!r} is not in the CPU's memory: use its read()")

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.shape or dtype != self.dtype:
            raise invalid(
                f"{self.dtype}{list(self.shape)} on cuda:{self.ordinal} is to be written, given is {dtype}{list(shape)}"
            )

    def _copy(self, destination: int, source: int, stream: object) -> None:
        if self.nbytes:
            with on(self.ordinal):
                if stream is None:
                    cuda.copy(destination, source, self.nbytes)
                else:
                    cuda.copy_async(destination, source, self.nbytes, stream_handle(stream))

    # --- the GPU's side ---------------------------------------------------------------------------------------------------

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. There is nothing to be waited for: what a worker wrote was complete when its result came."""
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address if self.size else 0, False),
            "strides": None, "version": 3,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.ordinal

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None, dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:  # fmt: skip
        """A capsule for torch.from_dlpack and its like; as of DLPack 1.0 where the consumer understands that."""
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError(f"{self!r} is given as it is: neither copied nor moved to {dl_device}")
        versioned = max_version is not None and max_version[0] >= VERSION[0]
        return capsule(self.owner, self.address, self.dtype, self.shape, self.__dlpack_device__(), versioned)


def is_on_device(value: Any) -> bool:
    """Whether a value is an array on a GPU. Raises CallerError for one that its library does not let go."""
    return isinstance(value, DeviceArray) or _interface(value) is not None


def on_device(value: Any) -> DeviceArray | None:
    """Another library's array on a GPU as one of ours, which keeps it; None for what is none.

    The library has been told that the default stream is to wait for what it is still computing. Raises CallerError for one that
    is not dense, or is no memory of a GPU.
    """
    if isinstance(value, DeviceArray):
        return value
    facts = _interface(value)
    if facts is None:
        return None
    shape, dtype, strides = tuple(facts["shape"]), np.dtype(facts["typestr"]), facts.get("strides")
    if strides is not None and prod(shape) and not _is_dense(shape, strides, dtype.itemsize):
        raise invalid(
            f"the {dtype}{list(shape)} on a GPU is not dense: copy it first (cupy.ascontiguousarray, tensor.contiguous())"
        )
    address = facts["data"][0]
    ordinal = cuda.pointer_kind(address).ordinal if prod(shape) else 0
    if ordinal < 0:
        raise invalid(f"the {dtype}{list(shape)} at {address:#x} is no memory that CUDA knows of")
    _await(value, facts.get("stream"), ordinal)
    return DeviceArray(value, ordinal, address, dtype, shape)


def _await(value: Any, stream: int | None, ordinal: int) -> None:
    """What is done next in the default stream comes after what the array's library has put into its own."""
    if hasattr(value, "__dlpack__"):
        try:
            value.__dlpack__(stream=LEGACY_STREAM)  # which is what asking for a capsule means; nobody takes it
        except BufferError:  # torch: it lies on another GPU than torch's current one, or older: it is of bool
            with on(ordinal):
                cuda.call("cudaDeviceSynchronize")
    elif stream is not None:
        cuda.call("cudaStreamSynchronize", stream)


def _interface(value: Any) -> Any:
    try:
        return getattr(value, "__cuda_array_interface__", None)
    except (RuntimeError, TypeError) as error:  # torch: it requires a gradient, or has a type that numpy has not
        raise invalid(f"the array on a GPU cannot be used: {error}") from error


def _is_dense(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """In rows, one behind the other. The stride of a dimension of one means nothing."""
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


@contextmanager
def on(ordinal: int) -> Iterator[None]:
    """Makes a GPU the thread's own for a while: the program's libraries go by the one that it chose."""
    before = cuda.call("cudaGetDevice")
    cuda.use(ordinal)
    try:
        yield
    finally:
        if before != ordinal:
            cuda.use(before)


def stream_handle(stream: Any) -> int:
    """The handle of a stream of any library. Raises CallerError for what is none."""
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # torch, cupy
        if hasattr(stream, name):
            return int(getattr(stream, name))
    try:
        return int(stream)
    except (TypeError, ValueError):
        raise invalid(
            f"a CUDA stream is its handle, or has __cuda_stream__, cuda_stream or ptr; given is a {type(stream).__name__}"
        ) from None
