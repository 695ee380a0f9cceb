# SPDX-License-Identifier: Apache-2.0
"""CUDA shared memory through a gateway, on a simulated GPU; nothing here is said of a real one."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from gateways import RunningGateway
from running import RunningBroker, eventually
from simulated.fixtures import SimulatedCuda, pass_on
from tritonclient.utils import InferenceServerException

from penstock.clients import Client, CudaRegion

LIBRARIES: dict[str, Any] = {"http": over_http, "grpc": over_grpc}
CONFIG = """
name: "there"
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: 1 kind: KIND_GPU } ]
"""


@pytest.fixture
def machine(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    pass_on(simulated_cuda.environment(), monkeypatch)
    return simulated_cuda


@pytest.fixture
def gateway(machine: SimulatedCuda, repository: Path, tmp_path: Path) -> Iterator[RunningGateway]:
    (repository / "there" / "1").mkdir(parents=True)
    (repository / "there" / "config.pbtxt").write_text(CONFIG)
    with RunningBroker(tmp_path, repository) as broker, RunningGateway(tmp_path, broker.addresses["local"]) as running:
        yield running
        machine.resume()


def tensors(library: Any, region: str) -> dict[str, Any]:
    given, wanted = library.InferInput("x", [1, 2], "FP32"), library.InferRequestedOutput("y")
    given.set_shared_memory(region, 8, 256)
    wanted.set_shared_memory(region, 8, 512)
    return {"model_name": "there", "inputs": [given], "outputs": [wanted]}


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **options)
    return str(refused.value.message())


def status(client: Any) -> list[dict[str, Any]]:
    found = client.get_cuda_shared_memory_status()
    if isinstance(found, list):
        return found
    return [{"name": row.name, "device_id": row.device_id, "byte_size": row.byte_size} for row in found.regions.values()]


@pytest.mark.parametrize("protocol", LIBRARIES)
def test_requests_lie_in_cuda_memory(gateway: RunningGateway, machine: SimulatedCuda, protocol: str) -> None:
    """Given an allocation's handle, then requests go from it to it, and what was wrong is refused in Triton's words."""
    library = LIBRARIES[protocol]
    with (
        library.InferenceServerClient(getattr(gateway, protocol)) as client,
        CudaRegion.allocate("mine", 4096) as region,
    ):
        handle = base64.b64encode(region.handle)
        client.register_cuda_shared_memory("mine", handle, 0, 4096)
        assert status(client) == [{"name": "mine", "device_id": 0, "byte_size": 4096}]
        assert "already in manager" in refusal(client.register_system_shared_memory, "mine", "/none", 64)
        wrong = "The region named 'mine' is registered as CUDA shared memory, not system shared memory"
        assert wrong in refusal(client.get_system_shared_memory_status, "mine")
        region.write(np.array([[3, 4]], np.float32), 256)
        client.infer(**tensors(library, "mine"))
        assert region.read(512, np.float32, (1, 2)).tolist() == [[3, 4]]

        garbage = base64.b64encode(b"garbage." * 8)
        for made in (("bad", handle, 7, 64), ("bad", garbage, 0, 64), ("bad", handle, 0, 1 << 40)):
            refused = refusal(client.register_cuda_shared_memory, *made)
            assert refused.startswith("failed to register shared memory region: invalid args: region 'bad'")
        client.unregister_system_shared_memory("mine")
        assert [row["name"] for row in status(client)] == ["mine"]
        client.unregister_cuda_shared_memory()
        assert status(client) == []


def test_cuda_memory_in_use_is_closed_with_its_last_request(gateway: RunningGateway, machine: SimulatedCuda) -> None:
    """Given a request that the device is busy with, when its memory is unregistered, then it stays listed until that has ended."""
    with over_http.InferenceServerClient(gateway.http) as client, CudaRegion.allocate("mine", 4096) as region:
        client.register_cuda_shared_memory("mine", base64.b64encode(region.handle), 0, 4096)
        region.write(np.array([[5, 6]], np.float32), 256)
        machine.pause()
        results: list[Any] = []
        with over_grpc.InferenceServerClient(gateway.grpc) as other:
            ended = threading.Event()

            def hear(result: Any, error: Any) -> None:
                results.append(error or result)
                ended.set()

            other.async_infer(callback=hear, **tensors(over_grpc, "mine"))
            eventually(lambda: in_flight(gateway) == 1, 10, "the request is in flight")
            client.unregister_cuda_shared_memory("mine")
            assert [row["name"] for row in status(client)] == ["mine"]
            machine.resume()
            assert ended.wait(20) and not isinstance(results[0], Exception)
        eventually(lambda: status(client) == [], 5, "the region is gone")
        assert region.read(512, np.float32, (1, 2)).tolist() == [[5, 6]]


def in_flight(gateway: RunningGateway) -> int:
    """Requests in the region "mine", as the broker counts them."""
    with Client(f"unix://{gateway.folder}/broker.sock") as client:
        return sum(row["in_flight"] for row in client.regions() if row["name"] == "mine")
