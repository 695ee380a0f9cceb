# SPDX-License-Identifier: Apache-2.0
"""Models on several devices: requests that are bound to a GPU go there, hold up nobody else, and are not starved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_broker import MS, Broker

from penstock.runtime.scheduling.events import ArrivedTogether, Cancelled, GpuDown, ModelRemoved
from penstock.runtime.scheduling.limits import Needs, Pool, ResourceLimit
from penstock.runtime.scheduling.policy import Policy, QueuePolicy
from penstock.runtime.scheduling.requests import NO_GPU

SINGLE = Policy(0, spread=True, credits=1)
BATCHED = Policy(4, dynamic=True, spread=True, credits=1)


def on_two_gpus(policy: Policy = SINGLE) -> Broker:
    """Instance 10 on GPU 0, 11 on GPU 1."""
    broker = Broker()
    broker.add_model(1, policy)
    broker.add_instance(10, 1, gpu=0)
    broker.add_instance(11, 1, gpu=1)
    return broker


def together(broker: Broker, *gpus: int) -> None:
    """Requests 1, 2, ..., bound to these GPUs, arrive in one go."""
    first = len(broker.requests) + 1
    broker.tell(ArrivedTogether([broker.request(first + at, gpu=gpu) for at, gpu in enumerate(gpus)]))


def test_a_bound_request_goes_to_its_gpu_though_another_is_idle() -> None:
    broker = on_two_gpus()

    together(broker, 1, 1, 0)

    assert (broker.at(10), broker.at(11)) == ([[3]], [[1]])
    assert broker.scheduler.queued(1) == 1
    broker.answer(10)
    assert broker.at(10) == []
    broker.answer(11)
    assert broker.at(11) == [[2]]


def test_what_waits_for_a_busy_gpu_holds_up_nobody_else() -> None:
    broker = on_two_gpus()
    together(broker, 0, 0, 0, 0)

    together(broker, NO_GPU, 1)

    assert (broker.at(10), broker.at(11)) == ([[1]], [[6]])
    broker.answer(11)
    assert broker.at(11) == [[5]]


def test_a_batch_is_of_one_queue() -> None:
    broker = on_two_gpus(BATCHED)
    for instance in (10, 11):
        broker.arrive(instance, gpu=instance - 10)

    for number, gpu in enumerate([0, NO_GPU, 0, 1, NO_GPU], 1):
        broker.arrive(number, gpu=gpu)
    for instance in (10, 11, 10, 11):
        broker.answer(instance)

    assert sorted(broker.sent()[2:]) == [[1, 3], [2, 5], [4]]


@pytest.mark.parametrize("gpu", [0, 1])
def test_what_may_go_anywhere_leaves_an_idle_gpu_to_those_who_need_it(gpu: int) -> None:
    # Given that it is the turn of what is bound to nothing, and that the GPU has been idle for longer than the other
    broker = on_two_gpus()
    for each in (gpu, 1 - gpu):
        together(broker, each)
        broker.answer(10 + each)

    together(broker, NO_GPU, gpu)

    assert broker.scheduler.queued(1) == 0
    assert broker.at(10 + gpu) == [[4]]


@given(flood=st.sampled_from([NO_GPU, 0]), lone=st.sampled_from([NO_GPU, 0]), before=st.integers(0, 5))
def test_a_flood_of_one_queue_does_not_starve_another(flood: int, lone: int, before: int) -> None:
    """On a GPU for which k queues compete, each gets at least every k-th batch: a lone request waits for one other."""
    broker = Broker()
    broker.add_model(1, SINGLE)
    broker.add_instance(10, 1, gpu=0)
    together(broker, *[flood] * 20)
    for _ in range(before):
        broker.answer(10)

    together(broker, lone)
    if lone != flood:
        broker.answer(10)
        broker.answer(10)
        assert broker.at(10) == [[21]] or 21 in broker.outcomes


def test_a_higher_level_goes_first_whatever_the_queue() -> None:
    levels = Policy(
        1, dynamic=True, spread=True, credits=1, priority_levels=2, default_priority_level=2,
    )  # fmt: skip
    broker = on_two_gpus(levels)
    together(broker, 0, 1)

    broker.arrive(3, gpu=0, priority=2)
    broker.arrive(4, gpu=NO_GPU, priority=1)
    broker.arrive(5, gpu=0, priority=1)
    for _ in range(3):
        broker.answer(10)

    assert [numbers for numbers in broker.sent()[2:] if numbers != [4]] == [[5], [3]]
    assert broker.scheduler.queued_by_level(1) == {}


def test_bounds_hold_for_each_queue() -> None:
    broker = on_two_gpus(Policy(4, dynamic=True, spread=True, credits=1, default_queue_policy=QueuePolicy(max_queue_size=1)))
    together(broker, 0, 1)

    for number, gpu in enumerate([0, 0, 1, NO_GPU, NO_GPU], 3):
        broker.arrive(number, gpu=gpu)

    assert broker.refused == {4, 7}
    assert "Exceeds maximum queue size" in broker.messages[4]
    assert broker.scheduler.queued_by_level(1) == {0: 3}


def test_a_cancelled_request_leaves_its_queue() -> None:
    broker = on_two_gpus(BATCHED)
    together(broker, 0, 1)
    together(broker, 0, 0, NO_GPU)

    broker.tell(Cancelled(3))
    broker.answer(10)

    assert broker.outcomes[3] == "CANCELLED"
    assert broker.at(10) in ([[4]], [[5]])


def test_without_an_instance_there_a_bound_request_waits_for_one() -> None:
    broker = on_two_gpus()
    together(broker, 1)
    broker.crash(11)

    together(broker, 1, NO_GPU)
    assert broker.at(10) == [[3]]
    broker.add_instance(21, 1, gpu=1)

    assert broker.at(21) == [[2]]


def test_when_no_instance_is_to_come_it_fails_with_the_reason() -> None:
    broker = on_two_gpus()
    together(broker, 1, 1)
    broker.crash(11)

    broker.tell(GpuDown(1, 1, "5 crashes in 60 s"))
    together(broker, 1, NO_GPU)

    assert [broker.outcomes[number] for number in (1, 2, 3)] == ["INTERNAL", "UNAVAILABLE", "UNAVAILABLE"]
    assert broker.messages[2] == broker.messages[3] == "5 crashes in 60 s"
    assert broker.at(10) == [[4]]
    # Until one comes after all
    broker.add_instance(21, 1, gpu=1)
    together(broker, 1)
    assert broker.at(21) == [[5]]


def test_an_unloaded_model_serves_what_it_can_and_fails_the_rest() -> None:
    broker = on_two_gpus(BATCHED)
    together(broker, 0, 1, 1, 0, NO_GPU)
    together(broker, 1)
    broker.crash(11)

    broker.tell(ModelRemoved(1))
    while broker.workers[10]:
        broker.answer(10)

    assert broker.drained == [1]
    assert (broker.outcomes[6], broker.messages[6]) == ("UNAVAILABLE", "the model is being unloaded")
    assert {broker.outcomes[number] for number in (1, 4, 5)} == {"ok"}


def test_a_bound_batch_is_held_for_its_delay_and_then_goes() -> None:
    broker = on_two_gpus(Policy(4, dynamic=True, spread=True, max_queue_delay_ns=5 * MS))

    broker.arrive(1, gpu=1)
    broker.advance(3 * MS)
    broker.arrive(2)
    assert broker.sent() == []
    broker.advance(2 * MS)
    assert broker.sent() == [[1]]
    broker.advance(3 * MS)
    assert broker.sent() == [[1], [2]]


def test_resources_of_a_gpu_are_those_of_its_own() -> None:
    """The pools of a resource are one for each device: an instance waits for what those on its own GPU hold."""
    broker = Broker(ResourceLimit("memory", 1))
    broker.add_model(1, Policy(0, credits=1, rate_limited=True, spread=True))
    for instance in (10, 11, 12):
        gpu = min(instance - 10, 1)
        broker.add_instance(instance, 1, Needs(((Pool("memory", gpu), 1),)), gpu=gpu)

    together(broker, 1, 1, 0)

    assert [len(broker.workers[instance]) for instance in (10, 11, 12)] in ([1, 1, 0], [1, 0, 1])
    broker.answer(11 if broker.workers[11] else 12)
    assert broker.scheduler.queued(1) == 0


@pytest.mark.parametrize("gpu", [NO_GPU, 0])
def test_on_one_device_nothing_is_bound(gpu: int) -> None:
    """The broker binds no request of such a model; there is one queue, and it costs what it always did."""
    broker = Broker()
    broker.add_model(1, Policy(0, credits=1))
    broker.add_instance(10, 1, gpu=gpu)
    broker.arrive(1)
    assert "spread" not in repr(broker.scheduler)
