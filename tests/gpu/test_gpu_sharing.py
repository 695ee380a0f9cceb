# SPDX-License-Identifier: Apache-2.0
"""Several workers on one GPU, with MPS and without; and what is held of a GPU when much has come and gone."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from exchanging import KINDS, Exchange
from gpu_machine import GpuMachine, add_gpu_model
from running import children_of, eventually, is_alive, ready_pid

from penstock.clients import Client
from penstock.ipc import cuda
from penstock.ipc.errors import PenstockError

WIDTH = 1024
FORGOTTEN_BYTES = 64 << 20
"""What may be missing of a GPU's memory when everything was given back: the driver keeps some for itself."""


def needs_mps(gpu: GpuMachine) -> None:
    """Skips where NVIDIA's program is not installed."""
    if not gpu.is_simulated and shutil.which("nvidia-cuda-mps-control") is None:
        pytest.skip("nvidia-cuda-mps-control is not on this machine")


def mps_of(client: Client) -> list[bool]:
    """Of each worker, whether it computes through MPS."""
    return [bool(each["mps"]) for each in client.status()["instances"]]


def test_workers_that_share_a_gpu_compute_through_a_daemon_that_goes_with_the_broker(gpu: GpuMachine, repository: Path) -> None:
    needs_mps(gpu)
    # Given two workers on one GPU
    add_gpu_model(repository, "echo", width=WIDTH, count=2)
    with gpu.serving(repository) as broker, broker.client("local") as client:
        # Then both found the daemon
        assert mps_of(client) == [True, True], broker.log()
        assert client.status()["mps"] == {"mode": "auto", "state": "running", "reason": "", "workers": 2}
        for kind in KINDS:
            with Exchange(client, "echo", kind, (2, WIDTH)) as exchange:
                exchange.infer()
        directory = Path(os.environ["PENSTOCK_RUNTIME_DIR"], f"mps-{broker.pid}")
        assert directory.is_dir()
    # When the broker has left, then so has the daemon: the leak check of these tests would name it
    assert not directory.exists()


def test_a_killed_broker_leaves_no_daemon(gpu: GpuMachine, repository: Path) -> None:
    needs_mps(gpu)
    gpu.forgive()
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository, "--mps", "on") as broker, broker.client("local") as client:
        assert mps_of(client) == [True], broker.log()
        directory = Path(os.environ["PENSTOCK_RUNTIME_DIR"], f"mps-{broker.pid}")
        client.close()
        broker.kill()
    eventually(lambda: not directory.exists(), 20, "the daemon is gone")


def test_a_daemon_that_dies_is_replaced_and_its_workers_with_it(gpu: GpuMachine, repository: Path) -> None:
    needs_mps(gpu)
    gpu.forgive()
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository, "--mps", "on") as broker, broker.client("local") as client:
        before = ready_pid(client, "echo")
        # When the daemon is killed
        for pid in _daemons(broker.pid):
            os.kill(pid, signal.SIGKILL)
        # Then a new worker serves, and has a new daemon
        eventually(lambda: not is_alive(before), 30, "its worker is ended")
        eventually(lambda: ready_pid(client, "echo") not in (0, before), 60, "another is ready")
        assert mps_of(client) == [True], broker.log()
        with Exchange(client, "echo", "memfd", (1, WIDTH)) as exchange:
            exchange.infer()


def _daemons(broker: int) -> list[int]:
    """The control daemons below a broker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
            is_daemon = b"-f" in command and any(b"mps" in word for word in command)
            if is_daemon and f"mps-{broker}/pipe".encode() in environment:
                found.append(int(entry.name))
    assert found, "no daemon runs"
    return found


def test_with_off_workers_do_without(gpu: GpuMachine, repository: Path) -> None:
    add_gpu_model(repository, "echo", width=WIDTH, count=2)
    with gpu.serving(repository, "--mps", "off") as broker, broker.client("local") as client:
        assert mps_of(client) == [False, False]
        assert client.status()["mps"]["state"] == "unused"


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_without_the_program_auto_warns_and_on_refuses(gpu: GpuMachine, repository: Path, mode: str) -> None:
    if not gpu.is_simulated:
        pytest.skip("the path of this machine's programs is left as it is")
    # Given a machine that has no nvidia-cuda-mps-control
    add_gpu_model(repository, "echo", width=WIDTH, count=2)
    gpu.has_mps_control = False
    with gpu.serving(repository, "--mps", mode) as broker, broker.client("local") as client:
        (model,) = client.index()
        if mode == "auto":
            assert model["state"] == "READY"
            assert "no MPS daemon" in broker.log() and "take turns" in broker.log()
        else:
            assert model["state"] == "UNAVAILABLE"
            assert "--mps on" in model["reason"] and "No such file" in model["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_regions_that_come_and_go_leave_nothing(gpu: GpuMachine, repository: Path, kind: str) -> None:
    # Given a worker that has seen a few regions
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository, "--mps", "off") as broker, broker.client("local") as client:

        def cycle(turn: int) -> None:
            with Exchange(client, "echo", kind, (1, WIDTH), seed=turn) as exchange:
                exchange.infer()

        for turn in range(10):
            cycle(turn)
        descriptors, free = _descriptors(broker.pid), _free_bytes()
        # When many more come and go
        for turn in range(gpu.cycles(300)):
            cycle(turn)
        # Then neither descriptors nor memory of the GPU are missing
        eventually(lambda: _descriptors(broker.pid) <= descriptors + 2, 10, f"no more than {descriptors} descriptors")
        assert free - _free_bytes() < FORGOTTEN_BYTES


def _descriptors(broker: int) -> int:
    """Of the broker and its workers."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (broker, *children_of(broker)))


def _free_bytes() -> int:
    cuda.use(0)
    return int(cuda.call("cudaMemGetInfo")[0])


def test_a_model_too_large_for_the_gpu_fails_to_load_and_says_so(gpu: GpuMachine, repository: Path) -> None:
    # Given a model whose batches need more than any GPU has
    add_gpu_model(repository, "echo", width=1 << 30, max_batch_size=1024)
    with gpu.serving(repository) as broker, broker.client("local") as client:
        (model,) = client.index()
        assert model["state"] == "UNAVAILABLE", broker.log()
        assert "echo" in model["reason"] or "memory" in model["reason"].lower()
        with pytest.raises(PenstockError):
            client.model("echo")
