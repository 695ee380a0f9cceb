# SPDX-License-Identifier: Apache-2.0
"""A real worker process at the end of a socketpair, driven with the messages of the protocol."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_process import ONES, OUT, WorkerProcess
from worker_rig import Memory, batch_of, spec_of, unplaced, write_prefix_model

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.local import LinkClosed, LocalLink
from penstock.ipc.messages import (
    BatchDone,
    FromWorker,
    Hello,
    Loaded,
    LoadFailed,
    LoadModel,
    ModelSpec,
    Placement,
    Ready,
    Start,
    Stop,
    UnmapRegion,
)


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess()
    yield process
    process.close()


def pair(backend: str = "fake", **parameters: str) -> ModelSpec:
    return spec_of(backend, {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, **parameters)


def test_a_worker_loads_executes_and_stops(worker: WorkerProcess, tmp_path: Path) -> None:
    spec = spec_of("onnxruntime", {"x": ("FP32", [6])}, {"y": ("FP32", [4])})
    loaded = worker.load(ModelSpec("m", 1, "onnxruntime", 16, [], []), write_prefix_model(tmp_path))
    assert loaded.pid == worker.child.pid
    assert loaded.signature.inputs[0].dims == [-1, 6]
    worker.send(Start(spec))
    assert worker.receive() == Ready()
    worker.map(worker.memory)
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    worker.send(batch_of(Placement(1, [worker.memory.put(0, x)], [worker.memory.place(0, OUT, 16)])))
    done = worker.receive()
    assert (done.batch, done.message, done.items) == (7, "", [])
    assert worker.memory.get(OUT, "FP32", (4,)).tolist() == [0, 1, 2, 3]
    worker.send(Stop())
    assert worker.end() == (0, "")


def test_a_model_that_cannot_be_loaded_is_reported_before_the_worker_ends(worker: WorkerProcess, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    failed = worker.load(ModelSpec("m", 1, "onnxruntime", 0, [], []), tmp_path)
    assert isinstance(failed, LoadFailed)
    assert "'model.onnx' cannot be loaded" in failed.message
    assert (failed.fault, worker.end()[0]) == ("model", 1)


def test_a_configuration_that_does_not_suit_is_reported(worker: WorkerProcess) -> None:
    spec = spec_of("identity", {"x": ("FP32", [2])}, {"y": ("FP32", [3])})
    assert isinstance(worker.load(spec), Loaded)
    worker.send(Start(spec))
    failed = worker.receive()
    assert (type(failed), failed.code, failed.fault) == (LoadFailed, "INVALID_ARG", "caller")
    assert worker.end()[0] == 1


def test_each_batch_is_answered_before_the_next_is_begun(worker: WorkerProcess, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "barrier"))
        listener.listen()
        worker.start(pair(mode="barrier", barrier_path=str(tmp_path / "barrier")))
        worker.send(batch_of(worker.request(), number=1), batch_of(worker.request(), worker.request(at=64), number=2))
        with listener.accept()[0] as first:
            assert first.recv(100) == b"entered 1\n"
            first.send(b"!")
        with listener.accept()[0] as second:
            assert second.recv(100) == b"entered 2\n"
            assert worker.receive().batch == 1
            assert not worker.link.wait(0)
            second.send(b"!")
        assert worker.receive().batch == 2


def test_a_failing_model_does_not_cost_the_worker(worker: WorkerProcess) -> None:
    worker.start(pair(mode="failing", message="no"))
    worker.send(batch_of(worker.request(), number=1), batch_of(worker.request(), number=2))
    assert [(done.batch, done.message) for done in (worker.receive(), worker.receive())] == [(1, "no"), (2, "no")]


@pytest.mark.parametrize("stage", ["load", "warm_up", "execute"])
def test_dying_ends_the_link_with_the_process(worker: WorkerProcess, stage: str) -> None:
    spec = pair(mode="dying", at=stage, signal=str(int(signal.SIGSEGV)))
    worker.send(LoadModel(spec, "m_0_0", ""), Start(spec))
    worker.map(worker.memory)
    worker.send(batch_of(worker.request()))
    answers = list(iter(worker.receive_or_none, None))
    assert len(answers) == ["load", "warm_up", "execute"].index(stage)
    status, said = worker.end()
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in said


def test_the_worker_ends_when_the_broker_closes(worker: WorkerProcess) -> None:
    worker.start(pair())
    worker.link.close()
    assert worker.end() == (0, "")


def test_the_worker_ends_with_its_parent() -> None:
    ours, theirs = socket.socketpair()
    program = (
        "import os, subprocess, sys; fd = int(sys.argv[1]);"
        "child = subprocess.Popen([sys.executable, '-m', 'penstock.workers', '--fd', str(fd), '--parent', str(os.getpid())],"
        " pass_fds=[fd]); print(child.pid, flush=True); sys.stdin.read()"
    )
    with ours, theirs:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        link: LocalLink[Any] = LocalLink(ours, FrameDecoder(FromWorker))
        link.put(LoadModel(pair(), "m_0_0", ""))
        link.flush(block=True)
        assert isinstance(link.receive(block=True)[0], Loaded)
        parent.kill()
        parent.communicate()
        poll = select.poll()
        poll.register(pidfd)
        assert poll.poll(5000)
        os.close(pidfd)
        link.close()


def test_an_interrupt_of_the_group_is_the_brokers_business(worker: WorkerProcess) -> None:
    worker.start(pair())
    os.kill(worker.child.pid, signal.SIGINT)
    worker.send(batch_of(worker.request()))
    assert worker.receive().message == ""
    worker.child.terminate()
    assert worker.end()[0] == -signal.SIGTERM


def test_a_broker_that_breaks_the_protocol_is_told_apart(worker: WorkerProcess) -> None:
    worker.send(batch_of(Placement(1, [], [])))
    status, said = worker.end()
    assert status == 2
    assert "a batch while this worker was empty" in said


def test_a_message_that_cannot_be_read_ends_the_worker(worker: WorkerProcess) -> None:
    worker.send(Hello(session=bytes(16)))
    status, said = worker.end()
    assert status == 2
    assert "cannot read" in said


def test_unplaced_outputs_travel_with_the_report(worker: WorkerProcess) -> None:
    worker.start(pair("identity"))
    worker.send(batch_of(*(Placement(1, [worker.memory.put(at * 8, ONES * at)], [unplaced(0)]) for at in range(3))))
    done = worker.receive()
    assert isinstance(done, BatchDone)
    fds = worker.link.take_fds(done.fds)
    assert [np.frombuffer(os.pread(fd, 8, 0), np.float32).tolist() for fd in fds] == [[at, at] for at in range(3)]
    for fd in fds:
        os.close(fd)
    worker.send(batch_of(worker.request()))
    worker.receive()  # it is past closing its own
    assert not [name for name in os.listdir(f"/proc/{worker.child.pid}/fd") if "penstock-m" in _target(worker, name)]


def test_more_descriptors_than_a_message_can_bring_fail_the_batch_and_leave_none(worker: WorkerProcess) -> None:
    spec = spec_of("identity", {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, max_batch_size=400)
    worker.start(spec)
    placement = Placement(1, [worker.memory.put(0, ONES)], [unplaced(0)])
    worker.send(batch_of(*[placement] * 300))
    done = worker.receive()
    assert (done.code, done.fault, done.fds) == ("UNAVAILABLE", "machine", 0)
    assert "the outputs of 300 requests cannot be handed over" in done.message
    worker.send(batch_of(worker.request()))
    assert worker.receive().message == ""
    assert len(os.listdir(f"/proc/{worker.child.pid}/fd")) < 20


def _target(worker: WorkerProcess, name: str) -> str:
    return os.readlink(f"/proc/{worker.child.pid}/fd/{name}")


@pytest.mark.parametrize("isolate", [False, True])
def test_an_unmapped_region_is_gone_from_the_worker(worker: WorkerProcess, isolate: bool) -> None:
    worker.start(pair("identity"), isolate=isolate)
    other = Memory(2)
    worker.map(other, sealed=not isolate)
    worker.send(batch_of(worker.request(memory=other)), UnmapRegion(2), batch_of(worker.request()))
    assert [worker.receive().message for _ in range(2)] == ["", ""]
    proc = Path(f"/proc/{worker.child.pid}")
    held = [_target(worker, name) for name in os.listdir(proc / "fd")]
    assert "rig-2" not in (proc / "maps").read_text() + " ".join(held)
    other.close()


def truncatable() -> Memory:
    fd = os.memfd_create("truncatable", os.MFD_CLOEXEC)
    os.ftruncate(fd, 65536)
    return Memory(2, 65536, fd)


def test_truncating_a_mapped_segment_costs_the_worker(worker: WorkerProcess) -> None:
    worker.start(pair("identity"))
    other = truncatable()
    worker.map(other, sealed=False)
    placement = worker.request(memory=other)
    worker.send(batch_of(placement))
    assert worker.receive().message == ""
    os.ftruncate(other.fd, 0)
    worker.send(batch_of(placement))
    with pytest.raises(LinkClosed):
        worker.receive()
    assert worker.end()[0] == -signal.SIGBUS
    other.close()


def test_truncating_an_isolated_segment_costs_its_request(worker: WorkerProcess) -> None:
    worker.start(pair("identity"), isolate=True)
    other = truncatable()
    worker.map(other, sealed=False)
    placement = worker.request(memory=other)
    os.ftruncate(other.fd, 0)
    worker.send(batch_of(placement, worker.request()))
    done = worker.receive()
    assert [item.code for item in done.items] == ["INVALID_ARG", ""]
    assert done.items[0].message.startswith("region shrank")
    other.close()


def test_a_worker_attached_by_hand_introduces_itself(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "broker.sock"))
        listener.listen()
        program = "import sys; from penstock.workers.main import attach; sys.exit(attach(sys.argv[1], 'digits'))"
        child = subprocess.Popen([sys.executable, "-c", program, f"unix://{tmp_path}/broker.sock"])
        link: LocalLink[Any] = LocalLink(listener.accept()[0], FrameDecoder(FromWorker))
        (hello,) = link.receive(block=True)
        assert (hello.role, hello.name, len(hello.session), hello.pid) == ("worker", "digits", 16, child.pid)
        link.put(LoadModel(pair("identity"), "digits_0_0", ""))
        link.put(Stop())
        link.flush(block=True)
        assert isinstance(link.receive(block=True)[0], Loaded)
        assert child.wait() == 0
        link.close()
