# SPDX-License-Identifier: Apache-2.0
"""Memory that is not to be had, that shrinks under a running batch, or that belongs to somebody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from running import PROGRAMS, Barrier, Program, RunningBroker, add_model, answer, eventually, is_alive, ready_pid, rows

from penstock.clients import CallerError, Client, Code, InferFuture, MachineError, ModelError, PenstockError, SystemRegion
from penstock.ipc.regions import create_memfd
from penstock.ipc.system_regions import create_system

MB = 1024 * 1024
LARGE_MB = 32
RESTARTED_WITHIN_S = 10.0


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


def add_small_and_large(repository: Path) -> None:
    """The slot of `large` takes twice LARGE_MB."""
    add_model(repository, "echo")
    add_model(repository, "large", width=LARGE_MB * MB // 4)


def test_no_memory_for_a_slot(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a process that may have files of 16 MB, when it leases a slot of 64, then it learns the sizes and goes on."""
    add_small_and_large(repository)
    with RunningBroker(tmp_path, repository) as broker:
        before = broker.memory()
        with Program("asks_for_too_much", broker.addresses[link], "large", str(16 * MB)) as program:
            refused = program.say()
            assert f"{2 * LARGE_MB * MB} bytes are not to be had (File too large)" in refused["error"]
            assert refused["error"].endswith(" are available")
            assert refused["fault"] == "machine" and refused["left"] == []
            assert program.say() == {"y": [[1, 2]]}
        eventually(lambda: broker.memory() == before, 1, "nothing is left")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting a small /dev/shm takes root and unshare")
def test_shared_memory_is_full(tmp_path: Path, repository: Path) -> None:
    """Given a /dev/shm of 16 MB, when a slot of 64 is leased over ZeroMQ, then the client learns the sizes and goes on."""
    add_small_and_large(repository)
    command = ["unshare", "--mount", sys.executable, str(PROGRAMS / "fills_shared_memory.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    refused, served = (json.loads(line) for line in done.stdout.splitlines())
    assert f"{2 * LARGE_MB * MB} bytes are not to be had (No space left on device)" in refused["error"]
    assert refused["fault"] == "machine" and refused["left"] == []
    assert served == {"y": [[1, 2]]}


@pytest.mark.parametrize("create", [create_memfd, create_system])
def test_more_than_the_machine_has(create: Callable[[str, int], int]) -> None:
    """Given a size beyond all memory, when it is asked for, then it is refused at once, and not by filling the machine."""
    byte_size = 2**46
    with pytest.raises(MachineError, match=rf"{byte_size} bytes are not to be had \(.*\), \d+ are available"):
        create(f"penstock-test-{os.getpid()}", byte_size)
    assert not Path(f"/dev/shm/penstock-test-{os.getpid()}").exists()


def submit_placed(client: Client, region: SystemRegion) -> InferFuture:
    """A request for `gate` whose input and output lie in the region, a page each."""
    region.view("FP32", [1, 1024])[:] = 7
    return client.submit("gate", {"x": region.tensor("FP32", [1, 1024])}, {"y": region.tensor("FP32", [1, 1024], 4096)})


@pytest.mark.parametrize("isolated", [False, True])
def test_truncated_under_a_running_batch(tmp_path: Path, repository: Path, barrier: Barrier, link: str, isolated: bool) -> None:
    """Given a running batch, when its client truncates the segment it lies in, then that client gets a typed error.

    Mapped directly, the segment costs the worker its life, and it is started again; isolated, it costs nothing else.
    """
    add_model(repository, "echo")
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path, width=1024)
    options = ("--isolate-system-regions",) if isolated else ()
    key = f"penstock-test-{os.getpid()}"
    with (
        RunningBroker(tmp_path, repository, *options) as broker,
        broker.client(link) as victim,
        broker.client(link) as bystander,
        SystemRegion.create("mine", key, 8192) as region,
    ):
        victim.register(region)
        future = submit_placed(victim, region)
        held = barrier.entered()
        pid = ready_pid(bystander, "gate")
        behind = bystander.submit("gate", {"x": np.full((1, 1024), 3, np.float32)})
        os.truncate(f"/dev/shm/{key}", 0)
        held.let_go()
        if isolated:
            with pytest.raises(CallerError, match="region shrank: 4096 bytes at offset 4096 are wanted, 0 bytes are left"):
                future.result(5)
        else:
            with pytest.raises(ModelError, match=r"model 'gate': worker died \(signal 7"):
                future.result(5)
        assert answer(bystander.infer("echo", rows(1), timeout_s=5)) == [1]
        barrier.entered().let_go()
        assert (behind.result(RESTARTED_WITHIN_S).outputs["y"] == 3).all(), "the request behind it was not harmed"
        assert is_alive(pid) == isolated
        assert (ready_pid(bystander, "gate") == pid) == isolated


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a segment to another user takes root")
def test_another_users_key(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a segment of another uid, which root could open, when it is registered, then it is refused."""
    add_model(repository, "echo")
    key = f"penstock-test-{os.getpid()}"
    with (
        RunningBroker(tmp_path, repository) as broker,
        broker.client(link) as client,
        SystemRegion.create("theirs", key, 4096) as region,
    ):
        os.chown(f"/dev/shm/{key}", 65534, 65534)
        before = broker.memory()
        with pytest.raises(CallerError, match=rf"shared memory key '{key}' does not belong to uid 0") as refused:
            client.register(region)
        assert refused.value.code is Code.INVALID_ARG
        assert broker.memory() == before
        assert client.regions() == []
        with pytest.raises(PenstockError, match="theirs"):
            client.infer("echo", {"x": region.tensor("FP32", [1, 2])})
        os.chown(f"/dev/shm/{key}", 0, 0)
        client.register(region)
        assert [row["name"] for row in client.regions()] == ["theirs"]
