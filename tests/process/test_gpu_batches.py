# SPDX-License-Identifier: Apache-2.0
"""Batches on a GPU through the real client: what is copied, what overlaps, and what a lost GPU costs.

The GPUs are simulated (tests/simulated): this shows how requests are served, and nothing of a GPU's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running import LINKS, RunningBroker, eventually
from simulated.fixtures import SimulatedCuda, pass_on

from penstock.clients import Client, MachineError, ModelError

CONFIG = """
backend: "identity"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_GPU count: 1 } ]
"""


@pytest.fixture
def machine(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimulatedCuda:
    """This process's children find a GPU, and a model for it."""
    pass_on(simulated_cuda.environment(), monkeypatch)
    (tmp_path / "models" / "echo" / "1").mkdir(parents=True)
    (tmp_path / "models" / "echo" / "config.pbtxt").write_text(CONFIG)
    return simulated_cuda


def rows(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((1, 2), value, np.float32)


@pytest.mark.parametrize("link", LINKS)
def test_a_clients_own_memory_is_all_that_the_gpu_copies_from_and_to(tmp_path: Path, machine: SimulatedCuda, link: str) -> None:
    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client(link) as client:
        result = client.infer("echo", {"x": rows(3)}, explain=True)
        assert result.outputs["y"].tolist() == [[3, 3]]
        assert result.explain is not None
        assert {copied.kind: copied.byte_size for copied in result.explain.copies} == {"h2d": 8, "d2h": 8}
        assert result.explain.compute_infer_ns > 0
        assert "goes through memory of this worker" not in broker.log()


def test_what_comes_while_the_gpu_is_busy_is_served_when_it_goes_on(tmp_path: Path, machine: SimulatedCuda) -> None:
    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client("local") as client:
        client.infer("echo", {"x": rows(0)})
        # Given a GPU that stands still while requests come
        machine.pause()
        futures = [client.submit("echo", {"x": rows(at)}) for at in range(20)]
        assert not any(future.done() for future in futures)
        # When it goes on
        machine.resume()
        results = [future.result(20.0) for future in futures]
        # Then each gets its own
        assert [result.outputs["y"].tolist() for result in results] == [[[at, at]] for at in range(20)]


def test_a_lost_gpu_costs_its_batches_and_its_worker_which_is_started_again(
    tmp_path: Path, machine: SimulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a GPU that fails for good in each worker's twelfth batch or so
    monkeypatch.setenv("SIMULATED_CUDA_FAIL", "cudaEventRecord:48:cudaErrorIllegalAddress")
    machine.forgive()
    with RunningBroker(tmp_path, tmp_path / "models") as broker, broker.client("local") as client:
        (first,) = broker.workers()
        error = _failure(client)
        assert "cudaErrorIllegalAddress" in str(error)
        # Then the next requests are served by another worker
        eventually(lambda: broker.workers() not in ([], [first]), 20.0, "the worker is started again")
        assert client.infer("echo", {"x": rows(5)}, timeout_s=20.0).outputs["y"].tolist() == [[5, 5]]
        assert "worker stops: the GPU's context is lost" in broker.log()


def _failure(client: Client) -> Exception:
    """What the first request that fails, fails of."""
    for at in range(100):
        try:
            client.infer("echo", {"x": rows(at)})
        except (MachineError, ModelError) as error:
            return error
    raise AssertionError("nothing failed")
