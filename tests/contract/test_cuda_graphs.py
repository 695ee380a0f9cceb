# SPDX-License-Identifier: Apache-2.0
"""Graphs: what is captured is not executed, and executed as often as it is launched; what cannot be captured says so."""

from __future__ import annotations

import pytest
from cuda_rig import CudaRig, bytes_at, raises_cuda, to_device

from penstock.ipc import cuda
from penstock.workers.devices.cuda import (
    Copy,
    Device,
    DeviceBuffer,
    Event,
    Graph,
    PinnedBuffer,
    Stream,
    copy_all,
    fill_zero,
)


def test_a_graph_does_what_was_captured_each_time_it_is_launched(cuda_kind: CudaRig, stream: Stream) -> None:
    with DeviceBuffer(256) as buffer, PinnedBuffer(256) as source:
        add = cuda_kind.adding_one(buffer.address, 256)
        source.array[:] = 10

        def work() -> None:
            to_device(stream, source, buffer)
            add(stream)

        fill_zero(buffer.address, 256, stream)
        with Graph.capture(stream, work) as graph:
            graph.check_invariants()
            # Given a graph: nothing of it has happened yet
            stream.synchronize()
            assert set(bytes_at(buffer.address, 256).tolist()) == {0}
            # When it is launched, then it reads what is there at that time
            graph.upload(stream)
            graph.launch(stream)
            stream.synchronize()
            assert set(bytes_at(buffer.address, 256).tolist()) == {11}
            source.array[:] = 20
            graph.launch(stream)
            stream.synchronize()
            assert set(bytes_at(buffer.address, 256).tolist()) == {21}


def test_many_copies_can_be_captured(device: Device, stream: Stream) -> None:
    with DeviceBuffer(256) as buffer, PinnedBuffer(256) as source:
        source.array[:] = range(256)
        copies = [Copy(buffer.address + 32 * index, source.address + 32 * index, 32) for index in range(8)]
        with Graph.capture(stream, lambda: copy_all(copies, stream)) as graph:
            graph.launch(stream)
            stream.synchronize()
            assert bytes_at(buffer.address, 256).tolist() == list(range(256))


def test_a_second_stream_takes_part_in_a_capture_and_comes_back(cuda_kind: CudaRig, device: Device, stream: Stream) -> None:
    with Stream(device) as other, DeviceBuffer(256) as buffer, Event() as fork, Event() as join:
        add = cuda_kind.adding_one(buffer.address, 256)

        def work() -> None:
            fill_zero(buffer.address, 256, stream)
            fork.record(stream)
            other.wait(fork)
            add(other)
            join.record(other)
            stream.wait(join)
            add(stream)

        with Graph.capture(stream, work) as graph:
            graph.launch(stream)
            stream.synchronize()
            assert set(bytes_at(buffer.address, 256).tolist()) == {2}


def test_a_stream_that_does_not_come_back_fails_the_capture(device: Device, stream: Stream) -> None:
    with Stream(device) as other, DeviceBuffer(256) as buffer, Event() as fork:

        def work() -> None:
            fork.record(stream)
            other.wait(fork)
            fill_zero(buffer.address, 256, other)

        with raises_cuda("cudaErrorStreamCaptureUnjoined"):
            Graph.capture(stream, work)
        fill_zero(buffer.address, 256, stream)
        stream.synchronize()


def test_what_acts_at_once_fails_the_capture_and_the_stream_goes_on(device: Device, stream: Stream) -> None:
    with DeviceBuffer(256) as buffer:
        with raises_cuda("cudaStreamSynchronize failed: cudaErrorStreamCapture"):
            Graph.capture(stream, stream.synchronize)
        fill_zero(buffer.address, 256, stream)
        stream.synchronize()
        assert set(bytes_at(buffer.address, 256).tolist()) == {0}


def test_a_function_that_fails_fails_the_capture_with_its_own_error(device: Device, stream: Stream) -> None:
    with DeviceBuffer(256) as buffer:

        def work() -> None:
            fill_zero(buffer.address, 256, stream)
            raise ValueError("no such layer")

        with pytest.raises(ValueError, match="no such layer"):
            Graph.capture(stream, work)
        fill_zero(buffer.address, 256, stream)
        stream.synchronize()
        assert set(bytes_at(buffer.address, 256).tolist()) == {0}


def test_another_thread_may_allocate_during_a_capture(device: Device, stream: Stream) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def allocate() -> None:
        device.use()
        cuda.free(cuda.malloc(1024))

    with DeviceBuffer(256) as buffer, ThreadPoolExecutor(1) as pool:

        def work() -> None:
            fill_zero(buffer.address, 256, stream)
            pool.submit(allocate).result()

        Graph.capture(stream, work).close()
