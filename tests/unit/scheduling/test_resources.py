# SPDX-License-Identifier: Apache-2.0
"""The rate limiter by Triton's rules, worked out by hand. `paper_broker` checks that resources suffice for what is sent."""

from __future__ import annotations

import pytest
from paper_broker import MS, Broker

from penstock.ipc.errors import CallerError
from penstock.runtime.scheduling.events import Cancelled, ModelRemoved
from penstock.runtime.scheduling.limits import (
    EACH,
    GLOBAL,
    Needs,
    Pool,
    ResourceLimit,
    explicit_limit,
    parse_limit,
    refuse_impossible,
)
from penstock.runtime.scheduling.policy import Policy

LIMITED = Policy(max_batch_size=1, credits=1, rate_limited=True)
R1, R2 = Pool("R1", 0), Pool("R2", GLOBAL)


def needs(priority: int = 1, **amounts: int) -> Needs:
    """R1 at device 0, R2 globally."""
    return Needs(tuple(({"R1": R1, "R2": R2}[name], amount) for name, amount in amounts.items()), priority)


def serve(broker: Broker, *instances: Needs, policy: Policy = LIMITED) -> None:
    """Model n has one instance, n, with these needs."""
    for number, wanted in enumerate(instances, 1):
        broker.add_model(number, policy)
        broker.add_instance(number, number, wanted)


def order_of(broker: Broker, batches: int, *models: int) -> list[int]:
    """Whose batches are executed when each model always has a request waiting: one at a time, 1 ms each."""
    for each in range(batches):
        for model in models:
            broker.arrive(1000 * model + each, model)
    for _ in range(batches):
        (busy,) = (instance for instance, running in broker.workers.items() if running)
        broker.advance(1 * MS)
        broker.answer(busy)
    return [batch.model for batch in broker.batches[:batches]]


def test_two_models_that_need_the_same_never_run_at_once() -> None:
    """No limit is given, so there is as much as one instance needs at most: 4. 4 + 1 is more."""
    broker = Broker()
    serve(broker, needs(R1=4), needs(R1=1))
    broker.arrive(1, model=1)
    broker.arrive(2, model=2)
    assert (broker.at(1), broker.at(2)) == ([[1]], [])
    assert broker.scheduler.resources() == [{"resource": "R1", "device": 0, "count": 4, "used": 4, "waiting": 1}]
    broker.answer(1)
    assert broker.at(2) == [[2]]


def test_they_run_at_once_where_there_is_enough() -> None:
    broker = Broker(ResourceLimit("R1", 5))
    serve(broker, needs(R1=4), needs(R1=1))
    broker.arrive(1, model=1)
    broker.arrive(2, model=2)
    assert (broker.at(1), broker.at(2)) == ([[1]], [[2]])


def test_a_model_that_needs_nothing_is_not_held_up() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1), needs())
    for model in (1, 2, 3):
        broker.arrive(model, model=model)
    assert (broker.at(2), broker.at(3)) == ([], [[3]])


def test_a_second_batch_takes_nothing_early() -> None:
    broker = Broker(ResourceLimit("R1", 2))
    serve(broker, needs(R1=1), needs(R1=1))
    broker.arrive(1, model=1)
    broker.arrive(2, model=1)
    assert broker.at(1) == [[1]]
    broker.arrive(3, model=2)
    assert broker.at(2) == [[3]]
    with pytest.raises(CallerError, match="one batch at a time"):
        Policy(1, rate_limited=True, credits=2)


def test_turns_are_taken_by_executions_times_priority() -> None:
    """Priorities 1 and 2; a/b: executions x priority of the two, when an instance is chosen; ties go to who waits longer.

    0/0: 1 (it came first) | 1/0: 2 | 1/2: 1 | 2/2: 2 (waits since it ended, before 1 did) | 2/4: 1 | 3/4: 1 | 4/4: 2
    """
    broker = Broker()
    serve(broker, needs(1, R1=1), needs(2, R1=1))
    assert order_of(broker, 7, 1, 2) == [1, 2, 1, 2, 1, 1, 2]


def test_priority_three_gets_a_third_of_the_chances_and_zero_counts_as_one() -> None:
    broker = Broker()
    serve(broker, needs(1, R1=1), needs(3, R1=1))
    turns = order_of(broker, 40, 1, 2)
    assert (turns.count(1), turns.count(2)) == (30, 10)


def test_the_instances_of_a_model_take_turns_too() -> None:
    """They compete as instances of two models do: the same order as above."""
    broker = Broker()
    broker.add_model(1, LIMITED)
    broker.add_instance(1, 1, needs(1, R1=1))
    broker.add_instance(2, 1, needs(2, R1=1))
    order_of(broker, 7, 1)
    assert [batch.instance for batch in broker.batches[:7]] == [1, 2, 1, 2, 1, 1, 2]


def test_all_is_taken_or_nothing() -> None:
    """3 needs both; 1 and 2 hold one each. What becomes free first is kept for it, and not taken before the other is free too."""
    broker = Broker()
    serve(broker, needs(R1=1), needs(R2=1), needs(R1=1, R2=1))
    for model in (1, 2, 3):
        broker.arrive(model, model=model)
    broker.answer(1)
    assert broker.at(3) == []
    assert [row["used"] for row in broker.scheduler.resources()] == [0, 1]
    broker.answer(2)
    assert broker.at(3) == [[3]]


def test_who_needs_much_is_not_overtaken_by_those_who_need_little() -> None:
    """Executions: 1 and 2 have one each when they come again, 3 none; so R1 is kept until there are 2 of it."""
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1), needs(R1=2))
    for number, model in enumerate((1, 2, 3, 1, 2), 1):
        broker.arrive(number, model=model)
    broker.answer(1)
    assert (broker.at(1), broker.at(3)) == ([], [])
    broker.answer(2)
    assert (broker.at(1), broker.at(2), broker.at(3)) == ([], [], [[3]])
    broker.answer(3)
    assert (broker.at(1), broker.at(2)) == ([[4]], [[5]])


def test_who_waits_holds_up_only_those_who_need_some_of_the_same() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1), needs(R2=1))
    for model in (1, 2, 3):
        broker.arrive(model, model=model)
    assert (broker.at(2), broker.at(3)) == ([], [[3]])


def test_who_no_longer_wants_anything_does_not_hold_up_others() -> None:
    """3 waits for 2 of R1, of which 1 is free, and 2 behind it. Its only request is cancelled."""
    broker = Broker(ResourceLimit("R1", 2))
    serve(broker, needs(R1=1), needs(R1=1), needs(R1=2))
    broker.arrive(1, model=1)
    broker.arrive(2, model=3)
    broker.arrive(3, model=2)
    assert (broker.at(2), broker.at(3)) == ([], [])
    broker.tell(Cancelled(2))
    assert (broker.at(2), broker.at(3)) == ([[3]], [])


def test_a_batch_grows_while_it_waits() -> None:
    """Triton's QA test of dynamic batching: preferred sizes 1 to 4, and full batches all the same."""
    broker = Broker()
    policy = Policy(4, dynamic=True, preferred_batch_sizes=(1, 2, 3, 4), credits=1, rate_limited=True)
    broker.add_model(1, policy)
    broker.add_instance(1, 1, needs(R1=4))
    broker.add_instance(2, 1, needs(R1=2))
    for number in range(1, 6):
        broker.arrive(number)
    assert broker.sent() == [[1]]
    broker.answer(1)
    assert broker.sent() == [[1], [2, 3, 4, 5]]


def test_a_batch_that_is_held_back_competes_when_its_delay_is_over() -> None:
    broker = Broker()
    patient = Policy(4, dynamic=True, max_queue_delay_ns=1 * MS, credits=1, rate_limited=True)
    serve(broker, needs(R1=1), needs(R1=1), policy=patient)
    broker.arrive(1, model=1)
    broker.advance(1 * MS)
    broker.arrive(2, model=2)
    broker.advance(MS // 2)
    assert broker.scheduler.resources()[0]["waiting"] == 0
    broker.advance(MS // 2)
    assert broker.scheduler.resources()[0]["waiting"] == 1
    broker.answer(1)
    assert broker.at(2) == [[2]]


def test_a_batch_that_waits_is_formed_anew() -> None:
    """2 would go because 3 does not fit beside it, and waits; without 3 there is no reason not to hold it back."""
    broker = Broker()
    patient = Policy(4, dynamic=True, max_queue_delay_ns=1 * MS, credits=1, rate_limited=True)
    serve(broker, needs(R1=1), needs(R1=1), policy=patient)
    broker.arrive(1, model=1, rows=4)
    broker.arrive(2, model=2, rows=3)
    broker.arrive(3, model=2, rows=2)
    assert broker.scheduler.resources()[0]["waiting"] == 1
    broker.tell(Cancelled(3))
    broker.answer(1)
    assert broker.at(2) == []
    broker.advance(1 * MS)
    assert (broker.at(2), broker.closed()[-1]) == ([[2]], "delay")


def test_a_dead_instance_gives_back_what_it_held() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1))
    broker.arrive(1, model=1)
    broker.arrive(2, model=2)
    broker.crash(1)
    assert broker.at(2) == [[2]]


def test_a_killed_instance_holds_until_it_is_gone() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1), policy=Policy(1, credits=1, rate_limited=True, max_execution_ns=5 * MS))
    broker.arrive(1, model=1)
    broker.arrive(2, model=2)
    broker.advance(5 * MS)
    assert (broker.killed, broker.at(2)) == ([1], [])
    broker.crash(1)
    assert broker.at(2) == [[2]]


def test_the_default_limit_grows_and_shrinks_with_what_is_loaded() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1))
    broker.arrive(1, model=1)
    broker.arrive(2, model=2)
    assert broker.at(2) == []
    # When a model comes that needs 2, there are 2
    broker.add_model(3, LIMITED)
    broker.add_instance(3, 3, needs(R1=2))
    assert broker.at(2) == [[2]]
    # And 1 again when it is unloaded
    broker.tell(ModelRemoved(3))
    assert broker.drained == [3]
    broker.answer(1)
    broker.arrive(3, model=1)
    assert broker.at(1) == [], "2 holds what there is"
    broker.answer(2)
    assert broker.at(1) == [[3]]


def test_an_instance_that_comes_later_does_not_shut_the_others_out() -> None:
    broker = Broker()
    serve(broker, needs(R1=1), needs(R1=1))
    order_of(broker, 100, 1, 2)
    while busy := [instance for instance, running in broker.workers.items() if running]:
        broker.answer(busy[0])
    broker.batches.clear()
    # When one is started again, it has executed nothing, and the other a hundred batches
    broker.crash(1)
    broker.add_instance(11, 1, needs(R1=1))
    for each in range(10):
        broker.arrive(3000 + each, 1)
        broker.arrive(4000 + each, 2)
    for _ in range(10):
        (now,) = (instance for instance, running in broker.workers.items() if running)
        broker.answer(now)
    # Then they take turns
    turns = [batch.model for batch in broker.batches[:10]]
    assert 4 <= turns.count(1) <= 6, turns


# --- limits ---


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("R1:10", ResourceLimit("R1", 10, EACH)),
        ("R2:5:0", ResourceLimit("R2", 5, 0)),
        ("R2:8:1", ResourceLimit("R2", 8, 1)),
        ("R3:2:GLOBAL", ResourceLimit("R3", 2, GLOBAL)),
    ],
)
def test_a_limit_as_it_is_written(text: str, limit: ResourceLimit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "R1", "R1:", ":4", "R1:x", "R1:-1", "R1:1:", "R1:1:gpu", "R1:1:0:0", "R1:1.5", "R1:²"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(CallerError, match="--rate-limit-resource must be NAME:COUNT"):
        parse_limit(text)


def test_the_example_of_tritons_page() -> None:
    """R1:10 R2:5:0 R2:8:1 R3:2, where R3 is global: device 0 has 10 of R1 and 5 of R2, device 1 has 10 and 8."""
    limits = [parse_limit(text) for text in ("R1:10", "R2:5:0", "R2:8:1", "R3:2")]
    found = {(name, device): explicit_limit(Pool(name, device), limits) for name in ("R1", "R2") for device in (0, 1)}
    assert found == {("R1", 0): 10, ("R1", 1): 10, ("R2", 0): 5, ("R2", 1): 8}
    assert explicit_limit(Pool("R3", GLOBAL), limits) == 2
    assert explicit_limit(Pool("R4", 0), limits) is None


@pytest.mark.parametrize(
    ("given", "count"),
    [(("R1:1",), 1), (("R1:3", "R2:2"), 3), (("R1:10:10", "R2:2"), 0), (("R1:10:global",), 0), (("R1:3:0", "R1:2"), 3)],
)
def test_a_limit_below_what_an_instance_needs_in_tritons_words(given: tuple[str, ...], count: int) -> None:
    with pytest.raises(CallerError) as refused:
        refuse_impossible([needs(R1=2), needs(R1=4)], [], [parse_limit(text) for text in given])
    assert refused.value.message == (
        f'Resource count for "R1" is limited to {count} which will prevent scheduling of one or more model instances, '
        "the minimum required count is 4"
    )


@pytest.mark.parametrize("given", [(), ("R1:4",), ("R1:4:0",), ("R1:1", "R1:4:0"), ("R2:9",)])
def test_a_limit_that_suffices(given: tuple[str, ...]) -> None:
    refuse_impossible([needs(R1=2), needs(R1=4)], [needs(R2=1)], [parse_limit(text) for text in given])


def test_a_name_that_is_global_and_not() -> None:
    here, everywhere = Needs(((Pool("R2", 0), 1),)), Needs(((Pool("R2", GLOBAL), 1),))
    said = r'^INVALID_ARG: Resource "R2" is present as both global and device-specific resource in the model configuration.$'
    for wanted, loaded in (([here], [everywhere]), ([everywhere], [here]), ([here, everywhere], [])):
        with pytest.raises(CallerError, match=said):
            refuse_impossible(wanted, loaded, [])
    refuse_impossible([needs(R1=1)], [here], [])
