# SPDX-License-Identifier: Apache-2.0
"""Memory: what CUDA knows of an address, host memory that is registered, and device memory of another process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import numpy as np
import pytest
from cuda_rig import CudaRig, Exporter, bytes_at, raises_cuda

from penstock.ipc import cuda
from penstock.ipc.errors import CallerError
from penstock.workers.devices.cuda import (
    Copy,
    CopyKind,
    Device,
    DeviceBuffer,
    HostRegistration,
    PinnedBuffer,
    Stream,
    copy_all,
    registration,
)

PAGE = mmap.PAGESIZE


@pytest.fixture
def pages() -> Iterator[int]:
    """The address of eight pages that nobody has pinned."""
    memory = mmap.mmap(-1, 8 * PAGE)
    octets = ctypes.c_uint8.from_buffer(memory)
    yield ctypes.addressof(octets)
    del octets
    memory.close()


def test_every_kind_of_memory_is_known_for_what_it_is(device: Device, stream: Stream) -> None:
    ordinary = np.zeros(16, np.uint8)
    managed = cuda.call("cudaMallocManaged", 4096, cuda.runtime().cudaMemAttachGlobal)
    pooled = cuda.call("cudaMallocAsync", 4096, stream.handle)
    stream.synchronize()
    with DeviceBuffer(4096) as buffer, PinnedBuffer(256) as pinned:
        kinds = {
            cuda.Memory.DEVICE: buffer.address,
            cuda.Memory.MANAGED: managed,
            cuda.Memory.POOL: pooled,
            cuda.Memory.HOST_PINNED: pinned.address,
        }
        assert {kind: cuda.pointer_kind(address) for kind, address in kinds.items()} == {
            kind: cuda.Pointer(kind, 0) for kind in kinds
        }
        assert cuda.pointer_kind(ordinary.ctypes.data).kind is cuda.Memory.UNKNOWN
        begin, byte_size = cuda.address_range(buffer.address + 100)
        assert begin <= buffer.address and begin + byte_size >= buffer.address + 4096
        for address in (managed, pooled):
            with raises_cuda("cudaIpcGetMemHandle failed"):
                cuda.ipc_handle(address)
    cuda.free(managed)
    cuda.call("cudaFreeAsync", pooled, stream.handle)


def test_registered_memory_is_pinned_until_it_is_given_back(device: Device, stream: Stream, pages: int) -> None:
    with HostRegistration(pages + 100, PAGE) as registered, DeviceBuffer(PAGE) as buffer:
        registered.check_invariants()
        assert cuda.pointer_kind(pages).kind is cuda.Memory.HOST_PINNED
        assert cuda.pointer_kind(pages + PAGE).kind is cuda.Memory.HOST_PINNED  # whole pages, and so two
        ctypes.memset(pages + 100, 6, PAGE)
        copies = [Copy(buffer.address, pages + 100, PAGE)]
        assert registered.divided(copies) is copies
        copy_all(copies, stream, CopyKind.TO_DEVICE)
        stream.synchronize()
        assert set(bytes_at(buffer.address, PAGE).tolist()) == {6}
    registered.check_invariants()
    assert cuda.pointer_kind(pages).kind is cuda.Memory.UNKNOWN
    HostRegistration(pages, 8 * PAGE).close()


def test_memory_is_registered_once_and_the_second_time_is_refused_by_name(device: Device, pages: int) -> None:
    with HostRegistration(pages, 2 * PAGE):
        with raises_cuda("cudaHostRegister failed: cudaErrorHostMemoryAlreadyRegistered"):
            HostRegistration(pages, 2 * PAGE)
        assert cuda.pointer_kind(pages).kind is cuda.Memory.HOST_PINNED


def test_much_memory_is_registered_in_chunks(
    device: Device, stream: Stream, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "CHUNK_BYTES", 2 * PAGE)
    with HostRegistration(pages, 7 * PAGE) as registered, DeviceBuffer(7 * PAGE) as buffer:
        registered.check_invariants()
        assert "4 chunks" in repr(registered)
        octets = (ctypes.c_uint8 * (7 * PAGE)).from_address(pages)
        values = np.ctypeslib.as_array(octets)
        values[:] = np.arange(7 * PAGE, dtype=np.int64) % 251
        # Given copies across the borders of chunks, in both directions
        there = registered.divided([Copy(buffer.address + 10, pages + 10, 5 * PAGE), Copy(buffer.address, pages, 10)])
        assert [copy.byte_size for copy in there] == [2 * PAGE - 10, 2 * PAGE, PAGE + 10, 10]
        copy_all(there, stream, CopyKind.TO_DEVICE)
        stream.synchronize()
        expected = values[: 5 * PAGE + 10].copy()
        values[:] = 0
        # When they are divided there, then all arrives
        copy_all(registered.divided([Copy(pages, buffer.address, 5 * PAGE + 10)]), stream, CopyKind.FROM_DEVICE)
        stream.synchronize()
        assert np.array_equal(values[: 5 * PAGE + 10], expected)
        assert not values[5 * PAGE + 10 :].any()


def test_all_is_registered_or_nothing(device: Device, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "CHUNK_BYTES", 2 * PAGE)
    with HostRegistration(pages + 4 * PAGE, PAGE):
        with raises_cuda("cudaErrorHostMemoryAlreadyRegistered"):
            HostRegistration(pages, 6 * PAGE)
        assert cuda.pointer_kind(pages).kind is cuda.Memory.UNKNOWN
        HostRegistration(pages, 4 * PAGE).close()


def test_a_mapping_that_may_not_be_written_is_registered_for_reading(
    cuda_kind: CudaRig, device: Device, stream: Stream
) -> None:
    supported = cuda.runtime().cudaDeviceAttr.cudaDevAttrHostRegisterReadOnlySupported
    if not cuda.call("cudaDeviceGetAttribute", supported, 0):
        pytest.skip("this GPU cannot register memory that may only be read")
    with mmap.mmap(-1, PAGE, prot=mmap.PROT_READ) as memory:
        address = np.frombuffer(memory, np.uint8).ctypes.data
        with pytest.raises(cuda.CudaError):
            HostRegistration(address, PAGE)
        with HostRegistration(address, PAGE, read_only=True), DeviceBuffer(PAGE) as buffer:
            copy_all([Copy(buffer.address, address, PAGE)], stream, CopyKind.TO_DEVICE)
            stream.synchronize()
            assert not bytes_at(buffer.address, PAGE).any()


def test_another_process_s_memory_is_read_and_written(cuda_kind: CudaRig, device: Device) -> None:
    with Exporter(cuda_kind) as exporter:
        # Given memory of another process
        handle = exporter.allocate(2 << 20, 17)
        # When it is opened here twice
        address = cuda.open_ipc(handle)
        assert cuda.open_ipc(handle) == address
        # Then it is there, and stays until it is closed twice
        assert set(bytes_at(address, 2 << 20).tolist()) == {17}
        cuda.close_ipc(address)
        octets = np.full(2 << 20, 18, np.uint8)
        cuda.copy(address, octets.ctypes.data, octets.size)
        assert exporter.ask("read") == "18"
        begin, byte_size = cuda.address_range(address)
        assert begin <= address and begin + byte_size >= address + (2 << 20)
        cuda.close_ipc(address)
        assert exporter.ask("free") == "freed"


def test_a_process_cannot_open_its_own_memory(device: Device) -> None:
    with DeviceBuffer(2 << 20) as buffer:
        with pytest.raises(cuda.CudaError) as failed:
            cuda.open_ipc(cuda.ipc_handle(buffer.address))
        assert not failed.value.is_sticky


def test_what_is_no_handle_is_refused(device: Device) -> None:
    with pytest.raises(CallerError, match="a CUDA IPC handle has 64 bytes, got 3"):
        cuda.open_ipc(b"abc")
    with pytest.raises(cuda.CudaError) as failed:
        cuda.open_ipc(bytes(64))
    assert failed.value.call == "cudaIpcOpenMemHandle" and not failed.value.is_sticky


def test_memory_of_a_process_that_is_gone_cannot_be_opened(cuda_kind: CudaRig, device: Device) -> None:
    with Exporter(cuda_kind) as exporter:
        handle = exporter.allocate(2 << 20, 1)
        exporter.kill()
        with pytest.raises(cuda.CudaError) as failed:
            cuda.open_ipc(handle)
        assert not failed.value.is_sticky
