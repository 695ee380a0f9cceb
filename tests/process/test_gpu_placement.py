# SPDX-License-Identifier: Apache-2.0
"""Models on GPUs, through the real client: which GPU, how many lanes, and what is said where there is none.

The GPUs are simulated (tests/simulated): this shows where instances go and that they answer, and nothing of a GPU's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import LINKS, RunningBroker, eventually
from simulated.fixtures import SimulatedCuda, pass_on

from penstock.clients import CallerError, Client, CudaRegion

CONFIG = """
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { %s } ]
"""


@pytest.fixture
def machine(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    """This process's children find two GPUs; itself uses none."""
    simulated_cuda.configure(gpus=2)
    pass_on(simulated_cuda.environment(), monkeypatch)
    return simulated_cuda


def add_model(repository: Path, group: str, name: str = "echo") -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG % group)


def instances(client: Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = client.status()["instances"]
    return sorted(rows, key=lambda row: str(row["instance"]))


def answers(client: Client, count: int) -> None:
    """So many requests are answered with what they brought, each its own."""
    futures = [client.submit("echo", {"x": np.full((1, 2), at, np.float32)}) for at in range(count)]
    for at, future in enumerate(futures):
        assert future.result(20.0).outputs["y"].tolist() == [[at, at]]


@pytest.mark.parametrize("link", LINKS)
def test_a_model_on_two_gpus_serves_with_its_count_on_each(tmp_path: Path, machine: SimulatedCuda, link: str) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU count: 2")

    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client(link) as client:
        answers(client, 16)

        rows = instances(client)
        assert [(row["instance"], row["gpu"]["ordinal"], row["state"]) for row in rows] == [
            ("echo_0_0_gpu0", 0, "ready"), ("echo_0_0_gpu1", 1, "ready"),
            ("echo_0_1_gpu0", 0, "ready"), ("echo_0_1_gpu1", 1, "ready"),
        ]  # fmt: skip
        gpus = client.status()["gpus"]
        assert [row["gpu"]["uuid"] for row in rows[:2]] == [gpu["uuid"] for gpu in gpus]
        # And each worker sees its own GPU alone
        for row in rows:
            variables = Path(f"/proc/{row['pid']}/environ").read_bytes().split(b"\0")
            assert f"CUDA_VISIBLE_DEVICES={row['gpu']['uuid']}".encode() in variables


def test_lanes_are_instances_that_share_a_worker(tmp_path: Path, machine: SimulatedCuda) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU gpus: [ 1 ] count: 4")

    with RunningBroker(tmp_path, tmp_path / "models", "--lanes", "2") as broker, broker.client("local") as client:
        answers(client, 32)
        assert [row["lanes"] for row in instances(client)] == [["echo_0_0", "echo_0_1"], ["echo_0_2", "echo_0_3"]]

        # When a worker dies, it comes back with both
        dead = instances(client)[0]["pid"]
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: dead not in [row["pid"] for row in instances(client)], 20.0, "the death of a worker is noticed")
        answers(client, 8)
        eventually(lambda: len(instances(client)) == 2, 20.0, "the worker is started again")


def test_a_gpu_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path, machine: SimulatedCuda) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU gpus: [ 7 ]")

    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client("local") as client:
        (row,) = client.index()
        assert row["state"] == "UNAVAILABLE"
        assert "specifies invalid or unsupported gpu id 7. GPUs of this broker are: 0 (Simulated GPU" in row["reason"]


def test_without_a_gpu_it_is_an_error_or_with_fallback_the_cpu(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU")

    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client("local") as client:
        (row,) = client.index()
        assert "has kind KIND_GPU but server does not support GPUs: " in row["reason"]
        assert row["reason"].endswith("write KIND_CPU or KIND_AUTO, or serve with --fallback cpu")

    with RunningBroker(tmp_path, tmp_path / "models", "--fallback", "cpu") as broker, broker.client("local") as client:
        answers(client, 4)
        assert [row["gpu"] for row in instances(client)] == [None]
        assert "instance_group[0].kind is KIND_GPU, served on the CPU because of --fallback cpu" in broker.log()


@pytest.mark.parametrize("link", LINKS)
def test_a_request_goes_to_the_gpu_that_its_memory_is_on(tmp_path: Path, machine: SimulatedCuda, link: str) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU count: 2")
    add_model(tmp_path / "models", "kind: KIND_GPU gpus: 0", "zero")

    with (
        RunningBroker(tmp_path, tmp_path / "models") as broker,
        broker.client(link) as client,
        CudaRegion.allocate("near", 4096, device=0) as near,
        CudaRegion.allocate("far", 4096, device=1) as far,
    ):
        # Given requests with memory on either GPU, and with none, all at once
        futures = []
        for region in (near, far):
            client.register(region)
            region.write(np.arange(16, dtype=np.float32).reshape(8, 2))
        for at in range(8):
            for region in (near, far):
                x, y = region.tensor("FP32", [1, 2], 8 * at), region.tensor("FP32", [1, 2], 2048 + 256 * at)
                futures.append((region, client.submit("echo", {"x": x}, {"y": y}, explain=True)))
            futures.append((None, client.submit("echo", {"x": np.full((1, 2), at, np.float32)})))

        # Then each is executed where its memory is, and none of them waits for ever
        for region, future in futures:
            result = future.result(20.0)
            if region is not None:
                assert result.explain.instance.endswith("_gpu0" if region is near else "_gpu1")
        for region in (near, far):
            assert region.read(2048 + 256 * 7, np.float32, (1, 2)).tolist() == [[14, 15]]

        # And a model that is on the other GPU alone says so
        with pytest.raises(
            CallerError, match=f"model 'zero' runs on {near.uuid} and cannot reach region 'far', CUDA memory on"
        ):
            client.infer("zero", {"x": far.tensor("FP32", [1, 2])})


def test_a_worker_attached_by_hand_serves_host_and_cuda_memory(tmp_path: Path, machine: SimulatedCuda) -> None:
    add_model(tmp_path / "models", "kind: KIND_GPU gpus: 1")

    with (
        RunningBroker(tmp_path, tmp_path / "models", command="broker") as broker,
        broker.client("local") as client,
        CudaRegion.allocate("there", 4096, device=1) as region,
    ):
        command = [sys.executable, "-m", "penstock.clients.cli", "worker", "echo", "--connect", broker.addresses["local"]]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            # Given a worker that finds its GPU among all that it sees
            eventually(lambda: client.is_ready("echo"), 20.0, "the worker is attached")
            (row,) = instances(client)
            assert (row["pid"], row["gpu"]["ordinal"], row["state"]) == (worker.pid, 1, "ready")

            # When it is told of memory on the host, which it pins, and on its GPU, which it opens, and says so
            answers(client, 8)
            client.register(region)
            region.write(np.arange(2, dtype=np.float32).reshape(1, 2))
            client.infer("echo", {"x": region.tensor("FP32", [1, 2])}, {"y": region.tensor("FP32", [1, 2], 2048)})
            assert region.read(2048, np.float32, (1, 2)).tolist() == [[0, 1]]

            # Then it is still the same worker, which gives the memory back
            client.unregister("there")
            assert [row["pid"] for row in instances(client)] == [worker.pid]
        finally:
            worker.kill()
            worker.wait()
