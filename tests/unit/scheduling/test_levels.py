# SPDX-License-Identifier: Apache-2.0
"""The queue with levels by itself: its order is that of Triton's PriorityQueue, and what is not in use costs nothing."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.scheduling.levels import FEW_LEVELS, Levels
from penstock.runtime.scheduling.policy import Policy, QueuePolicy, TimeoutAction
from penstock.runtime.scheduling.requests import ENDED, SENT, Request
from penstock.runtime.scheduling.timeouts import Timeouts

DELAY = TimeoutAction.DELAY


def request(number: int, priority: int, now_ns: int = 0, principal: str = "ann") -> Request:
    return Request(number, 1, principal, 1, 1, None, None, now_ns, priority=priority)


def taken(levels: Levels) -> list[int]:
    """All that waits, in the order in which it is drawn and sent."""
    numbers = []
    while levels.waiting:
        drawn = levels.take()
        levels.check_invariants([drawn])
        drawn.become(SENT)
        levels.gone([drawn])
        numbers.append(drawn.number)
    levels.check_invariants([])
    return numbers


# --- Triton's order ---


class TritonLevel:
    """PriorityQueue::PolicyQueue, method by method (core/src/scheduler_utils.cc)."""

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.queue: deque[tuple[int, int]] = deque()  # request, timeout_timestamp_ns (0: none)
        self.delayed_queue: deque[int] = deque()
        self.rejected_queue: deque[int] = deque()

    def enqueue(self, number: int, now_ns: int) -> bool:
        size = len(self.queue) + len(self.delayed_queue)
        if self.policy.max_queue_size != 0 and size >= self.policy.max_queue_size:
            return False
        timeout_ns = self.policy.default_timeout_ns
        self.queue.append((number, now_ns + timeout_ns if timeout_ns != 0 else 0))
        return True

    def apply_policy(self, now_ns: int) -> None:
        kept: deque[tuple[int, int]] = deque()
        for number, timeout_ns in self.queue:
            if timeout_ns == 0 or now_ns < timeout_ns:
                kept.append((number, timeout_ns))
            elif self.policy.timeout_action is DELAY:
                self.delayed_queue.append(number)
            else:
                self.rejected_queue.append(number)
        self.queue = kept

    def dequeue_all(self) -> list[int]:
        return [number for number, _ in self.queue] + list(self.delayed_queue)


class Step(NamedTuple):
    passed_ns: int
    priority: int


QUEUE_POLICIES = st.builds(
    QueuePolicy,
    max_queue_size=st.sampled_from([0, 3]),
    timeout_action=st.sampled_from(TimeoutAction),
    default_timeout_ns=st.sampled_from([0, 3, 10]),
)


@given(
    st.fixed_dictionaries({1: QUEUE_POLICIES, 2: QUEUE_POLICIES, 3: QUEUE_POLICIES}),
    st.lists(st.builds(Step, st.integers(0, 4), st.integers(0, 4)), max_size=30),
)
def test_what_is_served_rejected_and_refused_is_as_in_tritons_queue(
    policies: dict[int, QueuePolicy], steps: list[Step]
) -> None:
    # Given the same arrivals at the same times at both
    triton = {level: TritonLevel(policy) for level, policy in policies.items()}
    policy = Policy(4, dynamic=True, priority_levels=3, default_priority_level=2, priority_queue_policies=policies)
    timeouts = Timeouts()
    levels = Levels(policy, timeouts)
    requests: dict[int, Request] = {}
    rejected: list[int] = []
    now_ns = 0
    for number, step in enumerate(steps):
        now_ns += step.passed_ns
        for each in triton.values():
            each.apply_policy(now_ns)
        for due in timeouts.pop_due(now_ns):
            if not levels.delay(requests[due]):
                requests[due].become(ENDED)
                levels.remove(requests[due])
                rejected.append(due)
        requests[number] = request(number, step.priority, now_ns)
        accepted = levels.push(requests[number])
        levels.check_invariants([])

        # Then both take or refuse it
        assert accepted == triton[step.priority if 1 <= step.priority <= 3 else 2].enqueue(number, now_ns)

    # And both reject the same, and serve the rest in the same order
    assert sorted(rejected) == sorted(number for each in triton.values() for number in each.rejected_queue)
    assert taken(levels) == [number for level in sorted(triton) for number in triton[level].dequeue_all()]
    assert len(timeouts) == 0


# --- what it costs ---


def test_a_level_is_made_by_its_first_request_and_forgotten_after_its_last() -> None:
    """Given the most levels that the field can say, when requests come for ever new ones and are withdrawn while level 1
    waits, then no more are kept than a few."""
    levels = Levels(Policy(4, dynamic=True, priority_levels=2**31, default_priority_level=2**31), Timeouts())
    levels.push(request(0, 1))
    for number in range(1, 1000):
        passing = request(number, 2 * number)
        assert levels.push(passing)
        passing.become(ENDED)
        assert levels.remove(passing)
        assert len(levels._levels) <= FEW_LEVELS + 1
        assert len(levels._order) <= FEW_LEVELS + 1
    levels.check_invariants([])
    assert taken(levels) == [0]


def test_many_levels_in_use_are_served_in_order() -> None:
    levels = Levels(Policy(4, dynamic=True, priority_levels=1000, default_priority_level=1), Timeouts())
    for number in range(1, 301):
        assert levels.push(request(number, 1 + 7 * number % 997))
    assert taken(levels) == sorted(range(1, 301), key=lambda number: 1 + 7 * number % 997)


def test_a_level_that_was_forgotten_does_not_mix_up_what_comes_back() -> None:
    """Given a batch of level 5 at a worker, when the level is forgotten and used again, then what comes back goes first."""
    levels = Levels(Policy(4, dynamic=True, priority_levels=1000, default_priority_level=1), Timeouts())
    for number in (1, 2, 3):
        levels.push(request(number, 5))
    sent = [levels.take() for _ in range(3)]
    levels.gone(sent)
    for number in range(100, 100 + 2 * FEW_LEVELS):
        levels.push(request(number, number))
    assert 5 not in levels._levels
    # When one request of the level was drawn since
    levels.push(request(4, 5))
    again = levels.take()
    levels.put_back(sent, sent=True)
    levels.put_back([again], sent=False)
    levels.check_invariants([])

    assert taken(levels)[:4] == [1, 2, 3, 4]


def test_a_withdrawn_request_does_not_come_back_where_it_stood() -> None:
    """Given one that was delayed, and before that stood in the middle of its line, then it is drawn once."""
    timeouts = Timeouts()
    policy = QueuePolicy(timeout_action=DELAY, default_timeout_ns=5, allow_timeout_override=True)
    levels = Levels(Policy(4, dynamic=True, default_queue_policy=policy), timeouts)
    requests = [request(number, 0) for number in range(3)]
    requests[1].timeout_ns = 1
    for each in requests:
        levels.push(each)
    (due,) = timeouts.pop_due(1)
    assert levels.delay(requests[due])
    levels.check_invariants([])

    assert taken(levels) == [0, 2, 1]


def test_it_says_its_state() -> None:
    levels = Levels(Policy(4, dynamic=True, priority_levels=3, default_priority_level=2), Timeouts())
    levels.push(request(1, 3, principal="ben"))
    levels.push(request(2, 0))
    assert repr(levels) == "<2 waiting; queued by level {2: 1, 3: 1}, by principal {'ben': 1, 'ann': 1}>"
