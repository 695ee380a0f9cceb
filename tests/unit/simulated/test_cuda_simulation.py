# SPDX-License-Identifier: Apache-2.0
"""The simulation itself: work is late, memory read too early or used too long is noticed, and failures come as ordered."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest
from simulated.fixtures import SimulatedCuda

from penstock.ipc import cuda
from penstock.workers.devices.cuda import (
    Copy,
    CopyKind,
    Device,
    DeviceBuffer,
    Event,
    HostRegistration,
    PinnedBuffer,
    Stream,
    copy_all,
    fill_zero,
)


def _bytes(simulated: SimulatedCuda, buffer: DeviceBuffer) -> set[int]:
    return set(simulated.simulation.view(buffer.address, buffer.byte_size).tolist())


def test_work_is_done_at_the_third_question(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(256) as buffer, Event() as event:
        fill_zero(buffer.address, 256, stream)
        event.record(stream)
        assert simulated_cuda.simulation.pending(stream.handle) == 2
        assert [event.is_done(), event.is_done()] == [False, False]
        assert 0 not in _bytes(simulated_cuda, buffer)
        assert event.is_done() and stream.is_idle()
        assert _bytes(simulated_cuda, buffer) == {0}


def test_new_memory_is_not_zero(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True), DeviceBuffer(256) as buffer, PinnedBuffer(256) as pinned:
        assert 0 not in _bytes(simulated_cuda, buffer)
        assert pinned.array.all()


def test_pinned_memory_that_is_used_again_too_early_is_seen_with_its_new_content(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(256) as buffer, PinnedBuffer(256) as source:
        source.array[:] = 1
        copy_all([Copy(buffer.address, source.address, 256)], stream)
        source.array[:] = 2
        stream.synchronize()
        assert _bytes(simulated_cuda, buffer) == {2}


def test_a_stream_that_does_not_wait_may_come_first(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, Stream(device) as other, DeviceBuffer(256) as buffer:
        seen: set[int] = set()
        fill_zero(buffer.address, 256, stream)
        simulated_cuda.simulation.enqueue(other.handle, lambda: seen.update(_bytes(simulated_cuda, buffer)))
        other.synchronize()
        assert seen == {0xCD}
        stream.synchronize()
        assert _bytes(simulated_cuda, buffer) == {0}


def test_an_event_and_a_stream_are_of_one_device(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(gpus=2)
    with Device(0, True) as first, Device(1, True), Event(timed=True) as event, Stream(first) as stream:
        with pytest.raises(cuda.CudaError, match="cudaErrorInvalidResourceHandle"):  # the event is the second device's
            event.record(stream)
        with Event(timed=True) as other:
            other.record(stream)


def test_an_event_recorded_after_the_wait_keeps_nobody(simulated_cuda: SimulatedCuda) -> None:
    with (
        Device(0, True) as device,
        Stream(device) as stream,
        Stream(device) as other,
        Event() as event,
        DeviceBuffer(1) as buffer,
    ):
        other.wait(event)
        fill_zero(buffer.address, 256, stream)
        event.record(stream)
        other.synchronize()
        assert 0 not in _bytes(simulated_cuda, buffer)
        stream.synchronize()


@pytest.mark.parametrize("overrun", [1, 4 << 20])
def test_a_copy_out_of_bounds_loses_the_context_and_is_a_violation(simulated_cuda: SimulatedCuda, overrun: int) -> None:
    simulated_cuda.forgive()
    device = Device(0, True)
    stream, buffer, source = Stream(device), DeviceBuffer(256), np.zeros(256 + overrun, np.uint8)
    copy_all([Copy(buffer.address, source.ctypes.data, source.size)], stream)
    with pytest.raises(cuda.CudaError) as failed:
        stream.synchronize()
    assert failed.value.is_sticky and failed.value.cause == "cudaErrorIllegalAddress"
    with pytest.raises(cuda.CudaError, match="cudaErrorIllegalAddress"):
        cuda.malloc(1)
    for owner in (buffer, stream, device):
        owner.close()  # says nothing: what there was is lost with the context
    (violation,) = simulated_cuda.simulation.take_violations()
    assert "out of bounds" in violation


def test_memory_that_is_given_back_while_it_is_used_is_a_violation(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, PinnedBuffer(256) as source:
        buffer = DeviceBuffer(256)
        copy_all([Copy(buffer.address, source.address, 256)], stream)
        buffer.close()
        (violation,) = simulated_cuda.simulation.take_violations()
        assert "given back with work in flight" in violation
        with pytest.raises(simulated_cuda.simulation.DeviceFault):
            simulated_cuda.simulation.view(buffer.address, 1)
        (violation,) = simulated_cuda.simulation.take_violations()
        assert "used after they were given back" in violation


def test_copies_of_one_batch_that_depend_on_each_other_are_a_violation(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(256) as one, DeviceBuffer(256) as two:
        copies = [Copy(one.address + 8 * n, two.address + 8 * n, 8) for n in range(4)] + [Copy(two.address, one.address, 8)]
        copy_all(copies, stream, CopyKind.WITHIN_DEVICE)
        stream.synchronize()
        (violation,) = simulated_cuda.simulation.take_violations()
        assert "copies of one batch" in violation


def test_a_kernel_that_raises_is_a_launch_failure(simulated_cuda: SimulatedCuda) -> None:
    def kernel() -> None:
        raise ZeroDivisionError("in a kernel")

    with Device(0, True) as device, Stream(device) as stream:
        simulated_cuda.simulation.enqueue(stream.handle, kernel)
        with pytest.raises(cuda.CudaError, match="cudaErrorLaunchFailure"):
            stream.synchronize()
        assert "in a kernel" in simulated_cuda.simulation.take_violations()[0]


def test_a_paused_device_answers_no_and_keeps_who_waits(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(256) as buffer, Event() as event:
        simulated_cuda.pause()
        fill_zero(buffer.address, 256, stream)
        event.record(stream)
        assert not any(event.is_done() for _ in range(20))
        waiter = threading.Thread(target=event.synchronize)
        waiter.start()
        assert waiter.is_alive() and not event.is_done()
        simulated_cuda.resume()
        waiter.join()
        assert event.is_done()


def test_the_nth_call_fails_as_ordered(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(fail="cudaMalloc:2:cudaErrorMemoryAllocation,cudaHostAlloc:1+:cudaErrorMemoryAllocation")
    with Device(0, True):
        DeviceBuffer(1).close()
        with pytest.raises(cuda.CudaError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
            DeviceBuffer(1)
        DeviceBuffer(1).close()
        for _ in range(3):
            with pytest.raises(cuda.CudaError, match="cudaHostAlloc"):
                PinnedBuffer(1)


def test_a_runtime_without_the_batched_copy_gets_single_ones(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(without="cudaMemcpyBatchAsync")
    _copies_arrive(expects_batched=(False, False))


def test_a_batched_copy_that_is_refused_is_not_tried_again(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.simulation.fail("cudaMemcpyBatchAsync", "cudaErrorCallRequiresNewerDriver")
    _copies_arrive(expects_batched=(True, False))


def test_empty_copies_do_not_end_batched_ones(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(1024) as buffer, PinnedBuffer(1024) as source:
        copy_all([Copy(buffer.address + 256 * n, source.address, 256 * (n % 2)) for n in range(4)], stream)
        stream.synchronize()
        assert stream.copying.is_batched


def test_pageable_memory_in_a_batch_of_copies_is_a_violation(simulated_cuda: SimulatedCuda) -> None:
    octets = np.zeros(64, np.uint8)
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(64) as buffer:
        copy_all([Copy(buffer.address + 16 * n, octets.ctypes.data, 16) for n in range(4)], stream)
        stream.synchronize()
        assert "pageable memory in a batch" in simulated_cuda.simulation.take_violations()[0]


def test_a_wrong_copy_does_not_end_batched_ones(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(1024) as buffer, PinnedBuffer(1024) as source:
        # Given copies that run over the end of a registration, which CUDA refuses in any form
        octets = np.zeros(4 * 4096, np.uint8)
        page = int(-(-octets.ctypes.data // 4096) * 4096)
        wrong = [Copy(buffer.address + 16 * n, page + 4096 - 8, 16) for n in range(4)]
        with HostRegistration(page, 4096), pytest.raises(cuda.CudaError, match="cudaMemcpyAsync failed: cudaErrorInvalidValue"):
            copy_all(wrong, stream)
        # Then those after them go in by one call as before
        assert stream.copying.is_batched
        copy_all([Copy(buffer.address + 16 * n, source.address, 16) for n in range(4)], stream)
        stream.synchronize()
        assert stream.copying.is_batched


def _copies_arrive(expects_batched: tuple[bool, bool]) -> None:
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(1024) as buffer, PinnedBuffer(1024) as source:
        source.array[:] = 9
        before = stream.copying.is_batched
        copy_all([Copy(buffer.address + 256 * n, source.address + 256 * n, 256) for n in range(4)], stream, CopyKind.TO_DEVICE)
        assert (before, stream.copying.is_batched) == expects_batched
        result = np.zeros(1024, np.uint8)
        stream.synchronize()
        cuda.copy(result.ctypes.data, buffer.address, 1024)
        assert set(result.tolist()) == {9}


def test_no_more_is_pinned_than_the_machine_allows(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(pinned=4096)
    with Device(0, True), pytest.raises(cuda.CudaError, match="cudaErrorMemoryAllocation"):
        PinnedBuffer(8192)


def test_where_there_is_no_ipc_it_is_refused(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(no_ipc=1)
    with Device(0, True), DeviceBuffer(2 << 20) as buffer, pytest.raises(cuda.CudaError, match="cudaErrorNotSupported"):
        cuda.ipc_handle(buffer.address)


def test_only_visible_devices_are_there(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    simulated_cuda.configure(gpus=2)
    (only,) = cuda.gpus()
    assert (only.ordinal, only.name) == (0, "Simulated GPU 1")


def test_what_is_left_on_the_device_is_found_out(simulated_cuda: SimulatedCuda) -> None:
    left = "left on the device: .*device memory of 256 bytes.*event"
    with Device(0, True), DeviceBuffer(256), Event(), pytest.raises(AssertionError, match=left):
        simulated_cuda.check()


def test_the_real_package_is_back_afterwards() -> None:
    assert "SIMULATED_CUDA_DIR" not in os.environ
    assert not any(
        "simulated" in str(getattr(module, "__file__", "")) for name, module in sys.modules.items() if name.startswith("cuda")
    )
