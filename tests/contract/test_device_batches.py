# SPDX-License-Identifier: Apache-2.0
"""Batches on a device, over the simulation: what is copied, what is bound, in what order, and whose rows are whose."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from device_rig import OUT, DeviceRig, Kernel, request, standing_still
from simulated.fixtures import SimulatedCuda
from worker_rig import Memory, Tensor, batch_of, copies, spec_of, unplaced

from penstock.ipc.cuda import CudaError
from penstock.ipc.errors import CallerError, MachineError, ModelError
from penstock.ipc.messages import (
    BatchInput,
    Gpu,
    InputSlice,
    LoadModel,
    MapRegion,
    ModelSpec,
    Optimization,
    OutputSlice,
    Placement,
    TensorSpec,
    WarmupInput,
    WarmupSample,
)
from penstock.workers.backends import make_device_backend
from penstock.workers.backends.identity_cuda import IdentityCuda
from penstock.workers.backends.on_device import DeviceWork
from penstock.workers.devices.cuda import registration
from penstock.workers.instances import make_instance
from penstock.workers.on_gpu.lanes import Overlap

EVERY_OVERLAP = [Overlap(False, False), Overlap(True, False), Overlap(False, True), Overlap(True, True)]


@pytest.fixture(autouse=True)
def _simulated(simulated_cuda: SimulatedCuda) -> SimulatedCuda:
    return simulated_cuda


def simple(datatype: str = "FP32", dims: list[int] | None = None, max_batch_size: int = 16, **more: Any) -> ModelSpec:
    kind = (datatype, [2] if dims is None else dims)
    spec = spec_of("identity", {"x": kind}, {"y": kind}, max_batch_size)
    return _with(spec, **more) if more else spec


def _with(spec: ModelSpec, **more: Any) -> ModelSpec:
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return ModelSpec(**{**fields, **more})


def rows(value: float, count: int = 1) -> Tensor:
    return np.full((count, 2), value, np.float32)


def doubling(simulated_cuda: SimulatedCuda) -> Kernel:
    return Kernel(simulated_cuda.simulation, lambda x: [x * 2])


# --- one batch ---------------------------------------------------------------------------------------------------------------


def test_a_request_is_copied_in_computed_and_copied_out() -> None:
    with DeviceRig(simple()) as rig:
        x = np.arange(4, dtype=np.float32).reshape(2, 2)
        done = rig.run(request(rig.memory, x))
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), x)
        assert (done.items, done.message) == ([], "")
        assert copies(done) == {"h2d": (1, 16), "d2h": (1, 16)}


def test_stages_follow_each_other_within_the_time_of_the_batch() -> None:
    with DeviceRig(simple()) as rig:
        done = rig.run(request(rig.memory, rows(1)))
        assert min(done.input_ns, done.infer_ns, done.output_ns) > 0
        assert done.started_ns + done.input_ns + done.infer_ns + done.output_ns <= done.ended_ns


def test_the_content_is_read_anew_when_a_placement_comes_again() -> None:
    with DeviceRig(simple()) as rig:
        placement = request(rig.memory, rows(1))
        for value in range(5):  # more often than there are slots
            rig.memory.put(0, rows(value))
            assert rig.run(placement).items == []
            np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (1, 2)), rows(value))


def test_a_placement_that_comes_again_is_not_planned_again(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    with DeviceRig(simple(), backend) as rig:
        placement = request(rig.memory, rows(1))
        for _ in range(4):
            rig.run(placement)
        # Each of the two slots has its own piece of work, which comes again
        assert [len({id(work) for work in backend.works}), backend.works[0] is backend.works[2]] == [2, True]


def test_requests_that_follow_each_other_in_memory_are_one_copy() -> None:
    with DeviceRig(simple()) as rig:
        # Given three requests side by side, and one apart, sent in another order
        places = [(8, OUT + 8), (0, OUT), (16, OUT + 16), (4096, OUT + 4096)]
        done = rig.run(*(request(rig.memory, rows(at), at, out) for at, out in places))
        # Then two runs are copied each way, and everyone finds their own
        assert copies(done) == {"h2d": (2, 32), "d2h": (2, 32)}
        for at, out in places:
            np.testing.assert_array_equal(rig.memory.get(out, "FP32", (1, 2)), rows(at))


@pytest.mark.parametrize("overlap", EVERY_OVERLAP)
def test_rows_that_were_reordered_go_back_to_their_own_requests(overlap: Overlap, simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), doubling(simulated_cuda), overlap=overlap) as rig:
        tensors = [rows(count, count) for count in (1, 2, 3)]
        places = [(512, OUT), (0, OUT + 100), (256, OUT + 200)]
        done = rig.run(*(request(rig.memory, x, at, out) for x, (at, out) in zip(tensors, places, strict=True)))
        assert done.items == []
        for x, (_, out) in zip(tensors, places, strict=True):
            np.testing.assert_array_equal(rig.memory.get(out, "FP32", x.shape), x * 2)


def test_a_model_without_a_batch_dimension_executes_its_requests_one_by_one(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    with DeviceRig(simple(max_batch_size=0), backend) as rig:
        requests = [
            Placement(1, [rig.memory.put(at * 8, np.full(2, at, np.float32))], [rig.memory.place(0, OUT + at * 8, 8)])
            for at in range(5)
        ]
        done = rig.run(*requests)
        assert done.items == []
        assert [work.inputs[0].shape for work in backend.works] == [(2,)] * 5  # type: ignore[union-attr]
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (5, 2)), [[at * 2] * 2 for at in range(5)])


def test_a_scalar_and_an_empty_tensor_are_tensors() -> None:
    with DeviceRig(simple("INT64", [])) as rig:
        x = np.array([3, 4], np.int64)
        rig.run(Placement(2, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 16)]))
        assert rig.memory.get(OUT, "INT64", (2,)).tolist() == [3, 4]
    with DeviceRig(simple(dims=[-1])) as rig:
        x = np.empty((2, 0), np.float32)
        done, fds = rig.run_with_fds(Placement(2, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 0)]))
        assert ([item.code for item in done.items], fds) == ([""], [])


# --- in flight ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", EVERY_OVERLAP)
def test_two_batches_are_in_flight_and_each_has_its_own_memory(overlap: Overlap, simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), doubling(simulated_cuda), overlap=overlap) as rig:
        simulated_cuda.simulation.pause()
        for number in range(2):
            assert rig.runner.has_room(0)
            rig.submit(number, request(rig.memory, rows(number + 1), number * 8, OUT + number * 8))
        assert not rig.runner.has_room(0)
        assert (rig.runner.in_flight, rig.finished()) == (2, [])
        simulated_cuda.simulation.resume()
        assert [done.message for done in rig.drained().values()] == ["", ""]
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), [[2, 2], [4, 4]])


@pytest.mark.parametrize("overlap", EVERY_OVERLAP)
def test_many_batches_through_two_slots_keep_their_content(overlap: Overlap, simulated_cuda: SimulatedCuda) -> None:
    # Given streams that run as late as they may: what is used again too early becomes another batch's data
    with DeviceRig(simple(), doubling(simulated_cuda), overlap=overlap) as rig:
        for number in range(20):
            rig.submit(number, request(rig.memory, rows(number), number * 8, OUT + number * 8))
        rig.drained()
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (20, 2)), [[number * 2] * 2 for number in range(20)])


@pytest.mark.parametrize("held", ["_copy_in", "stream", "_copy_out"])
def test_no_stream_goes_on_without_what_it_needs_from_another(held: str, simulated_cuda: SimulatedCuda) -> None:
    simulation = simulated_cuda.simulation
    with DeviceRig(simple(), doubling(simulated_cuda), overlap=Overlap(True, True)) as rig:
        (lane,) = rig.instance._lanes
        streams = {"_copy_in": lane._copy_in, "stream": lane.lane.stream, "_copy_out": lane._copy_out}
        # Given two batches in flight, and one stream that stands still
        simulation.hold(streams[held].handle)
        for number in range(2):
            rig.submit(number, request(rig.memory, rows(number + 1), number * 8, OUT + number * 8))
        # When the others run as far as they can
        for stream in streams.values():
            for _ in range(5):
                stream.is_idle()
        # Then nothing has gone past it
        simulation.release(streams[held].handle)
        rig.drained()
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), [[2, 2], [4, 4]])


def test_lanes_go_on_without_each_other(simulated_cuda: SimulatedCuda) -> None:
    simulation = simulated_cuda.simulation
    with DeviceRig(simple(), gpu=Gpu("", lanes=2)) as rig:
        (first, _) = (lane.lane.stream for lane in rig.instance._lanes)
        # Given a lane that stands still, and two batches in each
        simulation.hold(first.handle)
        for number in range(4):
            rig.submit(number, request(rig.memory, rows(number), number * 8, OUT + number * 8), lane=number % 2)
        assert [rig.runner.has_room(lane) for lane in (0, 1)] == [False, False]
        # Then those of the other end, and it has room again
        assert [number for _ in range(5) for number in rig.finished()] == [1, 3]
        assert [rig.runner.has_room(lane) for lane in (0, 1)] == [False, True]
        simulation.release(first.handle)
        assert {number: done.lane for number, done in rig.drained().items()} == {0: 0, 2: 0}
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (4, 2)), [[number] * 2 for number in range(4)])


def test_batches_of_a_lane_are_reported_in_order_though_one_of_them_was_not_executed(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), gpu=Gpu("", lanes=2)) as rig:
        nowhere = Placement(1, [InputSlice(9, 0, 8, [1, 2])], [rig.memory.place(0, OUT, 8)])
        simulated_cuda.simulation.pause()
        rig.submit(1, request(rig.memory, rows(1)))
        rig.submit(2, nowhere)
        rig.submit(3, nowhere, lane=1)
        assert rig.finished() == [3]
        simulated_cuda.simulation.resume()
        assert list(rig.drained()) == [1, 2]


def test_waiting_behind_another_batch_is_no_part_of_computing(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), doubling(simulated_cuda)) as rig:
        simulated_cuda.simulation.pause()
        for number in range(2):
            rig.submit(number, request(rig.memory, rows(number), number * 8, OUT + number * 8))
        simulated_cuda.simulation.resume()
        done = rig.drained()[1]
        # What the second batch waited for the first is before its start, where a queue's time is
        spent_ns = done.input_ns + done.infer_ns + done.output_ns
        assert 0 <= done.ended_ns - done.started_ns - spent_ns < 5_000_000


# --- memory of devices ------------------------------------------------------------------------------------------------------


def test_a_batch_in_device_memory_is_computed_on_where_it_lies(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    with DeviceRig(simple(), backend) as rig:
        memory = rig.map_device()
        # Given two requests that follow each other, from a multiple of 256 bytes on
        done = rig.run(request(memory, rows(1), 256, 1024), request(memory, rows(2), 264, 1032))
        # Then nothing is copied, and the model has worked on the clients' memory
        assert copies(done) == {}
        (work,) = backend.works
        assert work.inputs[0].address == memory.buffer.address + 256  # type: ignore[union-attr]
        assert work.places[0].address == memory.buffer.address + 1024  # type: ignore[union-attr]
        np.testing.assert_array_equal(memory.get(1024, "FP32", (2, 2)), [[2, 2], [4, 4]])


@pytest.mark.parametrize(
    ("datatype", "at", "has_graphs", "why"),
    [
        ("FP32", 264, False, "not aligned"),
        ("FP32", 256, True, "a graph has addresses of its own"),
        ("INT32", 256, False, "indices"),
    ],
)
def test_device_memory_is_copied_within_the_device_where_it_cannot_be_bound(
    datatype: str, at: int, has_graphs: bool, why: str, simulated_cuda: SimulatedCuda
) -> None:
    backend = doubling(simulated_cuda)
    backend.has_graphs = has_graphs
    with DeviceRig(simple(datatype), backend) as rig:
        memory = rig.map_device()
        x = np.ones((1, 2), {"FP32": np.float32, "INT32": np.int32}[datatype])
        done = rig.run(request(memory, x, at, 1032))
        assert copies(done) == {"d2d": (2, 16)}, why
        np.testing.assert_array_equal(memory.get(1032, datatype, (1, 2)), x * 2)


def test_a_large_tensor_is_worth_more_than_its_graph(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    backend.has_graphs = True
    elements = (8 << 20) // 4
    with DeviceRig(simple(dims=[elements], max_batch_size=1), backend) as rig:
        memory = rig.map_device(byte_size=24 << 20)
        done = rig.run(request(memory, np.ones((1, elements), np.float32), 0, 12 << 20))
        assert copies(done) == {}


def test_requests_in_pinned_and_in_device_memory_share_a_batch() -> None:
    with DeviceRig(simple()) as rig:
        memory = rig.map_device()
        crossing = Placement(1, [memory.put(0, rows(3))], [rig.memory.place(0, OUT + 64, 8)])
        done = rig.run(request(rig.memory, rows(1)), request(memory, rows(2), 8, 1032), crossing)
        assert copies(done) == {"h2d": (1, 8), "d2d": (2, 24), "d2h": (2, 16)}
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [1, 1]
        assert memory.get(1032, "FP32", (2,)).tolist() == [2, 2]
        assert rig.memory.get(OUT + 64, "FP32", (2,)).tolist() == [3, 3]


def test_a_request_across_the_border_of_what_is_pinned_at_once_is_copied_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "CHUNK_BYTES", 8192)
    with DeviceRig(simple()) as rig:
        done = rig.run(request(rig.memory, rows(6), 8192 - 4, 16384 - 4))
        assert (done.message, rig.memory.get(16384 - 4, "FP32", (2,)).tolist()) == ("", [6, 6])


def test_a_region_that_begins_within_a_page_may_have_a_border_though_it_is_no_longer_than_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "CHUNK_BYTES", 32768)
    with DeviceRig(simple()) as rig:
        memory = Memory(2)
        rig.regions.map(MapRegion(2, 32768, 100), os.dup(memory.fd))
        rig.memories.append(memory)
        memory.put(32768 - 4, rows(6))
        rig.run(Placement(1, [InputSlice(2, 32768 - 104, 8, [1, 2])], [memory.place(0, 0, 8)]))
        assert memory.get(100, "FP32", (2,)).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("host", ["Record", "MemcpyAsync", "Record", "kernel", "Record", "MemcpyAsync", "Record", "Query"] + ["Elapsed"] * 3),
        ("device", ["Record", "kernel", "Record", "Query", "Elapsed"]),
    ],
)
def test_a_request_that_comes_again_takes_no_more_calls_than_it_has_stages(
    where: str, expected: list[str], simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three intervals have four ends; where nothing is copied there is one interval, of computing."""
    from cuda.bindings import runtime

    calls: list[str] = []
    names = {"cudaEventRecord": "Record", "cudaMemcpyAsync": "MemcpyAsync", "cudaEventQuery": "Query",
             "cudaEventElapsedTime": "Elapsed", "cudaStreamWaitEvent": "Wait", "cudaStreamIsCapturing": "IsCapturing",
             "cudaMemcpyBatchAsync": "Batch"}  # fmt: skip
    for name, short in names.items():
        monkeypatch.setattr(runtime, name, _noting(calls, short, getattr(runtime, name)))
    backend = doubling(simulated_cuda)
    with DeviceRig(simple(), backend) as rig:
        memory: Any = rig.memory if where == "host" else rig.map_device()
        placement = request(memory, rows(1), 256, 1024)
        for _ in range(2):  # each slot plans it once
            rig.run(placement)
        backend.before = lambda work: calls.append("kernel")
        calls.clear()
        rig.submit(1, placement)
        rig.device.synchronize()
        assert rig.finished() == [1]
        assert calls == expected


def _noting(calls: list[str], short: str, function: Any) -> Any:
    def noting(*arguments: Any) -> Any:
        calls.append(short)
        return function(*arguments)

    return noting


# --- staging ----------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_pinned_is_staged_and_said_once(
    simulated_cuda: SimulatedCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    with DeviceRig(simple()) as rig:
        simulated_cuda.simulation.fail("cudaHostRegister", "cudaErrorMemoryAllocation", lasts=True)
        pageable = rig.map(Memory(2))
        for number in range(4):
            rig.submit(number, request(pageable, rows(number), number * 8, OUT + number * 8), request(rig.memory, rows(9)))
        done = rig.drained()
        np.testing.assert_array_equal(pageable.get(OUT, "FP32", (4, 2)), [[number] * 2 for number in range(4)])
        assert copies(done[0]) == {"h2d": (2, 16), "d2h": (2, 24), "gather": (1, 8), "scatter": (1, 8)}
        said = capsys.readouterr().err
        assert said.count("warning") == 1
        assert "region 2, and perhaps others" in said
        assert "cudaErrorMemoryAllocation" in said


def test_staged_bytes_are_not_overwritten_before_the_device_has_read_them(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), isolate=True) as rig:
        isolated = rig.map(Memory(2), sealed=False)
        simulated_cuda.simulation.pause()
        # Given two batches of three requests each, staged, whose owner goes on to write
        for number in range(2):
            requests = [request(isolated, rows(3 * number + at), at * 64, OUT + 64 * (3 * number + at)) for at in range(3)]
            rig.submit(number, *requests)
        for at in range(3):
            isolated.put(64 * at, rows(99))
        # Then the device reads what was there when they came
        simulated_cuda.simulation.resume()
        rig.drained()
        assert [isolated.get(OUT + 64 * at, "FP32", (1,))[0] for at in range(6)] == [0, 1, 2, 3, 4, 5]


def test_an_isolated_region_that_shrank_costs_its_own_request() -> None:
    with DeviceRig(simple(), isolate=True) as rig:
        fd = os.memfd_create("shrinking")
        os.ftruncate(fd, 65536)
        shrunk = rig.map(Memory(2, 65536, fd), sealed=False)
        gone, kept = request(shrunk, rows(1)), request(rig.memory, rows(2))
        nowhere = Placement(1, [rig.memory.put(64, rows(3))], [shrunk.place(0, OUT, 8)])
        os.ftruncate(fd, 0)
        done = rig.run(gone, kept, nowhere)
        assert [item.code for item in done.items] == ["INVALID_ARG", "", "INVALID_ARG"]
        assert all(item.message.startswith("region shrank") for item in (done.items[0], done.items[2]))
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [2, 2]
        assert os.fstat(fd).st_size == 0


def test_what_could_not_be_read_is_zeros_to_the_model(simulated_cuda: SimulatedCuda) -> None:
    seen: list[Any] = []

    def look(x: Any) -> list[Any]:
        seen.append(x.tolist())
        return [x]

    with DeviceRig(simple(), Kernel(simulated_cuda.simulation, look), isolate=True) as rig:
        fd = os.memfd_create("shrinking")
        os.ftruncate(fd, 65536)
        shrunk = rig.map(Memory(2, 65536, fd), sealed=False)
        gone = Placement(1, [shrunk.put(0, rows(7))], [rig.memory.place(0, OUT + 64, 8)])
        for _ in range(2):  # both slots have had something in their staging
            rig.run(gone)
        os.ftruncate(fd, 0)
        rig.run(request(rig.memory, rows(1)), gone)
        assert sorted(seen[-1]) == [[0, 0], [1, 1]]


@pytest.mark.parametrize(("pinned", "blocks"), [(True, "pinned"), (False, "pageable")])
def test_staging_is_pinned_unless_the_configuration_says_no(pinned: bool, blocks: str, simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(optimization=Optimization(pinned_inputs=pinned, pinned_outputs=pinned)), isolate=True) as rig:
        isolated = rig.map(Memory(2), sealed=False)
        rig.run(request(isolated, rows(5)))
        assert isolated.get(OUT, "FP32", (2,)).tolist() == [5, 5]
        assert f"1 {blocks} blocks" in repr(rig.instance._lanes[0].slots)


def test_pageable_memory_is_copied_from_and_to_directly_where_pinned_memory_is_not_wanted(
    simulated_cuda: SimulatedCuda,
) -> None:
    with DeviceRig(simple(optimization=Optimization(pinned_inputs=False, pinned_outputs=False))) as rig:
        simulated_cuda.simulation.fail("cudaHostRegister", "cudaErrorMemoryAllocation", lasts=True)
        pageable = rig.map(Memory(2))
        assert copies(rig.run(request(pageable, rows(5)))) == {"h2d": (1, 8), "d2h": (1, 8)}
        assert pageable.get(OUT, "FP32", (2,)).tolist() == [5, 5]


def test_many_copies_of_pageable_memory_are_made_singly(simulated_cuda: SimulatedCuda) -> None:
    # Given more requests than are put in one by one, which would be a violation
    with DeviceRig(simple(optimization=Optimization(pinned_inputs=False, pinned_outputs=False)), isolate=True) as rig:
        simulated_cuda.simulation.fail("cudaHostRegister", "cudaErrorMemoryAllocation", lasts=True)
        pageable, isolated = rig.map(Memory(2)), rig.map(Memory(3), sealed=False)
        memories = [pageable, isolated] * 4
        rig.run(*(request(memory, rows(at), at * 64, OUT + at * 64) for at, memory in enumerate(memories)))
        found = [memory.get(OUT + at * 64, "FP32", (2,)).tolist() for at, memory in enumerate(memories)]
        assert found == [[at, at] for at in range(8)]


def test_staging_is_pageable_where_no_more_memory_is_pinned(
    simulated_cuda: SimulatedCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    with DeviceRig(simple(), isolate=True) as rig:
        simulated_cuda.simulation.fail("cudaHostAlloc", "cudaErrorMemoryAllocation", lasts=True)
        isolated = rig.map(Memory(2), sealed=False)
        for _ in range(3):
            rig.run(*(request(isolated, rows(at), at * 64, OUT + at * 64) for at in range(6)))
            assert [isolated.get(OUT + at * 64, "FP32", (1,))[0] for at in range(6)] == [0, 1, 2, 3, 4, 5]
        assert capsys.readouterr().err.count("bytes of host memory are not pinned") == 4  # each slot, each way


def test_what_lives_for_one_request_is_staged_not_pinned_and_no_warning_is_due(
    simulated_cuda: SimulatedCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    with DeviceRig(simple()) as rig:
        inline = Memory(2)
        rig.memories.append(inline)
        rig.regions.map(MapRegion(2, inline.byte_size, single_use=True), os.dup(inline.fd))
        assert not simulated_cuda.simulation.is_registered(rig.regions[2].address)
        done = rig.run(Placement(1, [inline.put(0, rows(7))], [rig.memory.place(0, OUT, 8)]))
        assert copies(done) == {"gather": (1, 8), "h2d": (1, 8), "d2h": (1, 8)}
        assert (rig.memory.get(OUT, "FP32", (2,)).tolist(), capsys.readouterr().err) == ([7, 7], "")


# --- outputs that need the host ----------------------------------------------------------------------------------------------


def test_outputs_without_a_place_come_in_a_memfd_beside_those_with_one() -> None:
    with DeviceRig(simple()) as rig:
        bare = Placement(1, [rig.memory.put(64, rows(2))], [unplaced(0)])
        done, fds = rig.run_with_fds(request(rig.memory, rows(1)), bare)
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [1, 1]
        assert np.frombuffer(os.pread(fds[0], 99, 0), np.float32).tolist() == [2, 2]
        assert [output.byte_size for item in done.items for output in item.outputs] == [8, 8]
        os.close(fds[0])


def test_classes_are_found_on_the_host() -> None:
    spec = simple(dims=[3])
    with DeviceRig(spec) as rig:
        x = np.array([[0.25, 0.75, 0.5]], np.float32)
        done, fds = rig.run_with_fds(Placement(1, [rig.memory.put(0, x)], [OutputSlice(0, -1, 0, 0, classes=2)]))
        content = os.pread(fds[0], 99, 0)
        assert b"0.750000:1" in content
        assert content.index(b":1") < content.index(b"0.500000:2")
        assert done.items[0].outputs[0].shape == [1, 2]
        os.close(fds[0])


def test_outputs_of_a_size_that_only_the_model_knows_go_straight_to_their_places(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(dims=[-1])) as rig:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        placements = [
            Placement(1, [rig.memory.put(at * 12, x[at : at + 1])], [rig.memory.place(0, OUT + at * 64, 64)]) for at in (0, 1)
        ]
        done = rig.run(*placements)
        assert [item.outputs[0].shape for item in done.items] == [[1, 3], [1, 3]]
        assert copies(done) == {"h2d": (1, 24), "d2h": (2, 24)}
        assert rig.memory.get(OUT + 64, "FP32", (3,)).tolist() == [3, 4, 5]


def test_a_place_that_is_too_small_says_how_much_is_needed_and_is_left_alone() -> None:
    with DeviceRig(simple(dims=[-1])) as rig:
        x = np.ones((1, 4), np.float32)
        done = rig.run(request(rig.memory, x, 0, OUT, 12), request(rig.memory, x, 64, OUT + 64))
        assert done.items[0].message == "output 'y' of model 'm' needs 16 bytes, its place has 12"
        assert done.items[1].code == ""
        assert rig.memory.get(OUT, "UINT8", (16,)).tolist() == [0xA5] * 16


def test_outputs_that_some_did_not_ask_for_shift_nobody() -> None:
    spec = spec_of("identity", {"x": ("FP32", [2]), "z": ("FP32", [1])}, {"y": ("FP32", [2]), "w": ("FP32", [1])})
    with DeviceRig(spec) as rig:
        wants = [(0,), (1,), (0, 1)]
        placements = []
        for at, wanted in enumerate(wants):
            inputs = [rig.memory.put(at * 64, rows(at)), rig.memory.put(at * 64 + 32, np.full((1, 1), at + 10, np.float32))]
            placements.append(Placement(1, inputs, [rig.memory.place(k, OUT + at * 64 + 32 * k, 8 - 4 * k) for k in wanted]))
        assert rig.run(*placements).items == []
        for at, wanted in enumerate(wants):
            found = [rig.memory.get(OUT + at * 64 + 32 * k, "FP32", (1,))[0] for k in (0, 1)]
            assert [found[k] for k in wanted] == [[at, at + 10][k] for k in wanted]


# --- shapes -----------------------------------------------------------------------------------------------------------------


def test_optional_inputs_ragged_inputs_and_batch_inputs_reach_the_model(simulated_cuda: SimulatedCuda) -> None:
    seen: list[list[Any]] = []

    def look(*given: Any) -> list[Tensor]:
        seen.append([None if x is None else x.tolist() for x in given])
        return [given[0] * 10]

    spec = ModelSpec(
        "m", 1, "kernel", 8,
        [TensorSpec("x", "FP32", [-1], ragged=True), TensorSpec("bias", "FP32", [2], optional=True)],
        [TensorSpec("y", "FP32", [-1], shaped_as="x")],
        batch_inputs=[BatchInput("BATCH_ACCUMULATED_ELEMENT_COUNT", ["ends"], "INT32", "x")],
    )  # fmt: skip
    left_out = InputSlice(-1, 0, 0, [])
    with DeviceRig(spec, Kernel(simulated_cuda.simulation, look)) as rig:
        for repetition in range(3):  # memory for ragged inputs grows with the first
            first, second = np.full((1, 3 + repetition), 1, np.float32), np.full((1, 2), 2, np.float32)
            done = rig.run(
                Placement(1, [rig.memory.put(0, first), left_out], [rig.memory.place(0, OUT, first.nbytes)]),
                Placement(1, [rig.memory.put(512, second), left_out], [rig.memory.place(0, OUT + 512, 8)]),
            )
            assert done.message == ""
            ends = [3 + repetition, 5 + repetition]
            assert seen.pop() == [[1.0] * (3 + repetition) + [2.0] * 2, None, ends]
            assert rig.memory.get(OUT + 512, "FP32", (2,)).tolist() == [20, 20]


def test_a_reshaped_tensor_has_the_models_shape_on_the_device(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    spec = ModelSpec(
        "m", 1, "kernel", 4, [TensorSpec("x", "FP32", [4], reshape=[2, 2])], [TensorSpec("y", "FP32", [4], reshape=[2, 2])]
    )
    with DeviceRig(spec, backend) as rig:
        done, fds = rig.run_with_fds(Placement(1, [rig.memory.put(0, np.ones((1, 4), np.float32))], [unplaced(0)]))
        os.close(fds[0])
        assert backend.works[0].inputs[0].shape == (1, 2, 2)  # type: ignore[union-attr]
        assert done.items[0].outputs[0].shape == [1, 4]


def test_memory_that_has_grown_makes_a_slot_anew_and_forgets_what_was_planned_for_the_old(
    simulated_cuda: SimulatedCuda,
) -> None:
    backend = Kernel(simulated_cuda.simulation, lambda x: [x[:, :2] * 2])
    spec = spec_of("kernel", {"x": ("FP32", [-1])}, {"y": ("FP32", [2])}, 4)
    with DeviceRig(spec, backend) as rig:
        small, large = request(rig.memory, rows(1)), np.ones((4, 200), np.float32)
        for _ in range(4):  # each of both slots knows it
            rig.run(small)
        assert backend.works[2] is backend.works[0]
        for _ in range(2):
            rig.run(Placement(4, [rig.memory.put(4096, large)], [rig.memory.place(0, OUT + 4096, 32)]))
        rig.memory.put(0, rows(3))
        for _ in range(2):
            rig.run(small)
            assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [6, 6]
        assert backend.works[6].slot.inputs[0].byte_size == 4096  # type: ignore[union-attr]
        assert backend.works[6].slot.index == backend.works[0].slot.index


def test_room_for_variable_dims_is_there_from_the_beginning_where_the_model_has_bounds(
    simulated_cuda: SimulatedCuda,
) -> None:
    backend = doubling(simulated_cuda)
    backend.bounds = {"x": 4096}
    with DeviceRig(simple(dims=[-1]), backend):
        assert [slot.inputs[0].byte_size for slot in backend.slots] == [4096, 4096]  # type: ignore[union-attr]
        assert [slot.outputs for slot in backend.slots] == [(None,), (None,)]
        assert all(slot.inputs[0].address % 256 == 0 for slot in backend.slots)  # type: ignore[union-attr]


# --- failures ---------------------------------------------------------------------------------------------------------------


def test_what_the_backend_raises_fails_its_batch_and_no_other(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)

    def refuse(work: DeviceWork) -> None:
        if len(backend.works) == 1:
            raise RuntimeError("no")

    backend.before = refuse
    with DeviceRig(simple(), backend) as rig:
        simulated_cuda.simulation.pause()
        rig.submit(0, request(rig.memory, rows(1)))
        # The failed batch's inputs may still be read: it is not over before the device is past that
        assert [number for _ in range(5) for number in rig.finished()] == []
        rig.submit(1, request(rig.memory, rows(2), 8, OUT + 8))
        simulated_cuda.simulation.resume()
        done = rig.drained()
        assert [(each.message, each.fault) for each in done.values()] == [("no", "model"), ("", "model")]
        assert rig.memory.get(OUT, "FP32", (4,)).tolist()[2:] == [4, 4]


def test_a_request_that_cannot_be_placed_fails_alone() -> None:
    with DeviceRig(simple()) as rig:
        outside = Placement(1, [InputSlice(1, 65534, 8, [1, 2])], [rig.memory.place(0, OUT, 8)])
        unknown = Placement(1, [InputSlice(9, 0, 8, [1, 2])], [rig.memory.place(0, OUT, 8)])
        other = Placement(1, [InputSlice(1, 0, 12, [1, 3])], [rig.memory.place(0, OUT, 8)])
        done = rig.run(outside, request(rig.memory, rows(6)), unknown, other)
        assert [item.code for item in done.items] == ["INTERNAL", "", "INTERNAL", "INTERNAL"]
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [6, 6]
        assert [item.code for item in rig.run(unknown).items] == ["INTERNAL"]


def test_a_failure_that_the_backend_names_is_that_of_its_request(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    backend.before = lambda work: work.failures.update({0: ModelError("row 0")}) if len(backend.works) == 1 else None
    with DeviceRig(simple(), backend) as rig:
        # Given that the second request comes first in memory
        done = rig.run(request(rig.memory, rows(2), 512, OUT), request(rig.memory, rows(1), 0, OUT + 64))
        assert [item.message for item in done.items] == ["", "row 0"]
        assert rig.memory.get(OUT + 64, "UINT8", (8,)).tolist() == [0xA5] * 8
        assert rig.run(request(rig.memory, rows(2), 512, OUT)).items == []


def test_a_request_that_was_served_before_can_fail(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    backend.before = lambda work: work.failures.update({0: ModelError("no")}) if len(backend.works) in (5, 6) else None
    with DeviceRig(simple(), backend) as rig:
        placement = request(rig.memory, rows(1))
        codes = [[item.message for item in rig.run(placement).items] for _ in range(8)]
        assert codes == [[], [], [], [], ["no"], ["no"], [], []]


def test_a_gpu_without_room_for_the_largest_batch_says_how_much_that_takes(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(memory=1 << 20)
    with pytest.raises(
        MachineError, match="slot 0 of lane 0 needs 16777216 bytes on the GPU .* lower max_batch_size: cudaMalloc"
    ):
        DeviceRig(simple(dims=[1 << 20], max_batch_size=2))


def test_a_request_that_failed_once_is_delivered_when_it_comes_again(simulated_cuda: SimulatedCuda) -> None:
    backend = doubling(simulated_cuda)
    backend.before = lambda work: work.failures.update({0: ModelError("no")}) if len(backend.works) < 3 else None
    with DeviceRig(simple(), backend) as rig:
        placement = request(rig.memory, rows(1))
        assert [rig.run(placement).items[0].message for _ in range(2)] == ["no", "no"]
        assert rig.run(placement).items == []
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda work: [], "returned 0 outputs, 1 were asked for"),
        (lambda work: [None], "returned nothing for output 'y'"),
        (lambda work: [work.places[0]._replace(shape=(1, 3))], r"as FP32 \[1, 3\] in 8 bytes, its configuration says FP32 \[1, 2\]"),
        (lambda work: [work.places[0]._replace(datatype="FP16")], "as FP16"),
        (lambda work: [work.places[0]._replace(byte_size=4)], "in 4 bytes"),
    ],
)  # fmt: skip
def test_results_that_contradict_the_configuration_are_the_models_fault(
    returned: Any, message: str, simulated_cuda: SimulatedCuda
) -> None:
    backend = Kernel(simulated_cuda.simulation, lambda x: [])
    backend.returns = returned
    simulated_cuda.forgive()
    with DeviceRig(simple(), backend) as rig:
        backend.enqueue = returned  # type: ignore[method-assign]
        done = rig.run(request(rig.memory, rows(1)))
        assert done.fault == "model"
        with pytest.raises(ModelError, match=message):
            raise ModelError(done.message)


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaMemcpyBatchAsync"])
def test_memory_that_cannot_be_copied_costs_its_own_request(call: str, simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple()) as rig:
        # Given a request whose memory the device does not take, among others
        gone = rig.map_device()
        count = 3 if call == "cudaMemcpyAsync" else 5
        placements = [request(rig.memory, rows(at), at * 64, OUT + at * 64) for at in range(count - 1)]
        placements.append(Placement(1, [gone.put(8, rows(1))], [rig.memory.place(0, OUT + 2048, 8)]))
        region = rig.regions[2]
        rig.runner.forget_region(2)
        region.address = 0x10  # type: ignore[misc]
        refused = _refusing(simulated_cuda, 0x10 + 8)
        done = rig.run(*placements)
        refused()
        # Then that one fails, and the others are executed
        assert [item.code for item in done.items] == [*[""] * (count - 1), "INTERNAL"]
        assert "cudaErrorInvalidValue" in done.items[-1].message
        for at in range(count - 1):
            assert rig.memory.get(OUT + at * 64, "FP32", (2,)).tolist() == [at, at]


def _refusing(simulated_cuda: SimulatedCuda, address: int) -> Any:
    """From now on the simulation takes no copy from this address."""
    from cuda.simulation import machine

    original = machine.MACHINE.memory.is_pageable

    def is_pageable(at: int, byte_size: int) -> bool:
        if at == address:
            raise simulated_cuda.simulation.DeviceFault("cudaErrorInvalidValue")
        return bool(original(at, byte_size))

    machine.MACHINE.memory.is_pageable = is_pageable
    return lambda: setattr(machine.MACHINE.memory, "is_pageable", original)


def test_no_memory_on_the_device_fails_the_batch_that_needs_it(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(dims=[-1])) as rig:
        simulated_cuda.simulation.fail("cudaMalloc", "cudaErrorMemoryAllocation")
        done = rig.run(request(rig.memory, rows(1), size=8))
        assert (done.fault, "cudaErrorMemoryAllocation" in done.message) == ("machine", True)
        assert rig.run(request(rig.memory, rows(3), size=8)).message == ""
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [3, 3]


@pytest.mark.parametrize("call", ["cudaEventQuery", "cudaEventSynchronize"])
def test_where_the_device_cannot_be_waited_for_no_batch_is_taken_to_be_over(call: str, simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple()) as rig:
        for number in (1, 2):
            rig.submit(number, request(rig.memory, rows(number), number * 8, OUT + number * 8))
        simulated_cuda.simulation.fail(call, "cudaErrorUnknown")
        # Given an error that says nothing of what the device does, then memory that it may write to is given to nobody
        with pytest.raises(CudaError, match="cudaErrorUnknown") as raised:
            rig.finished() if call == "cudaEventQuery" else rig.drained()
        assert rig.runner.in_flight == 2
        # And both batches have failed of it, as far as can be waited for with the device through with them
        simulated_cuda.simulation.fail("cudaStreamSynchronize", "cudaErrorUnknown")
        lost = rig.runner.lose(raised.value)
        assert [(each.batch.batch, each.report.fault) for each in lost] == [(1, "machine"), (2, "machine")]
        assert rig.runner.in_flight == 0
        rig.device.synchronize()


# --- regions ----------------------------------------------------------------------------------------------------------------


def test_a_region_is_let_go_of_when_what_uses_it_has_ended(simulated_cuda: SimulatedCuda) -> None:
    with DeviceRig(simple(), gpu=Gpu("", lanes=2)) as rig:
        other = rig.map(Memory(2))
        (first, _) = (lane.lane.stream for lane in rig.instance._lanes)
        # Given batches in both lanes, of which only that of the second uses the region
        with standing_still(simulated_cuda.simulation, first):
            rig.submit(1, request(rig.memory, rows(1)))
            rig.submit(2, request(other, rows(2)), lane=1)
            # When it is unmapped, the other lane is not waited for
            rig.runner.forget_region(2)
            rig.regions.unmap(2)
            assert [each.batch.batch for each in rig.runner.finished()] == [2]
            assert other.get(OUT, "FP32", (2,)).tolist() == [2, 2]
        assert list(rig.drained()) == [1]


def test_closing_waits_for_the_device_and_answers_nobody(simulated_cuda: SimulatedCuda) -> None:
    rig = DeviceRig(simple())
    for number in range(2):
        rig.submit(number, request(rig.memory, rows(number + 1), number * 8, OUT + number * 8))
    rig.runner.close()
    assert (rig.runner.in_flight, rig.runner.finished()) == (0, [])
    np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), [[1, 1], [2, 2]])
    rig.close()


# --- loading ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "kinds"), [("input", ("BYTES", "FP32")), ("output", ("FP32", "BYTES"))])
def test_text_is_refused_with_what_to_do(side: str, kinds: tuple[str, str], simulated_cuda: SimulatedCuda) -> None:
    spec = spec_of("kernel", {"x": (kinds[0], [1])}, {"y": (kinds[1], [1])})
    with pytest.raises(CallerError, match=rf"{side} '.' is BYTES, .* an instance on a GPU cannot take; use KIND_CPU"):
        DeviceRig(spec, doubling(simulated_cuda))


def test_another_gpu_than_was_meant_is_refused() -> None:
    spec, gpu = simple(), Gpu("GPU-0", 0)
    instance = make_instance(LoadModel(spec, "m_0_0", "", gpu=gpu))
    with pytest.raises(MachineError, match="GPU 0 of this worker is GPU-.*, it was to be GPU-0"):
        instance.load(LoadModel(spec, "m_0_0", "", gpu=gpu))
    instance.close()


def test_a_backend_that_takes_host_memory_does_so_on_a_gpu_too() -> None:
    spec = spec_of("fake", {"x": ("BYTES", [1])}, {"y": ("BYTES", [1])})
    instance = make_instance(LoadModel(spec, "m_0_0", "", gpu=Gpu("GPU-0")))
    assert instance.device is None
    instance.close()


def test_the_identity_of_gpus_is_found_by_name() -> None:
    assert isinstance(make_device_backend("identity"), IdentityCuda)


def test_identity_cuts_rows_as_it_does_on_the_host() -> None:
    with DeviceRig(spec_of("identity", {"x": ("FP32", [3])}, {"y": ("FP32", [2])})) as rig:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        rig.run(Placement(2, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 16)]))
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), x[:, :2])


def test_warm_up_samples_go_the_way_of_requests(simulated_cuda: SimulatedCuda, tmp_path: Any) -> None:
    backend = doubling(simulated_cuda)
    sample = WarmupSample("three", 3, 2, [WarmupInput("x", "FP32", [2], "zero")])
    with DeviceRig(simple(), backend, Gpu("", lanes=2), samples=[sample], directory=str(tmp_path / "1")) as rig:
        assert [(work.slot.lane.index, list(work.rows_of)) for work in backend.works] == [
            (0, [1, 1, 1]), (0, [1, 1, 1]), (1, [1, 1, 1]), (1, [1, 1, 1]),
        ]  # fmt: skip
        assert 0 not in rig.regions


def test_a_sample_that_fails_keeps_the_model_from_being_loaded(simulated_cuda: SimulatedCuda, tmp_path: Any) -> None:
    backend = doubling(simulated_cuda)

    def refuse(work: DeviceWork) -> None:
        raise ModelError("no")

    backend.before = refuse
    sample = WarmupSample("one", 1, 1, [WarmupInput("x", "FP32", [2], "zero")])
    with pytest.raises(ModelError, match="warmup sample 'one': no"):
        DeviceRig(simple(), backend, samples=[sample], directory=str(tmp_path / "1"))


def test_batches_are_numbered_by_the_broker_and_not_by_their_order() -> None:
    with DeviceRig(simple()) as rig:
        rig.runner.submit(batch_of(request(rig.memory, rows(1)), number=77))
        assert list(rig.drained()) == [77]
