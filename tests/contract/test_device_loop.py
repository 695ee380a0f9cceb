# SPDX-License-Identifier: Apache-2.0
"""A worker process on a simulated GPU: what it takes in, answers, waits for and lets go of while batches are in flight."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_rig import standing_still
from simulated.fixtures import SimulatedCuda
from worker_process import OUT, WorkerProcess
from worker_rig import Memory, Tensor, batch_of, spec_of, unplaced

from penstock.ipc.messages import (
    Gpu,
    Loaded,
    LoadFailed,
    ModelSpec,
    Optimization,
    Placement,
    Ready,
    RegionUnmapped,
    Start,
    Stop,
    UnmapRegion,
)
from penstock.workers.devices.cuda import Device, Event, Stream
from penstock.workers.on_gpu.instance import ALWAYS_NS, SPIN_NS, spin_ns
from penstock.workers.on_gpu.loop import Waiter

Make = Callable[..., WorkerProcess]


@pytest.fixture
def make(simulated_cuda: SimulatedCuda) -> Iterator[Make]:
    """Starts workers on the simulated machine; its variables are set by keywords beside `gpu`."""
    made: list[WorkerProcess] = []

    def start(gpu: Gpu = Gpu(""), **variables: str) -> WorkerProcess:  # noqa: B008 - frozen
        named = {f"SIMULATED_CUDA_{name.upper()}": value for name, value in variables.items()}
        made.append(WorkerProcess(simulated_cuda.environment(**named), gpu))
        return made[-1]

    yield start
    simulated_cuda.resume()
    for process in made:
        process.close()


def pair() -> ModelSpec:
    return spec_of("identity", {"x": ("FP32", [2])}, {"y": ("FP32", [2])})


def rows(value: float) -> Tensor:
    return np.full((1, 2), value, np.float32)


def send(worker: WorkerProcess, number: int, *more: Any, memory: Memory | None = None) -> None:
    """A batch of one request with its number as content, at a place of its own."""
    worker.send(batch_of(worker.request(rows(number), number * 8, memory), number=number), *more)


def received(worker: WorkerProcess, number: int, memory: Memory | None = None) -> Tensor:
    return (memory or worker.memory).get(OUT + number * 8, "FP32", (2,))


def is_asleep(worker: WorkerProcess) -> bool:
    return "S" in Path(f"/proc/{worker.child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def cpu_ticks(worker: WorkerProcess) -> int:
    fields = Path(f"/proc/{worker.child.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("busy_wait", ["auto", "always", "never"])
def test_batches_are_taken_in_while_others_are_in_flight(make: Make, busy_wait: Any, simulated_cuda: SimulatedCuda) -> None:
    worker = make(Gpu("", busy_wait=busy_wait))
    worker.start(pair())
    simulated_cuda.pause()
    # Given two batches on a device that stands still, and one more than there is room for
    for number in range(3):
        send(worker, number)
    assert not worker.link.wait(0.05)
    # When it goes on
    simulated_cuda.resume()
    # Then all are answered in order, and each with its own rows
    assert [worker.receive().batch for _ in range(3)] == [0, 1, 2]
    assert [received(worker, number).tolist() for number in range(3)] == [[number] * 2 for number in range(3)]
    worker.send(Stop())
    assert worker.end() == (0, "")


def test_stopping_answers_what_is_in_flight_first(make: Make, simulated_cuda: SimulatedCuda) -> None:
    worker = make()
    worker.start(pair())
    simulated_cuda.pause()
    send(worker, 0)
    send(worker, 1, Stop())
    simulated_cuda.resume()
    assert [worker.receive().batch for _ in range(2)] == [0, 1]
    assert received(worker, 1).tolist() == [1, 1]
    assert worker.end() == (0, "")


@pytest.mark.parametrize("busy_wait", ["auto", "always", "never"])
def test_a_worker_that_is_terminated_answers_what_is_in_flight_and_dies_of_the_signal(
    make: Make, busy_wait: Any, simulated_cuda: SimulatedCuda
) -> None:
    # Given two batches on a device that stands still
    worker = make(Gpu("", busy_wait=busy_wait))
    worker.start(pair())
    simulated_cuda.pause()
    send(worker, 0)
    send(worker, 1, UnmapRegion(9, report=True))
    assert worker.receive() == RegionUnmapped(9)  # it has taken them in
    # When it is told to end, then the device is through with both first
    worker.child.send_signal(signal.SIGTERM)
    assert not worker.link.wait(0.05)
    simulated_cuda.resume()
    assert [worker.receive().batch for _ in range(2)] == [0, 1]
    assert worker.end() == (-signal.SIGTERM, "")


@pytest.mark.parametrize("busy_wait", ["auto", "always", "never"])
def test_a_worker_without_a_batch_sleeps_and_can_be_terminated(make: Make, busy_wait: Any) -> None:
    worker = make(Gpu("", busy_wait=busy_wait))
    worker.start(pair())
    send(worker, 0)
    assert worker.receive().batch == 0
    while not is_asleep(worker):
        os.sched_yield()
    before = cpu_ticks(worker)
    assert not worker.link.wait(0.1)
    assert cpu_ticks(worker) <= before + 1
    worker.child.send_signal(signal.SIGTERM)
    assert worker.end()[0] == -signal.SIGTERM


def test_a_region_is_unmapped_after_what_uses_it_and_said_so(make: Make, simulated_cuda: SimulatedCuda) -> None:
    worker = make()
    worker.start(pair())
    other = Memory(2)
    worker.map(other)
    simulated_cuda.pause()
    send(worker, 0, memory=other)
    send(worker, 1, UnmapRegion(2, report=True))
    send(worker, 2)
    simulated_cuda.resume()
    answers = [worker.receive() for _ in range(4)]
    order = [answer if isinstance(answer, RegionUnmapped) else answer.batch for answer in answers]
    assert order[0] == 0
    assert order.index(RegionUnmapped(2)) < order.index(2)
    assert received(worker, 0, other).tolist() == [0, 0]
    assert "rig-2" not in Path(f"/proc/{worker.child.pid}/maps").read_text()
    other.close()


def test_the_worker_ends_in_order_when_the_broker_is_gone(make: Make, simulated_cuda: SimulatedCuda) -> None:
    # What is given back too early, the simulation of the worker writes down, and the fixture finds it
    worker = make()
    worker.start(pair())
    simulated_cuda.pause()
    send(worker, 0)
    send(worker, 1)
    worker.link.close()
    simulated_cuda.resume()
    assert worker.end() == (0, "")


def test_a_lost_context_costs_what_is_in_flight_and_the_worker_and_says_why(make: Make, simulated_cuda: SimulatedCuda) -> None:
    # Given two batches, and a device that fails for good under them
    simulated_cuda.forgive()
    worker = make(fail="cudaEventQuery:1:cudaErrorIllegalAddress")
    worker.start(pair())
    worker.send(*(batch_of(worker.request(rows(number), number * 8), number=number) for number in range(2)))
    answers = [worker.receive(), worker.receive()]
    # Then both batches fail of it, and the worker ends with a status of its own
    assert [answer.batch for answer in answers] == [0, 1]
    assert all("cudaErrorIllegalAddress" in answer.message and answer.fault == "machine" for answer in answers)
    status, said = worker.end()
    assert status == 3
    assert "worker stops: the GPU's context is lost" in said


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaEventQuery", "cudaEventElapsedTime"])
def test_a_context_that_is_lost_while_a_batch_comes_in_or_ends_is_the_same(
    make: Make, call: str, simulated_cuda: SimulatedCuda
) -> None:
    simulated_cuda.forgive()
    worker = make(fail=f"{call}:1:cudaErrorECCUncorrectable")
    worker.start(pair())
    send(worker, 0)
    assert "cudaErrorECCUncorrectable" in worker.receive().message
    assert worker.end()[0] == 3


@pytest.mark.parametrize("cause", ["cudaErrorUnknown", "cudaErrorNoDevice"])
def test_a_worker_that_cannot_wait_for_its_device_any_more_says_so_and_ends(
    make: Make, cause: str, simulated_cuda: SimulatedCuda
) -> None:
    # Given errors that are not known to lose the context, of every way to wait
    simulated_cuda.forgive()
    worker = make(fail=f"cudaEventQuery:1+:{cause},cudaStreamSynchronize:2+:{cause}")
    worker.start(pair())
    send(worker, 0)
    assert cause in worker.receive().message
    status, said = worker.end()
    assert (status, "the GPU's context is lost" in said) == (3, True)


def test_descriptors_travel_with_reports_and_none_stays(make: Make) -> None:
    worker = make()
    worker.start(pair())
    for number in range(3):
        worker.send(batch_of(Placement(1, [worker.memory.put(0, rows(number))], [unplaced(0)]), number=number))
        done = worker.receive()
        (fd,) = worker.link.take_fds(done.fds)
        assert np.frombuffer(os.pread(fd, 8, 0), np.float32).tolist() == [number] * 2
        os.close(fd)
    send(worker, 4)
    worker.receive()
    held = [os.readlink(f"/proc/{worker.child.pid}/fd/{name}") for name in os.listdir(f"/proc/{worker.child.pid}/fd")]
    assert not [name for name in held if "penstock-m" in name]


def test_a_machine_without_a_gpu_says_so(make: Make) -> None:
    worker = make(gpus="0")
    failed = worker.load(pair())
    assert isinstance(failed, LoadFailed)
    assert "no usable NVIDIA GPU" in failed.message
    assert worker.end()[0] == 1


def test_a_worker_says_that_what_it_computes_on_the_cpu_stays_there(make: Make) -> None:
    worker = make()
    assert isinstance(worker.load(spec_of("fake", {"x": ("FP32", [2])}, {"y": ("FP32", [2])})), Loaded)
    worker.send(Start(pair()))
    assert worker.receive() == Ready(on_host=True)
    worker.send(Stop())
    assert worker.end()[0] == 0


# --- waiting ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy_wait", "wanted", "expected"),
    [
        ("auto", False, SPIN_NS), ("auto", True, ALWAYS_NS), ("always", False, ALWAYS_NS), ("never", False, 0),
        ("never", True, 0),
    ],
)  # fmt: skip
def test_who_says_how_long_to_look_before_sleeping(busy_wait: Any, wanted: bool, expected: int) -> None:
    spec = pair()
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    spec = ModelSpec(**{**fields, "optimization": Optimization(busy_wait=wanted)})
    assert spin_ns(Gpu("", busy_wait=busy_wait), spec) == expected


@pytest.mark.parametrize("busy_wait", ["auto", "never"])
def test_a_worker_whose_batch_takes_long_sleeps(make: Make, busy_wait: Any, simulated_cuda: SimulatedCuda) -> None:
    worker = make(Gpu("", busy_wait=busy_wait))
    worker.start(pair())
    threads = Path(f"/proc/{worker.child.pid}/task")
    others = len(os.listdir(threads))
    simulated_cuda.pause()
    send(worker, 0)
    while len(os.listdir(threads)) == others or not is_asleep(worker):  # its thread waits for the event, and it for both
        os.sched_yield()
    # And is awake for another batch, and for the end of both
    send(worker, 1)
    assert not worker.link.wait(0.02)
    simulated_cuda.resume()
    assert [worker.receive().batch for _ in range(2)] == [0, 1]


def test_a_worker_that_shall_always_look_never_sleeps(make: Make, simulated_cuda: SimulatedCuda) -> None:
    worker = make(Gpu("", busy_wait="always"))
    worker.start(pair())
    threads = Path(f"/proc/{worker.child.pid}/task")
    others = len(os.listdir(threads))
    simulated_cuda.pause()
    send(worker, 0)
    before = cpu_ticks(worker)
    while cpu_ticks(worker) < before + 3:  # hundredths of a second, which one that sleeps does not use
        os.sched_yield()
    assert len(os.listdir(threads)) == others
    simulated_cuda.resume()
    assert worker.receive().batch == 0


def test_a_sleeper_is_woken_by_the_lane_that_ends_first(simulated_cuda: SimulatedCuda) -> None:
    simulation = simulated_cuda.simulation
    ours, theirs = os.pipe()
    with Device(0, blocking=True) as device, Stream(device) as slow, Stream(device) as fast, standing_still(simulation, slow):
        events = [Event(blocking=True), Event(blocking=True)]
        waiter = Waiter(ours, device)
        for stream, event in zip((slow, fast), events, strict=True):
            simulation.enqueue(stream.handle, lambda: None)
            event.record(stream)
        # Given that it waits for both lanes, and the first stands still
        waiter.sleep(list(enumerate(events)), listens=True)
        assert (events[0].is_done(), events[1].is_done()) == (False, True)
        # Then it waits for the first alone until the link is readable
        os.write(theirs, b"!")
        waiter.sleep([(0, events[0])], listens=True)
        # And not for the link where it does not listen
        threading.Timer(0.02, simulation.release, [slow.handle]).start()
        waiter.sleep([(0, events[0])], listens=False)
        assert events[0].is_done()
        waiter.close()
        for event in events:
            event.close()
    os.close(ours)
    os.close(theirs)


def test_a_sleeper_is_woken_though_its_thread_cannot_use_the_device(simulated_cuda: SimulatedCuda) -> None:
    ours, theirs = os.pipe()
    with Device(0, blocking=True) as device, Stream(device) as stream, Event() as event:
        waiter = Waiter(ours, device)
        event.record(stream)
        simulated_cuda.simulation.fail("cudaSetDevice", "cudaErrorUnknown")
        waiter.sleep([(0, event)], listens=False)  # whoever asks the event then hears what is wrong
        waiter.close()
    os.close(ours)
    os.close(theirs)


def test_a_sleep_is_short_while_its_thread_waits_for_what_is_not_awaited_any_more(simulated_cuda: SimulatedCuda) -> None:
    simulation = simulated_cuda.simulation
    ours, theirs = os.pipe()
    os.write(theirs, b"!")
    with Device(0, blocking=True) as device, Stream(device) as stream, Event() as before, Event() as now:
        waiter = Waiter(ours, device)
        # Given a thread that waits for an event of a stream that stands still
        with standing_still(simulation, stream):
            before.record(stream)
            waiter.sleep([(0, before)], listens=True)
            # Then what waits for another is not left to that
            waiter.sleep([(0, now)], listens=False)
            waiter.check_invariants()
        waiter.close()
        waiter.check_invariants()
    os.close(ours)
    os.close(theirs)
