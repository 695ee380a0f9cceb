# SPDX-License-Identifier: Apache-2.0
"""Instances on GPUs as the broker has them: what workers are told, lanes, and requests that are bound to a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Raw
from scripted import CONFIG, ROW_BYTES, ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import encode
from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import (
    Batch,
    BatchDone,
    Failed,
    Gpu,
    Hello,
    Infer,
    InputTensor,
    LoadFailed,
    LoadModel,
    OutputPlace,
    Query,
    Register,
    Result,
    Stop,
)
from penstock.runtime.host_policies import HostPolicy, share_of
from penstock.runtime.rationing import needs_of
from penstock.runtime.scheduling.limits import Needs, Pool
from penstock.runtime.sessions import Session

U = [f"GPU-00000000-0000-0000-0000-00000000000{at}" for at in range(3)]
GPUS = Gpus(tuple(GpuInfo(at, uuid, "H100", 1, (9, 0), "", False, False) for at, uuid in enumerate(U[:2])), "")
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"


def config(group: str) -> str:
    return CONFIG.replace(ON_CPU, f"instance_group [ {group} ]")


@contextmanager
def serving(group: str, gpus: Gpus = GPUS, **settings: Any) -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker(config(group), gpus=gpus, **settings)
    yield broker
    broker.end_sessions()


def on_gpu(broker: ScriptedBroker, session: Session, uuid: str, model: str = "echo") -> int:
    """A request whose input lies on a GPU, registered for it."""
    name = f"on {uuid}"
    if name not in {region.name for region in session.regions}:
        broker.say(session, Register(901, name, "cuda", 4096, handle=bytes(63) + uuid[-1:].encode(), uuid=uuid))
    broker._ids += 1
    inputs = [InputTensor("x", "FP32", [1, 2], name, 0, ROW_BYTES)]
    outputs = [OutputPlace("y", "r", 512 * broker._ids % 4096, ROW_BYTES)]
    broker.say(session, Infer(broker._ids, model, Raw(encode(inputs)), Raw(encode(outputs))))
    return broker._ids


def refusals(session: Session) -> list[str]:
    return [failed.message for failed in link_of(session).take(Failed)]


def test_a_worker_is_told_its_gpu_and_sees_no_other() -> None:
    with serving("{ kind: KIND_GPU }, { count: 1 }", busy_wait="never") as broker:
        told = [process.link.take(LoadModel)[0] for process in broker.processes]

    assert [(load.instance, load.gpu) for load in told] == [
        ("echo_0_0_gpu0", Gpu(U[0], 0, 1, "never")),
        ("echo_0_0_gpu1", Gpu(U[1], 0, 1, "never")),
        ("echo_1_0", None),
    ]
    assert [process.environment for process in broker.processes] == [
        {"CUDA_VISIBLE_DEVICES": U[0]}, {"CUDA_VISIBLE_DEVICES": U[1]}, {},
    ]  # fmt: skip


def test_a_worker_that_is_started_again_is_on_its_gpu() -> None:
    with serving("{ kind: KIND_GPU }") as broker:
        broker.start()
        broker.die(1)
        broker.wait(200)

        assert broker.processes[2].environment == {"CUDA_VISIBLE_DEVICES": U[1]}
        assert broker.instance(2).name == "echo_0_0_gpu1"


def test_the_status_shows_the_gpu_of_each_instance_and_its_lanes() -> None:
    with serving("{ kind: KIND_GPU gpus: 1 count: 2 }, { count: 1 }", lanes=2) as broker:
        rows = [instance.describe() for instance in broker.core.fleet.instances.values()]

    assert [(row["instance"], row["lanes"], row["gpu"]) for row in rows] == [
        ("echo_0_0", ["echo_0_0", "echo_0_1"], {"ordinal": 1, "uuid": U[1]}),
        ("echo_1_0", ["echo_1_0"], None),
    ]


def test_each_device_has_a_host_policy_by_default() -> None:
    policies = {"gpu_1": HostPolicy((4, 5)), "cpu": HostPolicy((1,))}
    with serving("{ kind: KIND_GPU }, { count: 1 }", host_policies=policies) as broker:
        model = next(iter(broker.core.models))
        names = model.config.worker_names()
        assert [share_of(model.config, name, broker.core.settings).cpus for name in names] == [(), (4, 5), (1,)]


def test_resources_are_those_of_each_gpu() -> None:
    limiter = 'rate_limiter { resources { name: "R" count: 2 } }'
    with serving(f"{{ kind: KIND_GPU {limiter} }}, {{ count: 1 {limiter} }}") as broker:
        found = next(iter(broker.core.models)).config

    needs = [needs_of(worker) for worker in found.workers()]
    assert needs == [Needs(((Pool("R", 0), 2),)), Needs(((Pool("R", 1), 2),)), Needs(((Pool("R", 0), 2),))]


# --- lanes ---------------------------------------------------------------------------------------------------------------


def test_batches_of_lanes_say_which_and_are_answered_by_it() -> None:
    with serving("{ kind: KIND_GPU gpus: 0 count: 2 }", lanes=2) as broker:
        assert len(broker.processes) == 1
        broker.start()
        session = broker.client()
        for slot in range(3):
            broker.infer(session, slot=slot, explain=True)
        batches = broker.batches()

        assert [batch.lane for batch in batches] == [0, 1, 0]
        broker.finish(batches[1], lane=1)
        broker.finish(batches[0])

        results = link_of(session).take(Result)
        assert [(result.id, result.explain.instance) for result in results] == [(2, "echo_0_1"), (1, "echo_0_0")]
        broker.finish(batches[2])


def test_a_worker_that_answers_for_a_lane_that_it_has_not_is_replaced() -> None:
    with serving("{ kind: KIND_GPU gpus: 0 count: 2 }, { count: 1 }", lanes=2) as broker:
        broker.start()
        for lane in (2, -1):
            instance = broker.instance(0)
            broker.core.receive_from_worker(instance, [BatchDone(1, 0, 0, 0, 0, lane=lane)])
            assert instance.verdict == f"worker broke the protocol: echo_0_0 has no lane {lane}"
            instance.verdict = ""


def test_a_dead_workers_lanes_fail_together_and_are_started_again() -> None:
    with serving("{ kind: KIND_GPU gpus: 0 count: 2 }", lanes=2) as broker:
        broker.start()
        session = broker.client()
        for slot in range(4):
            broker.infer(session, slot=slot)

        broker.die()
        assert [failed.id for failed in link_of(session).take(Failed)] == [1, 3, 2, 4]
        broker.wait(200)
        broker.start(1)
        broker.infer(session)

        assert broker.core.fleet.lanes.keys() == {3, 4}
        (batch,) = broker.batches(1)
        broker.finish(batch, 1)
        assert broker.core.is_idle()


def test_a_worker_that_is_not_wanted_is_told_to_go_when_all_its_lanes_are_empty() -> None:
    with serving("{ kind: KIND_GPU gpus: 0 count: 4 }", lanes=2) as broker:
        broker.start()
        session = broker.client()
        for slot in range(4):
            broker.infer(session, slot=slot)
        (first, second), (third, fourth) = broker.batches(0), broker.batches(1)

        # When a load leaves the second worker out
        broker.disk.write(config("{ kind: KIND_GPU gpus: 0 count: 2 }"))
        broker.core.loads.load(_order(), lambda _error: None)
        broker.settle()
        broker.finish(fourth, 1, lane=1)
        assert not broker.processes[1].link.take(Stop)
        broker.finish(third, 1)
        assert broker.processes[1].link.take(Stop)

        # Then the first goes on, and when the model is to go, it goes with its last lane
        broker.core.loads.unload("echo", lambda _error: None)
        broker.finish(first)
        assert not broker.processes[0].link.take(Stop)
        broker.finish(second, lane=1)
        assert broker.processes[0].link.take(Stop)


def _order() -> Any:
    from penstock.runtime.repository.orders import Order

    return Order("echo")


# --- requests with memory on a GPU ---------------------------------------------------------------------------------------


def test_a_request_goes_to_the_gpu_of_its_memory() -> None:
    with serving("{ kind: KIND_GPU }") as broker:
        broker.start()
        session = broker.client()
        for uuid in (U[1], U[1], U[0]):
            on_gpu(broker, session, uuid)

        sent = [broker.batches(position) for position in (0, 1)]

        assert [[len(batch.items) for batch in batches] for batches in sent] == [[1], [1, 1]]
        for position, batches in enumerate(sent):
            for batch in batches:
                broker.finish(batch, position)


def test_a_model_on_one_gpu_binds_nothing() -> None:
    with serving("{ kind: KIND_GPU gpus: 1 count: 2 }") as broker:
        broker.start()
        session = broker.client()
        on_gpu(broker, session, U[1])

        assert "spread" not in repr(broker.core.scheduler)
        (batch,) = broker.batches(0)
        broker.finish(batch)
        assert refusals(session) == []


def test_memory_where_no_instance_is_is_refused_with_both_gpus() -> None:
    with serving("{ kind: KIND_GPU gpus: 1 }") as broker:
        broker.start()
        session = broker.client()
        on_gpu(broker, session, U[0])

        assert refusals(session) == [
            (
                f"model 'echo' runs on {U[1]} and cannot reach region 'on {U[0]}', CUDA memory on {U[0]}: allocate it on a GPU of "
                "the model, or use a memfd or system region"
            )
        ]


def test_memory_on_a_gpu_whose_instances_were_given_up_is_refused_with_the_reason() -> None:
    with serving("{ kind: KIND_GPU }") as broker:
        broker.start(0)
        session = broker.client()
        on_gpu(broker, session, U[1])

        # When the instance on the other GPU cannot be loaded
        broker.core.receive_from_worker(broker.instance(1), [LoadFailed("cudaMalloc failed")])
        broker.die(1)
        on_gpu(broker, session, U[1])

        why = f"model 'echo': it has no instance on GPU 1 ({U[1]}): cudaMalloc failed"
        assert refusals(session) == [why, why]
        # And the other GPU serves
        on_gpu(broker, session, U[0])
        (batch,) = broker.batches(0)
        broker.finish(batch)


def test_an_instance_that_was_given_up_before_the_first_was_ready_counts_too() -> None:
    with serving("{ kind: KIND_GPU }") as broker:
        broker.core.receive_from_worker(broker.instance(1), [LoadFailed("cudaMalloc failed")])
        broker.die(1)
        broker.start(0)
        session = broker.client()

        on_gpu(broker, session, U[1])

        assert refusals(session) == [f"model 'echo': it has no instance on GPU 1 ({U[1]}): cudaMalloc failed"]


def test_a_gpu_that_a_smaller_model_leaves_to_an_instance_that_was_given_up_is_lost() -> None:
    """Given two instances on each GPU, one of which failed, when the other of its GPU is not wanted any more."""
    with serving("{ kind: KIND_GPU count: 2 }") as broker:
        given_up = [process.name for process in broker.processes].index("echo_0_0_gpu1")
        broker.core.receive_from_worker(broker.instance(given_up), [LoadFailed("cudaMalloc failed")])
        broker.die(given_up)
        broker.start(*(at for at in range(4) if at != given_up))
        session = broker.client()
        broker.disk.write(config("{ kind: KIND_GPU count: 1 }"))
        broker.core.loads.load(_order(), lambda _error: None)
        on_gpu(broker, session, U[1])
        for position, process in enumerate(broker.processes):
            if process.link.take(Stop):
                broker.die(position)

        # Then what waits for it fails, and what comes is refused
        on_gpu(broker, session, U[1])
        why = f"model 'echo': it has no instance on GPU 1 ({U[1]}): cudaMalloc failed"
        assert refusals(session) == [why, why]


def test_a_gpu_whose_only_instance_was_attached_by_hand_is_lost_with_it() -> None:
    """Given the instance of GPU 0 was given up, and one attached in its place, when that leaves."""
    with serving("{ kind: KIND_GPU }") as broker:
        broker.core.receive_from_worker(broker.instance(0), [LoadFailed("cudaMalloc failed")])
        broker.die(0)
        broker.start(1)
        session, by_hand = broker.client(), broker.core.reception.open(ScriptedLink(), broker.client().peer, takes_fds=True)
        broker.say(by_hand, Hello(bytes(16), role="worker", name="echo"))
        broker.start(2)
        on_gpu(broker, session, U[0])
        broker.finish(broker.batches(2)[0], 2)
        link_of(session).take()

        on_gpu(broker, session, U[0])
        broker.die(2)
        on_gpu(broker, session, U[0])

        assert [text.partition(":")[0] for text in refusals(session)] == ["model 'echo'"] * 2


def test_a_worker_that_crashes_while_its_model_changes_its_size_comes_back_to_its_own_gpu() -> None:
    """Given a change that leaves it out and is not complete yet, when it dies meanwhile, and the change comes to nothing."""
    groups = '{ name: "a" kind: KIND_GPU count: %d }, { name: "b" kind: KIND_GPU count: %d }'
    with serving(groups % (2, 1), load_threads=16) as broker:
        broker.start()
        broker.disk.write(config(groups % (1, 2)))
        broker.core.loads.load(_order(), lambda _error: None)
        assert [process.name for process in broker.processes[6:]] == ["b_1_gpu0", "b_1_gpu1"]

        broker.die([process.name for process in broker.processes].index("a_1_gpu1"))
        broker.wait(200)
        broker.core.receive_from_worker(broker.instance(6), [LoadFailed("no room")])
        broker.die(6)

        assert (broker.instance(8).name, broker.instance(8).gpu) == ("a_1_gpu1", U[1])


def test_a_model_whose_devices_change_is_loaded_anew() -> None:
    """What is queued may be bound to one of them."""
    with serving("{ kind: KIND_GPU gpus: 0 }") as broker:
        broker.start()
        broker.disk.write(config('{ name: "echo_0" kind: KIND_GPU gpus: 0 }, { name: "more" kind: KIND_GPU gpus: 1 }'))
        broker.core.loads.load(_order(), lambda _error: None)

        assert [process.name for process in broker.processes[1:]] == ["echo_0_0", "more_0"]


def test_a_query_shows_the_gpus_that_were_found() -> None:
    with serving("{ kind: KIND_GPU }") as broker:
        session = broker.client()
        broker.say(session, Query(1, "status"))
        status = link_of(session).take()[-1].value
        assert [gpu["uuid"] for gpu in status["gpus"]] == U[:2]


def test_nothing_of_a_batch_is_said_of_lanes_where_there_are_none() -> None:
    assert b"lane" not in encode(Batch(1, []))
