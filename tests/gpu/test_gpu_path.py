# SPDX-License-Identifier: Apache-2.0
"""The whole path on a GPU: a client's memory, the broker, a worker's device, and back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from exchanging import KINDS, Exchange
from gpu_machine import GpuMachine, add_gpu_model
from running import LINKS, Program, eventually, instance, ready_pid

from penstock.clients import Client
from penstock.ipc.errors import PenstockError

WIDTH = 1024
LANES = 'parameters { key: "lanes" value { string_value: "2" } }'


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_in_memory_of_any_kind_comes_back(gpu: GpuMachine, repository: Path, link: str, kind: str) -> None:
    if (link, kind) == ("zmq", "memfd"):
        pytest.skip("a memfd is handed over by its descriptor, which ZeroMQ cannot do")
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository) as broker, broker.client(link) as client:
        for rows in (1, 3, 8):
            with Exchange(client, "echo", kind, (rows, WIDTH), seed=rows) as exchange:
                exchange.infer()
                exchange.infer()
        # And the instance says where it computes
        assert instance(client, "echo")["gpu"]["ordinal"] == 0


def test_slots_of_the_clients_pool_are_served_by_a_gpu_too(gpu: GpuMachine, repository: Path) -> None:
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository) as broker, broker.client("local") as client, client.buffers("echo", batch=4) as io:
        io.inputs["INPUT__0"][:] = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
        io.outputs["OUTPUT__0"][:] = -1
        client.infer(io)
        np.testing.assert_array_equal(io.outputs["OUTPUT__0"], io.inputs["INPUT__0"])


def test_two_clients_at_once_each_get_their_own(gpu: GpuMachine, repository: Path) -> None:
    # Given a model that batches what comes together, and two clients with memory of different kinds
    add_gpu_model(repository, "echo", width=WIDTH, rest="dynamic_batching { max_queue_delay_microseconds: 2000 }")
    failures: list[str] = []

    def use(broker_address: str, kind: str, seed: int) -> None:
        try:
            with Client(broker_address) as client, Exchange(client, "echo", kind, (2, WIDTH), seed) as exchange:
                for _ in range(gpu.cycles(500)):
                    exchange.infer()
        except (PenstockError, AssertionError) as error:
            failures.append(f"{kind}: {error}")

    # When both send at once, then nobody sees anything of the other's
    with gpu.serving(repository) as broker:
        kinds = list(enumerate(("memfd", "cuda", "system", "cuda")))
        threads = [threading.Thread(target=use, args=(broker.addresses["local"], kind, seed)) for seed, kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_lanes_are_several_instances_in_one_worker(gpu: GpuMachine, repository: Path) -> None:
    add_gpu_model(repository, "echo", width=WIDTH, count=2, rest=LANES)
    with gpu.serving(repository) as broker, broker.client("local") as client:
        assert len({each["pid"] for each in client.status()["instances"]}) == 1
        exchanges = [Exchange(client, "echo", "memfd", (1, WIDTH), seed) for seed in range(6)]
        for _ in range(gpu.cycles(200)):
            for exchange in exchanges:
                exchange.poison()
            for future in client.submit_many([exchange.request for exchange in exchanges]):
                future.result()
            for exchange in exchanges:
                exchange.check()
        for exchange in exchanges:
            with exchange:
                pass


def test_a_client_killed_with_memory_on_the_gpu_costs_nobody_else_anything(gpu: GpuMachine, repository: Path) -> None:
    # Given a client that infers from its own CUDA memory, and another with its own
    gpu.forgive()
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository) as broker, broker.client("local") as client:
        words = (broker.addresses["local"], "echo", str(WIDTH))
        with Program("infers_from_gpu_memory", *words, environment=gpu.environment()) as program:
            program.say()
            with Exchange(client, "echo", "cuda", (1, WIDTH)) as exchange:
                exchange.infer()
                # When the first is killed
                program.kill()
                # Then its region is forgotten, and the other is served, if need be by a worker that was started again
                eventually(
                    lambda: {region["name"] for region in client.regions()} == {exchange.region.name}, 10, "it is forgotten"
                )
                eventually(lambda: ready_pid(client, "echo") > 0 and _answers(exchange), 30, "the other is served")


def _answers(exchange: Exchange) -> bool:
    try:
        exchange.infer()
    except PenstockError:
        return False
    return True


def test_a_worker_killed_under_load_is_started_again_and_serves_the_regions_that_are_there(
    gpu: GpuMachine, repository: Path
) -> None:
    gpu.forgive()
    add_gpu_model(repository, "echo", width=WIDTH)
    with gpu.serving(repository) as broker, broker.client("local") as client:
        exchanges = [Exchange(client, "echo", kind, (1, WIDTH)) for kind in KINDS]
        before = ready_pid(client, "echo")
        futures = client.submit_many([exchange.request for exchange in exchanges])
        _kill(before)
        for future in futures:
            assert future.exception() is None or isinstance(future.exception(), PenstockError)
        eventually(lambda: ready_pid(client, "echo") not in (0, before), 60, "another worker is ready")
        for exchange in exchanges:
            with exchange:
                exchange.infer()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_unregistered_under_load_stays_until_its_requests_are_done(
    gpu: GpuMachine, repository: Path, kind: str
) -> None:
    add_gpu_model(repository, "echo", width=WIDTH)
    with (
        gpu.serving(repository) as broker,
        broker.client("local") as client,
        Exchange(client, "echo", "memfd", (8, WIDTH), seed=1) as other,
    ):
        for turn in range(gpu.cycles(100)):
            # Given requests in flight, in a region of its own and in another
            with Exchange(client, "echo", kind, (8, WIDTH), seed=turn) as exchange:
                exchange.poison()
                other.poison()
                futures = client.submit_many([exchange.request, other.request])
                # When the region is unregistered meanwhile
                exchange.unregister()
                # Then both are done, and right
                for future in futures:
                    future.result()
                exchange.check()
                other.check()
