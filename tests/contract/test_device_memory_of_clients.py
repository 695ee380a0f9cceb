# SPDX-License-Identifier: Apache-2.0
"""CUDA regions of a client, and arrays in them: what others see of them, what is refused, how long memory lives."""

from __future__ import annotations

import base64
import ctypes
import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_rig import CudaRig, Exporter, cuda_kind
from simulated.fixtures import SimulatedCuda

from penstock.clients import CallerError, Code, CudaRegion, DeviceArray
from penstock.clients.device_arrays import on_device
from penstock.ipc import cuda
from penstock.workers.devices.cuda import Device, Stream

__all__ = ["cuda_kind"]


@pytest.fixture
def region(cuda_kind: CudaRig) -> Iterator[CudaRegion]:
    with CudaRegion.allocate("r", 4096) as region:
        region.check_invariants()
        yield region
    region.check_invariants()


class Tensor:
    """An array of some library: of numbers, somewhere on a GPU."""

    def __init__(
        self, address: int, dtype: str, shape: Sequence[int], strides: Sequence[int] | None = None, stream: int | None = None
    ) -> None:
        self.asked: list[object] = []
        self.__cuda_array_interface__ = {
            "shape": tuple(shape), "typestr": dtype, "data": (address, False), "strides": strides, "version": 3, "stream": stream,
        }  # fmt: skip


class Exchanging(Tensor):
    """One of a library with DLPack."""

    def __dlpack__(self, stream: int | None = None) -> object:
        self.asked.append(stream)
        return object()


# --- regions ---------------------------------------------------------------------------------------------------------------


def test_fresh_memory_is_zeros_and_begins_where_a_handle_does(region: CudaRegion) -> None:
    """Given 4096 bytes, then they are the first of an allocation of whole 2 MiB, so that nothing else is shared with it."""
    assert not region.read(0, np.uint8, (4096,)).any()
    base, byte_size = cuda.address_range(region.memory.address)
    assert base == region.memory.address and byte_size % (2 << 20) == 0 and region.offset == 0
    assert region.uuid == cuda.gpus()[0].uuid
    assert cuda.gpus()[0].uuid in repr(region.registration(3)[0])


def test_what_is_written_is_seen_by_who_opens_the_handle(region: CudaRegion, cuda_kind: CudaRig) -> None:
    region.write(np.arange(4, dtype=np.uint8), 100)
    with Exporter(cuda_kind) as other:
        assert other.ask("look", region.handle.hex(), 98, 6) == "0 0 0 1 2 3"


def test_a_tensor_of_another_library_is_wrapped_where_it_lies(region: CudaRegion, cuda_kind: CudaRig) -> None:
    """Given a tensor within an allocation, then the region is its bytes, counted from the allocation's first, and keeps it."""
    tensor = Tensor(region.memory.address + 256, "<f4", (1, 3))
    region.write(np.array([1, 2, 3], np.float32), 256)
    kept = weakref.ref(tensor)
    with CudaRegion.wrap("w", tensor) as wrapped:
        assert (wrapped.offset, wrapped.byte_size, wrapped.handle) == (256, 12, region.handle)
        assert wrapped.read(0, np.float32, (3,)).tolist() == [1, 2, 3]
        del tensor
        gc.collect()
        assert kept() is not None
        with Exporter(cuda_kind) as other:
            content = other.ask("look", wrapped.handle.hex(), wrapped.offset, wrapped.byte_size)
        assert bytes(map(int, content.split())) == np.array([1, 2, 3], np.float32).tobytes()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(("call", "arguments", "text"), [
    ("cudaMallocAsync", (4096, 0), "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False"),
    ("cudaMallocManaged", (4096, 1), "managed memory has no IPC handle: allocate a region with CudaRegion.allocate and copy"),
    ("cudaMallocHost", (4096,), "it is host memory: use a MemfdRegion or SystemRegion"),
])  # fmt: skip
def test_memory_without_a_handle_is_refused_with_cause_and_way_out(
    cuda_kind: CudaRig, call: str, arguments: tuple[int, ...], text: str
) -> None:
    cuda.use(0)
    address = int(cuda.call(call, *arguments))
    cuda.call("cudaStreamSynchronize", 0)
    with pytest.raises(CallerError) as refused:
        CudaRegion.wrap("w", Tensor(address, "<f4", (4,)))
    assert refused.value.code is Code.UNSUPPORTED and text in refused.value.message and "region 'w'" in refused.value.message
    cuda.call("cudaFreeHost" if call == "cudaMallocHost" else "cudaFree", address)


@pytest.mark.parametrize(("value", "text"), [
    (np.ones(3), "wraps a tensor on a GPU that is not empty, given is array([1., 1., 1.])"),
    (Tensor(0, "<f4", (0, 3)), "a tensor on a GPU that is not empty"),
    (Tensor(0x1000, "<f4", (3,)), "is no memory that CUDA knows of"),
    (Tensor(0x1000, "<f4", (3, 2), (4, 12)), "float32[3, 2] on a GPU is not dense"),
])  # fmt: skip
def test_what_cannot_be_wrapped_is_refused(cuda_kind: CudaRig, value: object, text: str) -> None:
    with pytest.raises(CallerError) as refused:
        CudaRegion.wrap("w", value)
    assert text in refused.value.message


def test_a_gpu_that_is_not_there_has_no_memory(cuda_kind: CudaRig) -> None:
    with pytest.raises(CallerError, match="region 'r': there is no GPU 99; this process sees"):
        CudaRegion.allocate("r", 1, 99)
    with pytest.raises(CallerError, match="region 'r': byte_size must be at least 1, got 0"):
        CudaRegion.allocate("r", 0)


def test_slices_of_a_gpu_share_no_memory(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(mig=1)
    with pytest.raises(CallerError, match="region 'r': CUDA memory is not shared between MIG instances: use a MemfdRegion"):
        CudaRegion.allocate("r", 1)


def test_another_process_s_memory_is_used_by_its_raw_handle(cuda_kind: CudaRig) -> None:
    """Given base64 of 64 bytes, as tritonclient passes it on, then the region is opened when it is first looked at."""
    with Exporter(cuda_kind) as exporter:
        raw = base64.b64encode(exporter.allocate(2 << 20, 5))
        region = CudaRegion.from_raw_handle("f", raw, 16, offset=32)
        assert region.raw_handle() == raw
        register, fds = region.registration(4)
        assert (register.handle, register.offset, register.device_id, register.uuid, fds) == (region.handle, 32, 0, "", ())
        assert region.read(0, np.uint8, (2,)).tolist() == [5, 5]
        region.write(np.full(16, 6, np.uint8))
        assert exporter.ask("read") == "5 6"
        region.close()
        with pytest.raises(CallerError, match="region 'f' is closed"):
            _ = region.memory
        gc.collect()
        assert exporter.ask("free") == "freed"


@pytest.mark.parametrize(("raw", "text"), [
    (b"no base64!", "region 'f': a raw handle is base64"), (b"aGFuZGxl", "a raw handle has 64 bytes, got 6")
])  # fmt: skip
def test_a_raw_handle_has_its_form(raw: bytes, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        CudaRegion.from_raw_handle("f", raw, 16)


def test_memory_lives_as_long_as_somebody_looks_at_it(cuda_kind: CudaRig) -> None:
    """Given a region that is closed while an array on it is held, then the memory goes with the array."""
    region = CudaRegion.allocate("r", 64)
    array = region.view("FP32", [2, 2])
    region.close()
    region.close()
    array.write(np.ones((2, 2), np.float32))
    assert array.read().tolist() == [[1, 1], [1, 1]]
    address = array.address
    del array
    gc.collect()
    assert cuda.pointer_kind(address).kind is cuda.Memory.UNKNOWN


def test_a_program_s_own_choice_of_gpu_stays(simulated_cuda: SimulatedCuda) -> None:
    """Given a thread that uses the second GPU, then what is done on the first leaves it there."""
    simulated_cuda.configure(gpus=2)
    cuda.use(1)
    with CudaRegion.allocate("r", 64, device=0) as region:
        region.write(np.ones(4, np.uint8))
        assert cuda.call("cudaGetDevice") == 1
        assert region.memory.ordinal == 0 and cuda.pointer_kind(region.memory.address).ordinal == 0
    gc.collect()
    assert cuda.call("cudaGetDevice") == 1


# --- arrays ----------------------------------------------------------------------------------------------------------------


def test_arrays_are_cut_and_seen_in_other_ways(region: CudaRegion) -> None:
    region.write(np.arange(12, dtype=np.int32), 64)
    array = region.array(64, np.int32, (3, 4))
    assert (array.shape, array.ndim, array.size, array.nbytes, len(array)) == ((3, 4), 2, 12, 48, 3)
    assert array[1:3].read().tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert array[5:].shape == (0, 4)
    assert array.reshape((12,)).view(np.int16).shape == (24,)
    array[1:2] = np.full((1, 4), -1, np.int32)
    array[2:3] = array[0:1]
    assert array.read().tolist() == [[0, 1, 2, 3], [-1] * 4, [0, 1, 2, 3]]
    array[...] = np.zeros((3, 4), np.int32)
    assert not array.read().any()
    for wrong in (lambda: array[0], lambda: array[::2]):
        with pytest.raises(TypeError, match="sliced along its first dimension"):
            wrong()
    with pytest.raises(ValueError, match="cannot be given the shape"):
        array.reshape((5,))
    with pytest.raises(ValueError, match="cannot be seen as"):
        region.array(0, np.uint8, (3,)).view(np.int16)
    with pytest.raises(CallerError, match=r"region 'r' has 4096 bytes; int32\[1024\] at 4 needs 4096"):
        region.array(4, np.int32, (1024,))
    with pytest.raises(CallerError, match=r"int32\[3, 4\] on cuda:0 is to be written, given is float64\[3, 4\]"):
        array.write(np.ones((3, 4)))


def test_numpy_does_not_take_it_for_its_own(region: CudaRegion) -> None:
    with pytest.raises(TypeError, match=r"is not in the CPU's memory: use its read\(\)"):
        np.asarray(region.memory)


def test_copies_come_after_what_is_in_their_stream(cuda_kind: CudaRig, region: CudaRegion) -> None:
    """Given a stream that runs late, then a write into it is seen by a read from it, and by nobody before it is synchronised."""
    with Device(0, blocking=True) as device, Stream(device) as stream:
        for number, given in enumerate((stream.address, _Named("cuda_stream", stream), _Named("ptr", stream), _New(stream))):
            region.write(np.full(8, number + 1, np.uint8), stream=given)
            assert region.read(0, np.uint8, (8,), stream=given).tolist() == [number + 1] * 8
        with pytest.raises(CallerError, match="given is a str"):
            region.write(np.zeros(8, np.uint8), stream="s")


class _Named:
    def __init__(self, name: str, stream: Stream) -> None:
        setattr(self, name, stream.address)


class _New:
    """As the CUDA core libraries say it."""

    def __init__(self, stream: Stream) -> None:
        self._address = stream.address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


def test_the_interface_of_cuda_arrays_is_kept(region: CudaRegion) -> None:
    array = region.view("FP16", [1, 2, 3], 512)
    facts = array.__cuda_array_interface__
    assert facts == {
        "shape": (1, 2, 3), "typestr": "<f2", "data": (region.memory.address + 512, False), "strides": None, "version": 3,
    }  # fmt: skip
    again = on_device(Tensor(address=facts["data"][0], dtype=facts["typestr"], shape=facts["shape"]))
    assert again is not None and again.shape == array.shape and again.address == array.address


def test_a_library_is_told_that_the_default_stream_waits_for_it(region: CudaRegion) -> None:
    """Given one with DLPack, then it is asked for a capsule in the default stream; given one without, its stream is waited for."""
    address = region.memory.address
    tensor = Exchanging(address, "<f4", (1, 2))
    assert on_device(tensor) is not None and tensor.asked == [1]
    assert on_device(Tensor(address, "<f4", (2,), stream=1)) is not None


class Refusing(Tensor):
    """What torch does with a tensor on another GPU than its current one."""

    def __dlpack__(self, stream: int | None = None) -> object:
        raise BufferError("Can't export tensors on a different CUDA device index.")


def test_a_library_that_gives_no_capsule_is_waited_for_with_the_whole_gpu(region: CudaRegion, cuda_kind: CudaRig) -> None:
    """Given one whose kernel has not run yet, in a stream that nobody knows, then it has run when the array is taken."""
    address = region.memory.address
    with Device(0, blocking=True) as device, Stream(device) as stream:
        add = cuda_kind.adding_one(address, 4)
        add(stream)
        array = on_device(Refusing(address, "|u1", (4,)))
        assert stream.is_idle() and array is not None
        assert array.read().tolist() == [1, 1, 1, 1]


def test_the_stride_of_a_dimension_of_one_means_nothing(region: CudaRegion) -> None:
    """Given a batch of one, whose first stride libraries fill in as they like, then it is dense."""
    address = region.memory.address
    assert on_device(Tensor(address, "<f4", (1, 2, 3), (999, 12, 4))) is not None
    with pytest.raises(CallerError, match="is not dense"):
        on_device(Tensor(address, "<f4", (2, 2, 3), (999, 12, 4)))


class _Grad:
    """What torch does with a tensor that requires a gradient."""

    @property
    def __cuda_array_interface__(self) -> object:
        raise RuntimeError("use tensor.detach()")


def test_what_a_library_does_not_let_go_is_refused_in_its_words() -> None:
    with pytest.raises(CallerError, match=r"the array on a GPU cannot be used: use tensor.detach\(\)"):
        on_device(_Grad())


# --- DLPack ----------------------------------------------------------------------------------------------------------------


class Consumer:
    """Takes a capsule over as libraries do: reads the structure of dlpack.h, renames the capsule, and calls the deleter."""

    def __init__(self, capsule: Any) -> None:
        name = b"dltensor_versioned" if "versioned" in repr(capsule) else b"dltensor"
        pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )
        rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))
        self._at = pointer(capsule, name)
        self._used = b"used_" + name
        rename(capsule, self._used)
        words = (ctypes.c_uint64 * 10).from_address(self._at)
        if name == b"dltensor":
            tensor, self._deleter = 0, words[7]
        else:
            self.version = tuple((ctypes.c_uint32 * 2).from_address(self._at))
            assert words[3] == 0, "flags: writable, not a copy"
            tensor, self._deleter = 4, words[2]
        self.data = words[tensor]
        self.device = tuple((ctypes.c_int32 * 2).from_address(self._at + 8 * (tensor + 1)))
        self.ndim = ctypes.c_int32.from_address(self._at + 8 * (tensor + 2)).value
        code, bits = (ctypes.c_uint8 * 2).from_address(self._at + 8 * (tensor + 2) + 4)
        self.dtype = code, bits
        self.shape = list((ctypes.c_int64 * self.ndim).from_address(words[tensor + 3]))
        self.strides = list((ctypes.c_int64 * self.ndim).from_address(words[tensor + 4]))

    def delete(self) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._deleter)(self._at)


class Owner:
    """Memory, as far as arrays know."""


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 3)])
def test_a_capsule_says_what_the_array_is_and_keeps_its_memory(version: tuple[int, int] | None) -> None:
    owner = Owner()
    kept = weakref.ref(owner)
    array = DeviceArray(owner, 3, 0x7000, np.float16, (1, 2, 5))
    assert array.__dlpack_device__() == (2, 3)
    consumer = Consumer(array.__dlpack__(max_version=version))
    assert (consumer.data, consumer.device, consumer.ndim, consumer.dtype) == (0x7000, (2, 3), 3, (2, 16))
    assert (consumer.shape, consumer.strides) == ([1, 2, 5], [10, 5, 1])
    assert getattr(consumer, "version", None) == ((1, 0) if version and version[0] else None)
    del array, owner
    gc.collect()
    assert kept() is not None
    consumer.delete()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_capsule_that_nobody_takes_keeps_nothing(version: tuple[int, int] | None) -> None:
    owner = Owner()
    kept = weakref.ref(owner)
    capsule = DeviceArray(owner, 0, 0x7000, np.int64, (4,)).__dlpack__(max_version=version)
    del owner
    gc.collect()
    assert kept() is not None
    del capsule
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(("datatype", "code"), [
    ("BOOL", (6, 8)), ("UINT8", (1, 8)), ("INT64", (0, 64)), ("FP64", (2, 64)), ("BF16", (1, 16)),
])  # fmt: skip
def test_every_datatype_has_its_code(region: CudaRegion, datatype: str, code: tuple[int, int]) -> None:
    consumer = Consumer(region.view(datatype, [2]).__dlpack__())
    assert consumer.dtype == code
    consumer.delete()


def test_an_array_is_neither_copied_nor_moved_for_a_consumer() -> None:
    array = DeviceArray(None, 0, 0x7000, np.int64, (4,))
    for asked in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="neither copied nor moved"):
            array.__dlpack__(**asked)  # type: ignore[arg-type]  # one of each
