# SPDX-License-Identifier: Apache-2.0
"""The rule that closes a batch, example by example and against a literal copy of Triton's loop."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ipc.errors import CallerError
from penstock.runtime.scheduling.batcher import (
    NEVER_NS,
    Decision,
    Sizes,
    Walk,
    check_walk,
    decide,
    join,
    overdue,
    sizes_of,
    walk_over,
)
from penstock.runtime.scheduling.policy import Policy
from penstock.runtime.scheduling.requests import Closed, Request

DELAY_NS = 1_000


def request(
    number: int, rows: int = 1, shape_key: Hashable | None = None, arrived_ns: int = 0, deadline_ns: int | None = None
) -> Request:
    return Request(number, 1, "someone", 1, rows, shape_key, deadline_ns, arrived_ns)


def walked(queue: Sequence[Request], sizes: Sizes) -> Walk:
    """Walks as far as the requests fit."""
    walk = Walk()
    for each in queue:
        if not join(walk, each, sizes):
            break
    check_walk(walk, sizes)
    return walk


def decided(rows: Sequence[int], policy: Policy, now_ns: int = 0) -> Decision:
    sizes = sizes_of(policy)
    return decide(walked([request(i, n) for i, n in enumerate(rows)], sizes), sizes, now_ns, NEVER_NS, final=False)


@pytest.mark.parametrize(
    ("rows", "preferred", "delay_ns", "now_ns", "count", "closed"),
    [
        pytest.param([1], (), 0, 0, 1, Closed.IMMEDIATE, id="no delay: greedy"),
        pytest.param([1, 1, 1], (), 0, 0, 3, Closed.IMMEDIATE, id="no delay: everything that waits"),
        pytest.param([4, 4], (), DELAY_NS, 0, 2, Closed.FULL, id="exactly full"),
        pytest.param([4, 3, 2], (), DELAY_NS, 0, 2, Closed.FULL, id="the next would exceed the maximum"),
        pytest.param([8, 1], (), DELAY_NS, 0, 1, Closed.FULL, id="one request fills it"),
        pytest.param([2, 2], (4,), DELAY_NS, 0, 2, Closed.PREFERRED, id="exactly preferred"),
        pytest.param([2, 2, 2], (4,), DELAY_NS, 0, 2, Closed.PREFERRED, id="the preferred prefix, not all"),
        pytest.param([1, 1, 2, 1], (2, 4), DELAY_NS, 0, 3, Closed.PREFERRED, id="the last preferred point"),
        pytest.param([3, 3], (4,), DELAY_NS, 0, 1, Closed.PREFERRED, id="the last sum below the largest preferred"),
        pytest.param([2, 2, 2], (4,), DELAY_NS, DELAY_NS, 3, Closed.DELAY, id="overdue: all, not the prefix"),
        pytest.param([2, 2, 2], (4,), 0, DELAY_NS, 2, Closed.PREFERRED, id="no delay is never overdue"),
        pytest.param([1, 1], (), DELAY_NS, DELAY_NS, 2, Closed.DELAY, id="overdue"),
        pytest.param([1, 1], (), DELAY_NS, DELAY_NS - 1, 0, None, id="not yet overdue: held"),
        pytest.param([2, 1], (2, 4), DELAY_NS, DELAY_NS, 2, Closed.DELAY, id="overdue between preferred sizes"),
    ],
)
def test_the_rule_by_example(
    rows: list[int], preferred: tuple[int, ...], delay_ns: int, now_ns: int, count: int, closed: Closed | None
) -> None:
    decision = decided(rows, Policy(8, True, preferred, delay_ns), now_ns)
    assert (decision.count, decision.closed) == (count, closed)


def test_a_change_of_shape_closes_the_batch_before_it() -> None:
    sizes = sizes_of(Policy(8, True, (), DELAY_NS))
    walk = walked([request(1, shape_key="a"), request(2, shape_key="a"), request(3, shape_key="b")], sizes)
    assert [each.number for each in walk.requests] == [1, 2]
    assert decide(walk, sizes, 0, NEVER_NS, final=False) == Decision(2, Closed.SHAPE, grows=False)


def test_a_batch_that_cannot_grow_goes_to_a_busy_instance_and_one_that_can_does_not() -> None:
    policy = Policy(8, True)
    assert not decided([8], policy).grows
    assert decided([7], policy).grows
    assert not decided([2, 2, 2], Policy(8, True, (4,), DELAY_NS), DELAY_NS).grows, "Triton does not let it grow further"


def test_a_held_batch_names_the_end_of_its_delay_counted_from_the_oldest() -> None:
    sizes = sizes_of(Policy(8, True, (), DELAY_NS))
    walk = walked([request(1, arrived_ns=500), request(2, arrived_ns=300)], sizes)
    assert decide(walk, sizes, 600, NEVER_NS, final=False) == Decision(0, None, grows=True, until_ns=300 + DELAY_NS)
    assert not overdue(walk, sizes, 1_299)
    assert overdue(walk, sizes, 1_300)


def test_a_deadline_ends_the_hold_before_the_delay_does() -> None:
    sizes = sizes_of(Policy(8, True, (), DELAY_NS))
    walk = walked([request(1, deadline_ns=700), request(2, deadline_ns=900)], sizes)
    assert walk.deadline_ns == 700
    assert decide(walk, sizes, 399, 400, final=False) == Decision(0, None, grows=True, until_ns=400)
    assert decide(walk, sizes, 400, 400, final=False) == Decision(2, Closed.DEADLINE, grows=True)


def test_an_unloading_model_holds_nothing_back() -> None:
    sizes = sizes_of(Policy(8, True, (), DELAY_NS))
    assert decide(walked([request(1)], sizes), sizes, 0, NEVER_NS, final=True) == Decision(1, Closed.DRAIN, grows=False)


def test_preferred_sizes_default_to_the_maximum() -> None:
    assert sizes_of(Policy(8, True)) == Sizes(8, frozenset({8}), 8, 0)


def test_a_preferred_size_above_the_maximum_is_refused() -> None:
    with pytest.raises(CallerError, match="dynamic batching preferred size must be between 1 and max batch size 8"):
        Policy(8, True, (4, 9))


def triton_says(queue: Sequence[Request], sizes: Sizes, now_ns: int) -> int:
    """GetDynamicBatch of dynamic_batch_scheduler.cc, line by line, with an empty payload and no queue policy: how many
    requests to execute now, 0 to wait."""
    send_now = False
    best = cursor = mark = pending = 0
    while cursor < len(queue):
        batch_size = queue[cursor].rows
        if cursor > 0:
            if pending + batch_size > sizes.max_preferred and best == 0:
                best, mark = pending, cursor
            if pending + batch_size > sizes.max_batch_size:
                send_now = True
                break
            if queue[cursor].shape_key != queue[0].shape_key:
                send_now = True
                break
        pending += batch_size
        cursor += 1
        if pending in sizes.preferred:
            best, mark = pending, cursor
    delay_is_exceeded = sizes.delay_ns != 0 and now_ns - queue[0].arrived_ns >= sizes.delay_ns
    if best != 0 and not delay_is_exceeded:
        return mark
    if send_now or pending >= sizes.max_preferred:
        return cursor
    return cursor if delay_is_exceeded or sizes.delay_ns == 0 else 0


QUEUES = st.lists(st.tuples(st.integers(1, 8), st.sampled_from([None, None, None, "b"])), min_size=1, max_size=12)


@given(QUEUES, st.sets(st.integers(1, 8), max_size=3), st.sampled_from([0, DELAY_NS]), st.integers(0, 2 * DELAY_NS))
def test_the_rule_decides_as_triton_does(
    queue: list[tuple[int, str | None]], preferred: set[int], delay_ns: int, now_ns: int
) -> None:
    sizes = sizes_of(Policy(8, True, tuple(preferred), delay_ns))
    requests = [request(i, rows, shape) for i, (rows, shape) in enumerate(queue)]
    walk = walked(requests, sizes)
    assert decide(walk, sizes, now_ns, NEVER_NS, final=False).count == triton_says(requests, sizes, now_ns)


@given(QUEUES, st.sets(st.integers(1, 8), max_size=3))
def test_what_is_left_of_a_walk_is_the_walk_over_what_is_left(queue: list[tuple[int, str | None]], preferred: set[int]) -> None:
    sizes = sizes_of(Policy(8, True, tuple(preferred)))
    walk = walked([request(i, rows, shape) for i, (rows, shape) in enumerate(queue)], sizes)
    rest = walk_over(walk.requests[walk.marked :], sizes)
    assert rest.rows == walk.rows - walk.marked_rows
    check_walk(rest, sizes)
