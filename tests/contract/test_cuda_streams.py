# SPDX-License-Identifier: Apache-2.0
"""Streams and events: what is put in runs in order, across streams where one waits, and can be asked about and timed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cuda_rig import CudaRig, bytes_at, put_bytes, raises_cuda, to_device

from penstock.ipc import cuda
from penstock.workers.devices.cuda import Copy, CopyKind, Device, DeviceBuffer, Event, PinnedBuffer, Stream, copy_all


def test_a_device_says_what_it_is(device: Device) -> None:
    free, total = device.memory()
    assert 0 < free <= total <= device.info.total_bytes
    assert device.uuid.startswith(("GPU-", "MIG-")) and cuda.gpu_of_uuid(device.uuid).ordinal == 0
    assert device.uuid in repr(device)


def test_a_device_that_is_not_there_is_named_with_how_many_there_are(cuda_kind: CudaRig) -> None:
    with pytest.raises(cuda.CudaUnavailable, match="there is no GPU 99: this process sees"):
        Device(99, blocking=False)
    with pytest.raises(cuda.MachineError, match="no GPU GPU-none is visible"):
        cuda.gpu_of_uuid("GPU-none")


def test_what_is_put_into_a_stream_runs_in_order(cuda_kind: CudaRig, stream: Stream) -> None:
    with PinnedBuffer(256) as source, DeviceBuffer(256) as buffer, PinnedBuffer(256) as result, Event() as done:
        add = cuda_kind.adding_one(buffer.address, 256)
        # Given a copy, two kernels, and a copy back, in a stream
        source.array[:] = 40
        to_device(stream, source, buffer)
        add(stream)
        add(stream)
        copy_all([Copy(result.address, buffer.address, 256)], stream, CopyKind.FROM_DEVICE)
        done.record(stream)
        # When the event is passed
        done.synchronize()
        # Then each has seen what the one before it did
        assert done.is_done() and stream.is_idle()
        assert set(result.array.tolist()) == {42}


def test_a_stream_waits_for_what_another_recorded(cuda_kind: CudaRig, device: Device, stream: Stream) -> None:
    with Stream(device, priority=-1) as other, PinnedBuffer(256) as source, DeviceBuffer(256) as buffer, Event() as copied:
        add = cuda_kind.adding_one(buffer.address, 256)
        source.array[:] = 7
        to_device(stream, source, buffer)
        copied.record(stream)
        other.wait(copied)
        add(other)
        other.synchronize()
        assert set(bytes_at(buffer.address, 256).tolist()) == {8}


def test_an_event_that_was_never_recorded_is_done_and_keeps_nobody(device: Device, stream: Stream) -> None:
    with Event() as never:
        assert never.is_done()
        never.synchronize()
        stream.wait(never)
        stream.synchronize()


def test_an_event_recorded_again_stands_for_the_last_time(cuda_kind: CudaRig, stream: Stream) -> None:
    with DeviceBuffer(256) as buffer, PinnedBuffer(256) as source, Event() as event:
        source.array[:] = 1
        event.record(stream)
        to_device(stream, source, buffer)
        event.record(stream)
        event.synchronize()
        assert set(bytes_at(buffer.address, 256).tolist()) == {1}


def test_timed_events_tell_how_long_it_took(cuda_kind: CudaRig, stream: Stream) -> None:
    with DeviceBuffer(1 << 20) as buffer, Event(timed=True, blocking=True) as begin, Event(timed=True) as end, Event() as plain:
        begin.record(stream)
        cuda.call("cudaMemsetAsync", buffer.address, 1, buffer.byte_size, stream.handle)
        end.record(stream)
        plain.record(stream)
        end.synchronize()
        assert 0 < end.ns_since(begin) < 10_000_000_000
        plain.synchronize()
        with raises_cuda("cudaErrorInvalidResourceHandle"):
            plain.ns_since(begin)
        assert "timed, blocking" in repr(begin)


def test_one_thread_waits_while_another_puts_in(cuda_kind: CudaRig, device: Device, stream: Stream) -> None:
    with PinnedBuffer(256) as source, DeviceBuffer(256) as buffer, Event(blocking=True) as done:
        source.array[:] = 3
        to_device(stream, source, buffer)
        done.record(stream)

        def wait() -> None:
            device.use()
            done.synchronize()

        waiter = threading.Thread(target=wait)
        waiter.start()
        to_device(stream, source, buffer)
        waiter.join()
        assert done.is_done()
        stream.synchronize()


def test_pageable_memory_may_be_changed_as_soon_as_the_call_is_back(device: Device, stream: Stream) -> None:
    octets = np.full(4096, 5, np.uint8)
    with DeviceBuffer(4096) as buffer:
        copy_all([Copy(buffer.address, octets.ctypes.data, 4096)], stream, CopyKind.TO_DEVICE)
        octets[:] = 0
        stream.synchronize()
        assert set(bytes_at(buffer.address, 4096).tolist()) == {5}
        copy_all([Copy(octets.ctypes.data, buffer.address, 4096)], stream, CopyKind.FROM_DEVICE)
        assert set(octets.tolist()) == {5}  # and the copy to it is done then


def test_what_is_closed_is_closed_once_and_says_so(device: Device) -> None:
    stream, event, buffer, pinned = Stream(device), Event(), DeviceBuffer(1), PinnedBuffer(1)
    for owner in (stream, event, buffer, pinned):
        owner.check_invariants()
        owner.close()
        owner.close()
        owner.check_invariants()
        assert "closed" in repr(owner)
    assert (buffer.byte_size, pinned.byte_size, pinned.array.size) == (256, 256, 0)


def test_copies_in_one_call_and_singly_come_to_the_same(device: Device, stream: Stream) -> None:
    values = np.arange(4096, dtype=np.int64).astype(np.uint8)
    with DeviceBuffer(4096) as buffer, PinnedBuffer(4096) as source, PinnedBuffer(4096) as result:
        source.array[:] = values
        pieces = [(0, 1000), (1000, 0), (1000, 24), (1024, 72), (1096, 1000), (2096, 2000)]
        for kind, begins in ((CopyKind.TO_DEVICE, (buffer, source)), (CopyKind.FROM_DEVICE, (result, buffer))):
            into, out_of = (memory.address for memory in begins)
            copy_all([Copy(into + at, out_of + at, byte_size) for at, byte_size in pieces], stream, kind)
        copy_all([Copy(buffer.address, source.address, 0)] * 9, stream)
        stream.synchronize()
        assert np.array_equal(result.array[:4096], values)
        assert "<Copying into" in repr(stream.copying)


def test_memory_is_put_and_read_without_a_stream(device: Device) -> None:
    values = np.frombuffer(bytes(range(256)), np.uint8)
    with DeviceBuffer(256) as buffer, DeviceBuffer(256) as other:
        put_bytes(buffer, values)
        cuda.copy(other.address, buffer.address, 256)
        assert np.array_equal(bytes_at(other.address, 256), values)
