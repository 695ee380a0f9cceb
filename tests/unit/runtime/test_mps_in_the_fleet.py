# SPDX-License-Identifier: Apache-2.0
"""MPS in a whole broker: which workers count as sharing a GPU, what their environment says, what status says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripted import CONFIG, ScriptedBroker

from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import Loaded, LoadModel, Ready
from penstock.runtime.models import ModelState
from penstock.runtime.repository.orders import Order
from penstock.runtime.settings import MpsMode

U = [f"GPU-00000000-0000-0000-0000-00000000000{at}" for at in range(2)]
GPUS = Gpus(tuple(GpuInfo(at, uuid, "H100", 1, (9, 0), "", False, False) for at, uuid in enumerate(U)), "")
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"
PIPE = "CUDA_MPS_PIPE_DIRECTORY"


def config(group: str, name: str = "echo") -> str:
    return CONFIG.replace(ON_CPU, f"instance_group [ {group} ]").replace('"echo"', f'"{name}"')


@contextmanager
def serving(*configs: str, **settings: Any) -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker(*configs, gpus=GPUS, load_threads=16, **settings)
    yield broker
    broker.core.check_invariants()


def told(broker: ScriptedBroker) -> list[bool | None]:
    """Of each worker, whether it was told to load for the daemon; None: it has been told nothing yet, or is on the CPU."""
    broker.core.flush()
    users = {instance.process for instance in broker.core.fleet.mps._users}
    loads = [next((m for m in process.link.sent if isinstance(m, LoadModel)), None) for process in broker.processes]
    return [
        process in users if load is not None and load.gpu is not None else None
        for process, load in zip(broker.processes, loads, strict=True)
    ]


def test_workers_of_one_model_on_one_gpu_wait_for_a_daemon_that_their_environment_names() -> None:
    with serving(config("{ count: 2 kind: KIND_GPU gpus: [ 0 ] }")) as broker:
        assert broker.mps_starts == 1
        assert all(PIPE in process.environment for process in broker.processes)
        assert told(broker) == [None, None]
        broker.core.fleet.mps.answers()
        assert told(broker) == [True, True]


def test_one_worker_on_each_gpu_and_workers_on_the_cpu_share_nothing() -> None:
    with serving(config("{ kind: KIND_GPU }"), config("{ count: 3 kind: KIND_CPU }", "plain")) as broker:
        assert broker.mps_starts == 0
        assert not any(PIPE in process.environment for process in broker.processes)
        assert told(broker) == [False, False, None, None, None]


def test_lanes_of_one_worker_share_no_gpu() -> None:
    with serving(config("{ count: 2 kind: KIND_GPU gpus: [ 0 ] }"), lanes=2) as broker:
        assert broker.mps_starts == 0
        assert told(broker) == [False]


def test_a_worker_of_another_model_on_the_same_gpu_counts() -> None:
    models = [config("{ kind: KIND_GPU gpus: [ 1 ] }", name) for name in ("one", "two")]
    with serving(*models) as broker:
        # The first was alone when it started, and goes on so; the second is not
        assert [PIPE in process.environment for process in broker.processes] == [False, True]
        assert told(broker) == [False, None]


def test_a_worker_that_replaces_another_does_not_share_with_it_but_one_of_another_version_does() -> None:
    model = config("{ kind: KIND_GPU gpus: [ 1 ] }") + "version_policy { all {} }"
    with serving(model) as broker:
        broker.start()
        # When the model is loaded again, beside what is served
        broker.disk.write(model, 1)
        broker.core.loads.load(Order("echo"), lambda _error: None)
        assert broker.mps_starts == 0 and told(broker)[1:] == [False]
        broker.start(1)
        # And when it gets a second version, which stays beside the first
        broker.disk.write(model, 2)
        broker.core.loads.load(Order("echo"), lambda _error: None)
        assert broker.mps_starts == 1 and told(broker)[2:] == [None]


def test_what_a_worker_found_is_in_the_status_and_a_dead_daemon_ends_its_users_only() -> None:
    with serving(config("{ count: 2 kind: KIND_GPU gpus: [ 0 ] }")) as broker:
        core = broker.core
        core.fleet.mps.answers()
        # When one of them reaches the daemon and the other does not
        for instance, has_mps in zip(list(core.fleet.instances.values()), (True, False), strict=True):
            core.receive_from_worker(instance, [Loaded(4242), Ready(has_mps, {"graphs": [1, 2]})])
        assert [instance.describe()["mps"] for instance in core.fleet.instances.values()] == [True, False]
        assert [instance.describe()["about"] for instance in core.fleet.instances.values()] == [{"graphs": [1, 2]}] * 2
        assert core.fleet.mps.describe()["workers"] == 1
        # And the daemon dies
        core.fleet.mps.ended("it died", broker.now_ns)
        assert [process.killed for process in broker.processes] == [True, False]
        # Then it is started again in time, as the loop is told
        assert core.fleet.next_deadline() == broker.now_ns + 100_000_000
        broker.now_ns += 100_000_000
        core.tick(broker.now_ns)
        assert broker.mps_starts == 2


def test_with_on_and_no_daemon_a_model_is_given_up_at_once_with_the_reason() -> None:
    with serving(config("{ kind: KIND_GPU gpus: [ 0 ] }"), mps=MpsMode.ON) as broker:
        core = broker.core
        core.fleet.mps.ended("nvidia-cuda-mps-control: No such file or directory", broker.now_ns)
        (instance,) = core.fleet.instances.values()
        core.worker_exited(instance)
        (model,) = core.models.current()
        assert model.state is ModelState.UNAVAILABLE
        assert "--mps on" in model.reason and "No such file" in model.reason


def test_a_daemon_that_dies_again_and_again_is_done_without_and_costs_no_model() -> None:
    """Its deaths are not its workers' crashes: five of these would make the model UNAVAILABLE."""
    with serving(config("{ count: 2 kind: KIND_GPU gpus: [ 0 ] }")) as broker:
        core = broker.core
        for _ in range(5):
            core.fleet.mps.answers()
            for instance in list(core.fleet.instances.values()):
                core.receive_from_worker(instance, [Loaded(4242), Ready(mps=True)])
            core.fleet.mps.ended("it died", broker.now_ns)
            for instance in list(core.fleet.instances.values()):
                assert instance.process.killed
                core.worker_exited(instance)
            core.check_invariants()
            broker.wait(1000)

        # Then the workers of the last time have been told to do without
        assert told(broker)[-2:] == [False, False]
        for instance in list(core.fleet.instances.values()):
            core.receive_from_worker(instance, [Loaded(4242), Ready()])
        (model,) = core.models.current()
        assert model.state is ModelState.READY and len(core.fleet.instances) == 2
        # And a crash of their own is one
        broker.die(len(broker.processes) - 1)
        assert core.fleet.next_deadline() == broker.now_ns + 100_000_000
