# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: one outcome and one release per request, order kept, bounds kept, everything drains.

`paper_broker.Broker` checks after every event: invariants, one outcome, one release (never before the outcome, never while a
worker has the request), batch sizes, shapes and credits, nothing executed after its end, priority levels and queue timeouts.
This adds random stories, the order within a principal and a level, the bound of a level, and the end: when every worker has
answered and every instance that is missing has come, nothing is left.

Models may preserve order: then `Broker` checks that replies leave as the requests came, and this that none is withheld without a
request before it. Models may be rate limited: then `Broker` checks that resources suffice for what is sent, and this that nobody
waits for what is there.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs
from paper_broker import MS, US, Broker

from penstock.runtime.scheduling.commands import SendBatch
from penstock.runtime.scheduling.events import (
    AnyEvent,
    Arrived,
    ArrivedTogether,
    BatchEnded,
    Cancelled,
    GpuDown,
    InstanceGone,
    ModelDown,
    ModelRemoved,
    SessionEnded,
    Tick,
)
from penstock.runtime.scheduling.limits import GLOBAL, Needs, Pool, ResourceLimit
from penstock.runtime.scheduling.policy import Policy, QueuePolicy, TimeoutAction
from penstock.runtime.scheduling.requests import NO_GPU, Request, RequestState

SESSIONS = st.integers(1, 3)
PRINCIPALS = st.sampled_from(["ann", "ben", "cleo"])
DURATIONS_NS = st.sampled_from([0, 10 * US, 200 * US, 1 * MS, 7 * MS, 40 * MS])
QUEUE_POLICIES = st.builds(
    QueuePolicy,
    max_queue_size=st.sampled_from([0, 0, 2, 5]),
    timeout_action=st.sampled_from(TimeoutAction),
    default_timeout_ns=st.sampled_from([0, 150 * US, 2 * MS, 30 * MS]),
    allow_timeout_override=st.booleans(),
)
LEVELS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"default_queue_policy": QUEUE_POLICIES}),
    st.fixed_dictionaries(
        {
            "priority_levels": st.just(3),
            "default_priority_level": st.integers(1, 3),
            "default_queue_policy": QUEUE_POLICIES,
            "priority_queue_policies": st.dictionaries(st.integers(1, 3), QUEUE_POLICIES, max_size=2),
        }
    ),
)
GPUS = st.sampled_from([NO_GPU, 0, 1])
BOUND_TO = st.sampled_from([NO_GPU, NO_GPU, 0, 1])
PRIORITIES = st.sampled_from([0, 0, 1, 2, 3, 4])
TIMEOUTS_NS = st.sampled_from([0, 0, 100 * US, 1 * MS, 60 * MS])
PLAIN = st.builds(
    Policy,
    max_batch_size=st.just(6),
    dynamic=st.sampled_from([True, True, True, False]),
    preferred_batch_sizes=st.sampled_from([(), (), (4,), (2, 5), (1, 3)]),
    max_queue_delay_ns=st.sampled_from([0, 300 * US, 5 * MS]),
    max_execution_ns=st.sampled_from([0, 20 * MS]),
    max_queued_per_principal=st.sampled_from([4, 8192]),
    credits=st.integers(1, 3),
    preserve_ordering=st.booleans(),
    spread=st.booleans(),
)
LIMITED = st.builds(
    Policy,
    max_batch_size=st.just(6),
    dynamic=st.booleans(),
    preferred_batch_sizes=st.sampled_from([(), (2, 5)]),
    max_queue_delay_ns=st.sampled_from([0, 300 * US]),
    max_execution_ns=st.sampled_from([0, 20 * MS]),
    credits=st.just(1),
    rate_limited=st.just(True),
    preserve_ordering=st.booleans(),
    spread=st.booleans(),
)


def with_levels(plain: Policy, levels: dict[str, object]) -> Policy:
    """Replies in the order of arrival go with neither priority levels nor queue policies: configurations are refused for it."""
    return plain if plain.preserve_ordering else structs.replace(plain, **levels)


ANY_POLICY = st.builds(with_levels, st.one_of(PLAIN, LIMITED, LIMITED), LEVELS)
POOLS = (Pool("memory", 0), Pool("licence", GLOBAL))
AMOUNTS = st.dictionaries(st.sampled_from(POOLS), st.integers(1, 4), max_size=2)
NEEDS = st.builds(lambda amounts, priority: Needs(tuple(amounts.items()), priority), AMOUNTS, st.integers(1, 3))
LIMITS = st.sampled_from([(), (ResourceLimit("memory", 5),), (ResourceLimit("licence", 4, 7), ResourceLimit("memory", 4, 0))])


class SchedulerMachine(RuleBasedStateMachine):
    """Two models at a time, up to three workers each, three sessions, three principals, two GPUs and the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.next_number = 0
        self.next_instance = 100
        self.models: list[int] = []  # loaded, by slot; a new number per load
        self.model_of: dict[int, int] = {}  # instance -> model
        self.queue_order: dict[tuple[int, str, int], list[Request]] = {}  # (model, principal, GPU) -> as they arrived

    def tell(self, event: AnyEvent) -> None:
        """Nothing that is sent may overtake an older request of its principal that is still queued."""
        for command in self.broker.tell(event):
            if isinstance(command, SendBatch):
                self._check_order([request.number for request in command.batch.requests], command.batch.model)
        for line in self.queue_order.values():
            line[:] = [request for request in line if request.state in (RequestState.QUEUED, RequestState.SENT)]

    def _check_order(self, numbers: list[int], model: int) -> None:
        """Among those in time: in what order the delayed ones expired is told in test_queue_timeouts.py."""
        place = self.broker.place
        sent = [self.broker.requests[number] for number in numbers]
        for principal, (level, delayed) in {(request.principal, place(request)) for request in sent}:
            came = self.queue_order[model, principal, sent[0].gpu]
            line = [request for request in came if place(request) == (level, False)]
            mine = [request for request in line if request in sent]
            if not delayed:
                assert [each for each in sent if each.principal == principal and place(each) == (level, False)] == mine
                assert all(older.state is not RequestState.QUEUED for older in line[: line.index(mine[-1])])

    @initialize(first=ANY_POLICY, second=st.one_of(ANY_POLICY, st.just(Policy(0))), needs=NEEDS, limits=LIMITS)
    def load_two_models(self, first: Policy, second: Policy, needs: Needs, limits: tuple[ResourceLimit, ...]) -> None:
        self.broker = Broker(*limits)
        for policy in (first, second):
            self._load(policy)
            self.start_instance(len(self.models) - 1, needs, NO_GPU, 1)

    def _load(self, policy: Policy) -> None:
        model = len(self.broker.policies) + 1
        self.models.append(model)
        self.broker.add_model(model, policy)

    def _request(  # noqa: PLR0917 - what rules draw, in their order
        self,
        slot: int,
        rows: int,
        principal: str,
        session: int,
        shape: str,
        within_ns: int | None,
        priority: int,
        timeout_ns: int,
        gpu: int,
    ) -> Request:
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
            priority=priority,
            timeout_ns=timeout_ns,
            gpu=gpu if policy.spread else NO_GPU,
        )
        self.queue_order.setdefault((model, principal, request.gpu), []).append(request)
        return request

    @rule(
        slot=st.integers(0, 1),
        rows=st.integers(1, 6),
        principal=PRINCIPALS,
        session=SESSIONS,
        shape=st.sampled_from("aaab"),
        within_ns=st.sampled_from([None, None, None, 0, 100 * US, 3 * MS]),
        priority=PRIORITIES,
        timeout_ns=TIMEOUTS_NS,
        gpu=BOUND_TO,
    )
    def arrive(self, **asked: Any) -> None:
        request = self._request(**asked)
        limit = self.broker.queue_policy(request).max_queue_size
        queued = [each for each in self.broker.queued(request.model, self.broker.level(request)) if each is not request]
        queued = [each for each in queued if each.gpu == request.gpu]  # each queue has bounds of its own
        self.tell(Arrived(request))
        exceeds = "Exceeds maximum queue size" in self.broker.messages.get(request.number, "")
        if exceeds or (limit and len(queued) >= limit):
            assert limit and len(queued) >= limit
            assert request.number in self.broker.refused

    @rule(
        slot=st.integers(0, 1),
        burst=st.lists(
            st.tuples(st.integers(1, 3), PRINCIPALS, SESSIONS, PRIORITIES, TIMEOUTS_NS, BOUND_TO), min_size=1, max_size=8
        ),
    )
    def arrive_together(self, slot: int, burst: list[tuple[int, str, int, int, int, int]]) -> None:
        requests = [self._request(slot, rows, who, session, "a", None, *asked) for rows, who, session, *asked in burst]
        self.tell(ArrivedTogether(requests))

    @precondition(lambda self: any(self.broker.workers.values()))
    @rule(which=st.integers(0, 5), spent_ns=DURATIONS_NS)
    def answer(self, which: int, spent_ns: int) -> None:
        busy = [instance for instance, batches in sorted(self.broker.workers.items()) if batches]
        self.broker.now_ns += spent_ns  # whatever is due then comes late: after the answer
        self._answer(busy[which % len(busy)])

    def _answer(self, instance: int) -> None:
        batch = self.broker.workers[instance].popleft()
        self.tell(BatchEnded(instance, batch.number))
        withheld = self.broker.withheld.get(batch.number, set())
        assert {request.number for request in batch.requests} - withheld <= self.broker.released
        assert withheld.isdisjoint(self.broker.outcomes)

    @rule(duration_ns=DURATIONS_NS)
    def advance(self, duration_ns: int) -> None:
        end_ns = self.broker.now_ns + duration_ns
        while (due_ns := self.broker.scheduler.next_deadline()) is not None and due_ns <= end_ns:
            self.broker.now_ns = max(self.broker.now_ns, due_ns)
            self.tell(Tick())
            again_ns = self.broker.scheduler.next_deadline()
            assert again_ns is None or again_ns > self.broker.now_ns, "a Tick must settle what was due"
        self.broker.now_ns = end_ns

    @rule(duration_ns=DURATIONS_NS)
    def stall(self, duration_ns: int) -> None:
        """The broker does not run for a while: whatever comes next comes before the Ticks that are due."""
        self.broker.now_ns += duration_ns

    @precondition(lambda self: self.next_number > 0)
    @rule(back=st.integers(0, 12))
    def cancel(self, back: int) -> None:
        self.tell(Cancelled(max(1, self.next_number - back)))

    @rule(session=SESSIONS)
    def end_session(self, session: int) -> None:
        self.tell(SessionEnded(session))
        assert all(n in self.broker.outcomes for n, request in self.broker.requests.items() if request.session == session)

    @rule(slot=st.integers(0, 1), needs=NEEDS, gpu=GPUS, lanes=st.sampled_from([1, 1, 2, 3]))
    def start_instance(self, slot: int, needs: Needs, gpu: int, lanes: int) -> None:
        """A worker on the CPU has one lane; a model that is not spread has all its workers on one device."""
        model = self.models[slot]
        policy = self.broker.policies[model]
        there = {self.broker.gpus[instance] for instance, of in self.model_of.items() if of == model}
        if there and not policy.spread:
            (gpu,) = there
        if len({self.broker.lanes[instance] for instance, of in self.model_of.items() if of == model}) < 3:
            first, self.next_instance = self.next_instance + 1, self.next_instance + (1 if gpu == NO_GPU else lanes)
            self.model_of.update(dict.fromkeys(range(first, self.next_instance + 1), model))
            needed = needs if policy.rate_limited else None
            self.tell(self.broker.enlist(first, model, needed, gpu, self.next_instance + 1 - first))

    @precondition(lambda self: bool(self.model_of))
    @rule(which=st.integers(0, 5))
    def crash(self, which: int) -> None:
        instances = sorted(self.model_of)
        self._crash(instances[which % len(instances)])

    def _crash(self, instance: int) -> None:
        lanes = self.broker.lanes[instance]
        for lane in lanes:
            del self.model_of[lane]
        begun = self.broker.bury(instance)
        self.tell(InstanceGone(lanes[0], "worker died (signal 9)", len(lanes)))
        for batch in begun:
            assert {request.number for request in batch.requests} <= self.broker.released
            self.tell(BatchEnded(batch.instance, batch.number))

    @precondition(lambda self: bool(self.model_of))
    @rule(which=st.integers(0, 5))
    def send_away(self, which: int) -> None:
        """An instance that is not wanted any more; that it may be told twice, or of a model that is gone, is part of it."""
        instances = sorted(self.model_of)
        instance = instances[which % len(instances)]
        if instance not in self.broker.vacated:
            self.broker.send_away(instance)

    @precondition(lambda self: bool(self.broker.killed))
    @rule()
    def killed_worker_dies(self) -> None:
        self._crash(self.broker.killed[0])

    @rule(slot=st.integers(0, 1))
    def model_goes_down(self, slot: int) -> None:
        self.tell(ModelDown(self.models[slot], "5 crashes in 60 s"))
        assert self.broker.scheduler.queued(self.models[slot]) == 0

    @rule(slot=st.integers(0, 1), policy=ANY_POLICY, needs=NEEDS)
    def reload(self, slot: int, policy: Policy, needs: Needs) -> None:
        """The old version drains while the new one, a model of its own, takes its place."""
        self.tell(ModelRemoved(self.models[slot]))
        self._load(policy)
        self.models[slot] = self.models.pop()
        self.start_instance(slot, needs, NO_GPU, 1)

    @rule(slot=st.integers(0, 1), gpu=st.integers(0, 1))
    def gpu_goes_down(self, slot: int, gpu: int) -> None:
        """What is bound to it fails, now and until an instance is ready there; the rest does not notice."""
        model = self.models[slot]
        if any(self.broker.gpus[instance] == gpu for instance, of in self.model_of.items() if of == model):
            return
        self.tell(GpuDown(model, gpu, "5 crashes in 60 s"))
        assert not [request for request in self.broker.queued(model) if request.gpu == gpu]

    @invariant()
    def no_room_is_left_unused(self) -> None:
        """A model with a request queued and an instance idle holds it for a reason that ends: there is a timer."""
        for model in self.models:
            idle = [i for i, of in self.model_of.items() if of == model and not self.broker.workers[i]]
            idle = [i for i in idle if i not in (*self.broker.killed, *self.broker.leaving, *self.broker.vacated)]
            bound_to = {request.gpu for request in self.broker.queued(model)}
            idle = [i for i in idle if bound_to & {NO_GPU, self.broker.gpus[i]}]
            if all(self.broker.needs[instance].amounts for instance in idle) and any(map(self.broker.used, POOLS)):
                continue  # it may lack something, or somebody who lacks something is before it
            if idle and bound_to:
                assert self.broker.policies[model].max_queue_delay_ns > 0
                assert self.broker.scheduler.next_deadline() is not None

    @invariant()
    def nothing_is_withheld_without_a_request_before_it(self) -> None:
        for model, numbers in self.broker.order.items():
            waiting = {number for numbers in self.broker.withheld.values() for number in numbers}
            assert not numbers or numbers[0] not in waiting, f"model {model} withholds its first reply"

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
        assert self.broker.scheduler.resources() == []
        assert not any(self.broker.order.values()) and not any(self.broker.withheld.values())
        assert repr(self.broker.scheduler) == "<scheduler: <0 requests of 0 sessions: {}>, <[]>>"
        super().teardown()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
