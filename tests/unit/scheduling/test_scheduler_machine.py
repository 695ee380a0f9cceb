# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: one outcome and one release per request, order kept, bounds kept, everything drains.

`paper_broker.Broker` checks after every event: invariants, one outcome, one release (never before the outcome, never while a
worker has the request), batch sizes, shapes and credits, nothing executed after its end. This adds random stories, the order
within a principal, and the end: when every worker has answered and every instance that is missing has come, nothing is left.
"""

from __future__ import annotations

from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from paper_broker import MS, US, Broker

from penstock.runtime.scheduling.commands import SendBatch
from penstock.runtime.scheduling.events import (
    AnyEvent,
    Arrived,
    ArrivedTogether,
    BatchEnded,
    Cancelled,
    InstanceGone,
    InstanceReady,
    ModelDown,
    ModelRemoved,
    SessionEnded,
    Tick,
)
from penstock.runtime.scheduling.policy import Policy
from penstock.runtime.scheduling.requests import Request, RequestState

SESSIONS = st.integers(1, 3)
PRINCIPALS = st.sampled_from(["ann", "ben", "cleo"])
DURATIONS_NS = st.sampled_from([0, 10 * US, 200 * US, 1 * MS, 7 * MS, 40 * MS])
POLICIES = st.builds(
    Policy,
    max_batch_size=st.just(6),
    dynamic=st.sampled_from([True, True, True, False]),
    preferred_batch_sizes=st.sampled_from([(), (), (4,), (2, 5), (1, 3)]),
    max_queue_delay_ns=st.sampled_from([0, 300 * US, 5 * MS]),
    max_execution_ns=st.sampled_from([0, 20 * MS]),
    max_queued_per_principal=st.sampled_from([4, 8192]),
    credits=st.integers(1, 3),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Two models at a time, up to three instances each, three sessions, three principals."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.next_number = 0
        self.next_instance = 100
        self.models: list[int] = []  # loaded, by slot; a new number per load
        self.model_of: dict[int, int] = {}  # instance -> model
        self.queue_order: dict[tuple[int, str], list[Request]] = {}  # (model, principal) -> as they arrived

    def tell(self, event: AnyEvent) -> None:
        """Nothing that is sent may overtake an older request of its principal that is still queued."""
        for command in self.broker.tell(event):
            if isinstance(command, SendBatch):
                self._check_order([request.number for request in command.batch.requests], command.batch.model)
        for line in self.queue_order.values():
            line[:] = [request for request in line if request.state in (RequestState.QUEUED, RequestState.SENT)]

    def _check_order(self, numbers: list[int], model: int) -> None:
        for principal in {self.broker.requests[number].principal for number in numbers}:
            line = self.queue_order[model, principal]
            mine = [request.number for request in line if request.number in numbers]
            assert [n for n in numbers if self.broker.requests[n].principal == principal] == mine
            older = line[: [request.number for request in line].index(mine[-1])]
            assert all(request.state is not RequestState.QUEUED for request in older)

    @initialize(first=POLICIES, second=st.one_of(POLICIES, st.just(Policy(0))))
    def load_two_models(self, first: Policy, second: Policy) -> None:
        for policy in (first, second):
            self._load(policy)
            self.start_instance(len(self.models) - 1)

    def _load(self, policy: Policy) -> None:
        model = len(self.broker.policies) + 1
        self.models.append(model)
        self.broker.add_model(model, policy)

    def _request(self, slot: int, rows: int, principal: str, session: int, shape: str, within_ns: int | None) -> Request:
        model = self.models[slot]
        policy = self.broker.policies[model]
        self.next_number += 1
        shape_key = shape if policy.preferred_batch_sizes else None
        request = self.broker.request(
            self.next_number,
            model,
            rows=min(rows, policy.max_batch_size or 1),
            principal=principal,
            session=session,
            shape_key=shape_key,
            within_ns=within_ns,
        )
        self.queue_order.setdefault((model, principal), []).append(request)
        return request

    @rule(
        slot=st.integers(0, 1),
        rows=st.integers(1, 6),
        principal=PRINCIPALS,
        session=SESSIONS,
        shape=st.sampled_from("aaab"),
        within_ns=st.sampled_from([None, None, None, 0, 100 * US, 3 * MS]),
    )
    def arrive(self, slot: int, rows: int, principal: str, session: int, shape: str, within_ns: int | None) -> None:
        self.tell(Arrived(self._request(slot, rows, principal, session, shape, within_ns)))

    @rule(slot=st.integers(0, 1), burst=st.lists(st.tuples(st.integers(1, 3), PRINCIPALS, SESSIONS), min_size=1, max_size=8))
    def arrive_together(self, slot: int, burst: list[tuple[int, str, int]]) -> None:
        self.tell(ArrivedTogether([self._request(slot, rows, who, session, "a", None) for rows, who, session in burst]))

    @precondition(lambda self: any(self.broker.workers.values()))
    @rule(which=st.integers(0, 5), spent_ns=DURATIONS_NS)
    def answer(self, which: int, spent_ns: int) -> None:
        busy = [instance for instance, batches in sorted(self.broker.workers.items()) if batches]
        self.broker.now_ns += spent_ns
        self._answer(busy[which % len(busy)])

    def _answer(self, instance: int) -> None:
        batch = self.broker.workers[instance].popleft()
        self.tell(BatchEnded(instance, batch.number))
        assert {request.number for request in batch.requests} <= self.broker.released

    @rule(duration_ns=DURATIONS_NS)
    def advance(self, duration_ns: int) -> None:
        end_ns = self.broker.now_ns + duration_ns
        while (due_ns := self.broker.scheduler.next_deadline()) is not None and due_ns <= end_ns:
            self.broker.now_ns = max(self.broker.now_ns, due_ns)
            self.tell(Tick())
            again_ns = self.broker.scheduler.next_deadline()
            assert again_ns is None or again_ns > self.broker.now_ns, "a Tick must settle what was due"
        self.broker.now_ns = end_ns

    @precondition(lambda self: self.next_number > 0)
    @rule(back=st.integers(0, 12))
    def cancel(self, back: int) -> None:
        self.tell(Cancelled(max(1, self.next_number - back)))

    @rule(session=SESSIONS)
    def end_session(self, session: int) -> None:
        self.tell(SessionEnded(session))
        assert all(n in self.broker.outcomes for n, request in self.broker.requests.items() if request.session == session)

    @rule(slot=st.integers(0, 1))
    def start_instance(self, slot: int) -> None:
        model = self.models[slot]
        if sum(other == model for other in self.model_of.values()) < 3:
            self.next_instance += 1
            self.model_of[self.next_instance] = model
            self.broker.workers[self.next_instance] = deque()
            self.tell(InstanceReady(self.next_instance, model))

    @precondition(lambda self: bool(self.model_of))
    @rule(which=st.integers(0, 5))
    def crash(self, which: int) -> None:
        instances = sorted(self.model_of)
        self._crash(instances[which % len(instances)])

    def _crash(self, instance: int) -> None:
        del self.model_of[instance]
        lost = self.broker.workers.pop(instance)
        if instance in self.broker.killed:
            self.broker.killed.remove(instance)
        self.tell(InstanceGone(instance, "worker died (signal 9)"))
        if lost:
            assert {request.number for request in lost[0].requests} <= self.broker.released
            self.tell(BatchEnded(instance, lost[0].number))

    @precondition(lambda self: bool(self.broker.killed))
    @rule()
    def killed_worker_dies(self) -> None:
        self._crash(self.broker.killed[0])

    @rule(slot=st.integers(0, 1))
    def model_goes_down(self, slot: int) -> None:
        self.tell(ModelDown(self.models[slot], "5 crashes in 60 s"))
        assert self.broker.scheduler.queued(self.models[slot]) == 0

    @rule(slot=st.integers(0, 1), policy=POLICIES)
    def reload(self, slot: int, policy: Policy) -> None:
        """The old version drains while the new one, a model of its own, takes its place."""
        self.tell(ModelRemoved(self.models[slot]))
        self._load(policy)
        self.models[slot] = self.models.pop()
        self.start_instance(slot)

    @invariant()
    def no_room_is_left_unused(self) -> None:
        """A model with a request queued and an instance idle holds it for a reason that ends: there is a timer."""
        for model in self.models:
            idle = [i for i, of in self.model_of.items() if of == model and not self.broker.workers[i]]
            idle = [i for i in idle if i not in self.broker.killed]
            if idle and self.broker.scheduler.queued(model):
                assert self.broker.policies[model].max_queue_delay_ns > 0
                assert self.broker.scheduler.next_deadline() is not None

    def teardown(self) -> None:
        for model in self.models:
            self.tell(ModelRemoved(model))
        for _ in range(10_000):
            if self.broker.killed:
                self._crash(self.broker.killed[0])
            elif busy := [instance for instance, batches in self.broker.workers.items() if batches]:
                self._answer(busy[0])
            else:
                break
        assert set(self.broker.outcomes) == set(self.broker.requests) == self.broker.released
        assert sorted(self.broker.drained) == sorted(self.broker.policies)
        assert self.broker.scheduler.next_deadline() is None
        assert repr(self.broker.scheduler) == "<scheduler: <0 requests of 0 sessions: {}>, <[]>>"
        super().teardown()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
