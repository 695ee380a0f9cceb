# SPDX-License-Identifier: Apache-2.0
"""Requests in CUDA regions and in pinned ones, through a whole broker, on a simulated GPU; nothing here is said of a real one."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Program, RunningBroker, add_model, answer, eventually, ready_pid, rows
from simulated.fixtures import SimulatedCuda, pass_on

from penstock.clients import AsyncClient, CallerError, Client, Code, CudaRegion, MemfdRegion, SystemRegion

CONFIG = """
name: "there"
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: COUNT kind: KIND_GPU } ]
"""


@pytest.fixture
def machine(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    """One whose processes, started as a user starts them, have a simulated GPU."""
    pass_on(simulated_cuda.environment(), monkeypatch)
    return simulated_cuda


@pytest.fixture
def models(repository: Path) -> Path:
    """`there` on the GPU, `here` on the CPU."""
    (repository / "there" / "1").mkdir(parents=True)
    (repository / "there" / "config.pbtxt").write_text(CONFIG.replace("COUNT", "1"))
    add_model(repository, "here")
    return repository


@pytest.fixture
def broker(machine: SimulatedCuda, models: Path, tmp_path: Path) -> Iterator[RunningBroker]:
    with RunningBroker(tmp_path, models) as running:
        yield running
        machine.resume()


@pytest.fixture
def client(broker: RunningBroker, link: str) -> Iterator[Client]:
    with broker.client(link, name="client") as client:
        yield client
        client.check_invariants()
    gc.collect()  # memory on the device goes with the last array on it


def shown(client: Client, name: str) -> dict[str, Any]:
    """A region as the broker shows it; empty when it knows none of that name."""
    return next((row for row in client.regions() if row["name"] == name), {})


def values(*given: float) -> np.ndarray[Any, Any]:
    return np.array([[value, -value] for value in given], np.float32)


def test_a_request_goes_from_device_memory_to_device_memory(client: Client) -> None:
    with CudaRegion.allocate("mine", 4096) as region:
        client.register(region)
        region.write(values(3, 4), 512)
        place = region.tensor("FP32", [2, 2], 1024)
        result = client.infer("there", {"x": region.tensor("FP32", [2, 2], 512)}, {"y": place})
        assert result.outputs["y"].read().tolist() == values(3, 4).tolist()
        assert region.read(1024, np.float32, (2, 2)).tolist() == values(3, 4).tolist()
        row = shown(client, "mine")
        assert (row["kind"], row["gpu"], row["mapped_by"]) == ("cuda", region.uuid, ["there_0_0"])
        client.unregister("mine")
        client.register(region)
        client.unregister()
        assert shown(client, "mine") == {}


def test_host_and_device_memory_go_together(client: Client, link: str) -> None:
    """Given an input in pinned host memory, then its output may lie on the device; and the other way round."""
    host: MemfdRegion | SystemRegion = (
        MemfdRegion("host", 4096) if link == "local" else SystemRegion.create("host", f"penstock-test-{os.getpid()}", 4096)
    )
    with host, CudaRegion.allocate("mine", 4096) as region:
        client.register(host)
        client.register(region)
        host.view("FP32", [1, 2])[:] = values(5)
        client.infer("there", {"x": host.tensor("FP32", [1, 2])}, {"y": region.tensor("FP32", [1, 2])})
        assert region.read(0, np.float32, (1, 2)).tolist() == values(5).tolist()
        client.infer("there", {"x": region.tensor("FP32", [1, 2])}, {"y": host.tensor("FP32", [1, 2], 256)})
        assert host.view("FP32", [1, 2], 256).tolist() == values(5).tolist()
        assert shown(client, "host")["pinned_by"] == ["there_0_0"]
        client.unregister()


def test_slots_on_the_device_serve_any_number_of_requests(client: Client) -> None:
    with client.buffers("there", 2, memory="cuda", device=0) as first, client.buffers("there", 1, memory="cuda") as second:
        for number in range(3):
            first.inputs["x"][...] = values(number, 7)
            second.inputs["x"].write(values(-number))
            client.infer(first)
            result = client.infer(second)
            assert first.outputs["y"].read().tolist() == values(number, 7).tolist()
            assert result.outputs["y"].read().tolist() == values(-number).tolist()
        assert all(array.address % 256 == 0 for slot in (first, second) for array in (slot.inputs["x"], slot.outputs["y"]))
    with pytest.raises(CallerError, match="memory is one of shared, cuda, got 'gpu'"):
        client.buffers("there", 1, memory="gpu")  # type: ignore[arg-type]


def test_a_tensor_on_the_device_is_copied_there_and_answered_there(client: Client) -> None:
    """Given an array on the GPU as an input, then the outputs are arrays on the GPU, and stay as they are while they are held."""
    with CudaRegion.allocate("mine", 64) as region:
        region.write(values(1, 2))
        results = [client.infer("there", {"x": region.view("FP32", [2, 2])}).outputs["y"]]
        region.write(values(3, 4))
        results.append(client.infer("there", {"x": region.view("FP32", [2, 2])}).outputs["y"])
        assert [found.read().tolist() for found in results] == [values(1, 2).tolist(), values(3, 4).tolist()]
    with CudaRegion.allocate("mine", 64) as region, pytest.raises(CallerError, match="'x' is FP32, given is float64"):
        client.infer("there", {"x": region.view("FP64", [1, 2])})


def test_a_model_on_the_cpu_says_why_it_cannot(client: Client) -> None:
    refused = pytest.raises(CallerError, match="model 'here' runs on the CPU and cannot reach region")
    with CudaRegion.allocate("mine", 64) as region, refused:
        client.infer("here", {"x": region.view("FP32", [1, 2])})
    assert answer(client.infer("here", rows(1))) == [1]


def test_handles_that_will_not_do_are_refused_by_the_instance(client: Client, machine: SimulatedCuda) -> None:
    """Given a handle of nothing, and more bytes than there are, then Register says so, and the names stay free."""
    for offset, text in ((0, "cudaErrorInvalidValue"), (5, "cudaErrorInvalidValue")):
        bad = CudaRegion("bad", b"garbage." * 8, 64, offset, 0, "", None)
        with pytest.raises(CallerError, match=text) as refused:
            client.register(bad)
        assert "region 'bad'" in refused.value.message and "allocate with CudaRegion.allocate" in refused.value.message
    with CudaRegion.allocate("mine", 64) as region:
        region.byte_size = (2 << 20) + 1
        with pytest.raises(CallerError, match=f"has {2 << 20} bytes; offset 0 \\+ byte_size {(2 << 20) + 1}"):
            client.register(region)
        region.byte_size = 64
        client.register(region)
        client.unregister()
    assert client.regions() == []


def test_an_instance_that_comes_later_has_everything_before_its_first_request(client: Client) -> None:
    """Given a worker that dies, then the one that follows has what is registered open and pinned, though nobody asked it."""
    with CudaRegion.allocate("mine", 64) as region:
        client.register(region)
        client.infer("there", rows(1))  # in a slot of shared memory
        pooled = next(row["name"] for row in client.regions() if row["kind"] != "cuda")
        before = ready_pid(client, "there")
        os.kill(before, 9)
        eventually(lambda: ready_pid(client, "there") not in (0, before), 20, "another worker is ready")
        eventually(lambda: shown(client, pooled)["pinned_by"] == ["there_0_0"], 5, "the slot's region is pinned")
        assert shown(client, "mine")["mapped_by"] == ["there_0_0"]
        assert answer(client.infer("there", rows(2))) == [2]
        client.unregister("mine")


def test_unregister_returns_when_no_worker_has_it_open(client: Client, machine: SimulatedCuda) -> None:
    """Given a request that the device is busy with, then Unregister waits for it; the name is free meanwhile."""
    with CudaRegion.allocate("mine", 4096) as region:
        client.register(region)
        region.write(values(8))
        machine.pause()
        future = client.submit("there", {"x": region.tensor("FP32", [1, 2])}, {"y": region.tensor("FP32", [1, 2], 256)})
        thread = threading.Thread(target=client.unregister, args=("mine",))
        thread.start()
        eventually(lambda: shown(client, "mine").get("closing", False), 5, "the region is closing")
        with pytest.raises(CallerError) as refused:
            client.infer("there", {"x": region.tensor("FP32", [1, 2])})
        assert refused.value.code is Code.NOT_FOUND and thread.is_alive()
        machine.resume()
        thread.join(20)
        assert not thread.is_alive() and shown(client, "mine") == {}
        assert future.result(5).outputs["y"].read().tolist() == values(8).tolist()
        del future


@pytest.mark.parametrize("link", ["local"], indirect=True)
def test_a_client_that_is_killed_costs_nobody_else_anything(
    broker: RunningBroker, client: Client, machine: SimulatedCuda
) -> None:
    """Given a client with requests in its CUDA region, some at the worker and some queued, when it is killed, then its memory
    is closed after what is in flight, and the worker goes on for others.
    """
    worker = ready_pid(client, "there")
    assert answer(client.infer("there", rows(1))) == [1]
    with Program("submits_device_memory", broker.addresses["local"], "there", "6") as victim:
        assert victim.say() == {"registered": "mine"}
        machine.pause()
        victim.tell("go")
        assert victim.say() == {"submitted": 6}
        victim.kill()
    eventually(lambda: len(client.status()["sessions"]) == 1, 5, "the victim's session has ended")
    assert [row["closing"] for row in client.regions() if row["kind"] == "cuda"] == [True]
    future = client.submit("there", rows(2))
    machine.resume()
    assert answer(future.result(20)) == [2]
    eventually(lambda: not [row for row in client.regions() if row["kind"] == "cuda"], 5, "its memory is gone")
    assert ready_pid(client, "there") == worker


def test_regions_are_registered_again_with_the_next_broker(
    broker: RunningBroker, client: Client, tmp_path: Path, models: Path
) -> None:
    """Given a CUDA region and a slot in one, when the broker is restarted, then both go on."""
    with CudaRegion.allocate("mine", 4096) as region, client.buffers("there", 1, memory="cuda") as slot:
        client.register(region)
        slot.inputs["x"].write(values(6))
        client.infer(slot)
        broker.kill()
        broker.process = None
        broker.start()
        region.write(values(9))
        result = client.infer("there", {"x": region.tensor("FP32", [1, 2])}, {"y": region.tensor("FP32", [1, 2], 256)})
        assert result.outputs["y"].read().tolist() == values(9).tolist()
        client.infer(slot)
        assert slot.outputs["y"].read().tolist() == values(6).tolist()
        client.unregister()
        del result


def test_tasks_use_device_memory_as_threads_do(broker: RunningBroker, link: str) -> None:
    async def story() -> None:
        async with AsyncClient(broker.addresses[link]) as client:
            with CudaRegion.allocate("mine", 4096) as region:
                await client.register(region)
                region.write(values(1))
                found = await asyncio.gather(*(client.infer("there", {"x": region.view("FP32", [1, 2])}) for _ in range(8)))
                assert all(result.outputs["y"].read().tolist() == values(1).tolist() for result in found)
                async with client.buffers("there", 2, memory="cuda") as slot:
                    slot.inputs["x"].write(values(2, 3))
                    await client.infer(slot)
                    assert slot.outputs["y"].read().tolist() == values(2, 3).tolist()
                await client.unregister()

    asyncio.run(story())
    gc.collect()
