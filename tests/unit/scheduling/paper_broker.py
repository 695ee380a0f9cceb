# SPDX-License-Identifier: Apache-2.0
"""A broker for the scheduler's tests: a virtual clock, workers that execute in order, and the two ends of every request."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from penstock.ipc.errors import Code
from penstock.runtime.scheduling.batcher import NEVER_NS
from penstock.runtime.scheduling.commands import (
    AnyCommand,
    Completed,
    Deliver,
    Drained,
    Finish,
    Kill,
    Release,
    SendBatch,
    Vacated,
    Withhold,
)
from penstock.runtime.scheduling.events import (
    AnyEvent,
    Arrived,
    ArrivedTogether,
    BatchEnded,
    InstanceGone,
    InstanceLeaving,
    InstanceReady,
    ModelAdded,
    ModelRemoved,
    Tick,
)
from penstock.runtime.scheduling.limits import EACH, GLOBAL, Needs, Pool, ResourceLimit
from penstock.runtime.scheduling.policy import Policy, QueuePolicy, TimeoutAction
from penstock.runtime.scheduling.requests import NO_GPU, Batch, Request, RequestState
from penstock.runtime.scheduling.scheduler import Scheduler

US = 1_000
MS = 1_000_000
MANY = 8192
"""The bound of a principal that nothing in these tests reaches."""


class Broker:
    """Feeds a scheduler, carries out its commands on paper, and checks after every step what must hold of them."""

    def __init__(self, *limits: ResourceLimit) -> None:
        self.scheduler = Scheduler(limits)
        self.limits = limits
        self.needs: dict[int, Needs] = {}  # instance -> what it needs
        self.order: dict[
            int, list[int]
        ] = {}  # model that preserves order -> accepted requests without an outcome, as they came
        self.answered: list[int] = []  # requests that were answered by a worker, in the order of their outcomes
        self.withheld: dict[int, set[int]] = {}  # batch -> requests that wait for their turn
        self.now_ns = 1_000_000
        self.requests: dict[int, Request] = {}
        self.policies: dict[int, Policy] = {}
        self.workers: dict[int, deque[Batch]] = {}  # instance -> batches sent and not answered, in order
        self.outcomes: dict[int, str] = {}  # request -> "ok" or the error code
        self.messages: dict[int, str] = {}
        self.released: set[int] = set()
        self.batches: list[Batch] = []
        self.killed: list[int] = []
        self.drained: list[int] = []
        self.refused: set[int] = set()  # requests that were not accepted
        self.leaving: set[int] = set()  # instances that were sent away and are not vacated; not of a removed model
        self.models: dict[int, int] = {}  # instance -> model
        self.gpus: dict[int, int] = {}  # instance -> where it computes
        self.lanes: dict[int, range] = {}  # instance -> all those of its worker
        self.removed: set[int] = set()
        self.vacated: list[int] = []

    def tell(self, event: AnyEvent) -> list[AnyCommand]:
        if isinstance(event, InstanceReady):
            self.models.update(dict.fromkeys(range(event.instance, event.instance + event.lanes), event.model))
        elif isinstance(event, ModelRemoved):
            self.removed.add(event.model)
            self.leaving -= {instance for instance, model in self.models.items() if model == event.model}
        commands = self.scheduler.handle(event, self.now_ns)
        if isinstance(event, (Arrived, ArrivedTogether)):
            for request in [event.request] if isinstance(event, Arrived) else event.requests:
                if self.preserves_order(request):
                    self.order.setdefault(request.model, []).append(request.number)
        for command in commands:
            self._carry_out(command)
        self.scheduler.check_invariants()
        self._check_order(commands)
        self._check_waiting()
        return commands

    def add_model(self, model: int, policy: Policy, *instances: int) -> None:
        self.policies[model] = policy
        self.tell(ModelAdded(model, policy))
        for instance in instances:
            self.add_instance(instance, model)

    def add_instance(self, instance: int, model: int, needs: Needs | None = None, gpu: int = NO_GPU, lanes: int = 1) -> None:
        self.tell(self.enlist(instance, model, needs, gpu, lanes))

    def enlist(self, instance: int, model: int, needs: Needs | None, gpu: int, lanes: int) -> InstanceReady:
        """A worker, of which the scheduler is then to be told this."""
        for lane in range(instance, instance + lanes):
            self.workers[lane] = deque()
            self.needs[lane] = needs or Needs()
            self.gpus[lane] = gpu
            self.lanes[lane] = range(instance, instance + lanes)
        return InstanceReady(instance, model, self.needs[instance], gpu, lanes)

    def request(
        self,
        number: int,
        model: int = 1,
        *,
        rows: int = 1,
        principal: str = "ann",
        session: int = 1,
        shape_key: Hashable | None = None,
        within_ns: int | None = None,
        priority: int = 0,
        timeout_ns: int = 0,
        gpu: int = NO_GPU,
    ) -> Request:
        deadline_ns = None if within_ns is None else self.now_ns + within_ns
        request = Request(
            number,
            session,
            principal,
            model,
            rows,
            shape_key,
            deadline_ns,
            self.now_ns,
            priority=priority,
            timeout_ns=timeout_ns,
            gpu=gpu,
        )
        self.requests[number] = request
        return request

    def arrive(self, number: int, model: int = 1, **how: object) -> None:
        self.tell(Arrived(self.request(number, model, **how)))  # type: ignore[arg-type]

    def answer(self, instance: int) -> Batch:
        """The instance's worker answers its running batch."""
        batch = self.workers[instance].popleft()
        self.tell(BatchEnded(instance, batch.number))
        return batch

    def send_away(self, instance: int) -> None:
        lanes = self.lanes[instance]
        if self.models[instance] not in self.removed:
            self.leaving |= {lane for lane in lanes if lane not in self.vacated}
        self.tell(InstanceLeaving(lanes[0], len(lanes)))

    def crash(self, instance: int, message: str = "worker died (signal 9)") -> None:
        """The instance's worker is gone, with all its lanes; what it answered before was told."""
        self.bury(instance)
        self.tell(InstanceGone(self.lanes[instance][0], message, len(self.lanes[instance])))

    def bury(self, instance: int) -> list[Batch]:
        """Forgets a worker, of which the scheduler is then to be told; returns what it may have begun."""
        lanes, begun = self.lanes[instance], []
        for lane in lanes:
            batches = list(self.workers.pop(lane))
            begun += batches[:1] if self.gpus[lane] == NO_GPU else batches
            self.leaving.discard(lane)
            if lane in self.killed:
                self.killed.remove(lane)
        return begun

    def advance(self, duration_ns: int) -> None:
        """Time passes; a Tick comes whenever the scheduler asked for one."""
        end_ns = self.now_ns + duration_ns
        while (due_ns := self.scheduler.next_deadline()) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.tell(Tick())
            again_ns = self.scheduler.next_deadline()
            assert again_ns is None or again_ns > self.now_ns, "a Tick must settle what was due"
        self.now_ns = end_ns

    def at(self, instance: int) -> list[list[int]]:
        """Request numbers of the batches at an instance."""
        return [[request.number for request in batch.requests] for batch in self.workers[instance]]

    def sent(self) -> list[list[int]]:
        """Request numbers of all batches, in the order sent."""
        return [[request.number for request in batch.requests] for batch in self.batches]

    def closed(self) -> list[str]:
        return [batch.closed.value for batch in self.batches]

    # --- Triton's queue policies, worked out per request: scheduler_utils.cc and InferenceRequest::SetPriority ---

    def level(self, request: Request) -> int:
        policy = self.policies[request.model]
        if not policy.dynamic:
            return 0
        return request.priority if 1 <= request.priority <= policy.priority_levels else policy.default_priority_level

    def queue_policy(self, request: Request) -> QueuePolicy:
        policy = self.policies[request.model]
        if not policy.dynamic:
            return QueuePolicy()
        return policy.priority_queue_policies.get(self.level(request), policy.default_queue_policy)

    def expires_ns(self, request: Request) -> float:
        rules = self.queue_policy(request)
        timeout_ns = rules.default_timeout_ns
        if rules.allow_timeout_override and request.timeout_ns and request.timeout_ns < timeout_ns:
            timeout_ns = request.timeout_ns
        expires_ns = request.arrived_ns + timeout_ns
        return expires_ns if timeout_ns and expires_ns < NEVER_NS else float("inf")

    def place(self, request: Request) -> tuple[int, bool]:
        """Level, and whether it was delayed: lower is served first."""
        return self.level(request), self.expires_ns(request) <= self.now_ns

    def queued(self, model: int, level: int | None = None) -> list[Request]:
        waiting = [r for r in self.requests.values() if r.model == model and r.state is RequestState.QUEUED]
        return [r for r in waiting if r.number not in self.refused and level in (None, self.level(r))]

    def _check_order(self, commands: list[AnyCommand]) -> None:
        """What was sent is of higher places than what was left, and in their order."""
        for batch in [command.batch for command in commands if isinstance(command, SendBatch)]:
            places = [self.place(request) for request in batch.requests]
            assert places == sorted(places), batch
            known = [left for left in self.queued(batch.model) if not self._may_be_later(left, batch)]
            known = [left for left in known if left.gpu == batch.requests[0].gpu]
            assert all(self.place(left) >= places[-1] for left in known), batch

    def _may_be_later(self, left: Request, batch: Batch) -> bool:
        """Whether the batch may have been sent before this one of the same burst was looked at: to make room for another."""
        policy = self.policies[left.model]
        rules = [policy.default_queue_policy, *policy.priority_queue_policies.values()]
        bounded = policy.max_queued_per_principal < MANY or any(each.max_queue_size for each in rules)
        last = max(request.number for request in batch.requests)
        return bounded and left.arrived_ns == self.now_ns and left.number > last

    def _check_waiting(self) -> None:
        """Nobody waits past a timeout that rejects, and for every timeout to come there is a timer."""
        due_ns = self.scheduler.next_deadline()
        for model in self.policies:
            for request in self.queued(model):
                expires_ns = self.expires_ns(request)
                if expires_ns > self.now_ns:
                    assert expires_ns == float("inf") or (due_ns is not None and due_ns <= expires_ns), request
                else:
                    assert self.queue_policy(request).timeout_action is TimeoutAction.DELAY, request

    def _carry_out(self, command: AnyCommand) -> None:
        if isinstance(command, SendBatch):
            self._send(command.batch)
        elif isinstance(command, Kill):
            assert command.instance not in self.killed
            self.killed += self.lanes[command.instance]
        elif isinstance(command, Vacated):
            assert command.instance in self.leaving and not self.workers[command.instance]
            self.leaving.remove(command.instance)
            self.vacated.append(command.instance)
        elif isinstance(command, Drained):
            assert not any(batch.model == command.model for batches in self.workers.values() for batch in batches)
            self.drained.append(command.model)
        else:
            self._end(command)

    def _end(self, command: Completed | Withhold | Deliver | Finish | Release) -> None:
        """What a command says of the two ends of requests."""
        if isinstance(command, Release):
            self._release(command.request)
        elif isinstance(command, Finish):
            assert isinstance(command.code, Code)
            assert command.message
            self._outcome(command.request, command.code.value)
            self.messages[command.request.number] = command.message
            if not command.accepted:
                self.refused.add(command.request.number)
            if command.released:
                self._release(command.request)
        elif isinstance(command, Deliver):
            for request in command.requests:
                assert request.number in self.withheld[command.batch], "a reply comes with the batch it was executed in"
                assert self.order[request.model][0] == request.number, "replies leave in the order of arrival"
                self._outcome(request, "ok")
                self._release(request)
        else:
            self._batch_ended(command)

    def _batch_ended(self, command: Completed | Withhold) -> None:
        requests = command.batch.requests
        kept = command.requests if isinstance(command, Withhold) else []
        live = command.live if isinstance(command, Completed) else []
        assert [r.number for r in requests] == sorted(
            (r.number for r in [*kept, *live, *command.late]), key=[r.number for r in requests].index
        )
        self.withheld[command.batch.number] = {request.number for request in kept}
        for request in live:
            self._outcome(request, "ok")
        for request in [*live, *command.late]:
            self._release(request)

    def _send(self, batch: Batch) -> None:
        policy = self.policies[batch.model]
        assert batch.instance in self.workers
        assert batch.instance not in self.killed
        assert batch.instance not in self.leaving and batch.instance not in self.vacated
        assert len(self.workers[batch.instance]) < policy.credits
        assert batch.rows == sum(request.rows for request in batch.requests)
        assert policy.max_batch_size == 0 or batch.rows <= policy.max_batch_size
        assert len({request.shape_key for request in batch.requests}) == 1
        assert policy.batches or len(batch.requests) == 1
        (gpu,) = {request.gpu for request in batch.requests}
        assert gpu in (NO_GPU, self.gpus[batch.instance]), f"{batch!r} is bound to GPU {gpu}"
        for request in batch.requests:
            assert request.number not in self.outcomes, f"{request!r} is executed after its end"
            assert request.model == batch.model
            late = self.expires_ns(request) <= self.now_ns
            assert not late or self.queue_policy(request).timeout_action is TimeoutAction.DELAY, request
        self.workers[batch.instance].append(batch)
        self.batches.append(batch)
        for pool, _ in self.needs[batch.instance].amounts:
            assert self.used(pool) <= self.limit(pool), f"{batch!r} was sent without its {pool}"

    def used(self, pool: Pool) -> int:
        """What the executing instances need of it together."""
        return sum(dict(self.needs[instance].amounts).get(pool, 0) for instance, batches in self.workers.items() if batches)

    def limit(self, pool: Pool) -> int:
        """What is given, else the most that any one instance needs."""
        given = [limit for limit in self.limits if limit.name == pool.name]
        if not given:
            return max(dict(self.needs[instance].amounts).get(pool, 0) for instance in self.workers)
        return max((limit.count for limit in given if pool.device == GLOBAL or limit.device in (EACH, pool.device)), default=0)

    def preserves_order(self, request: Request) -> bool:
        return request.model in self.policies and self.policies[request.model].preserve_ordering

    def _outcome(self, request: Request, outcome: str) -> None:
        assert request.number not in self.outcomes, f"{request!r} has a second outcome"
        self.outcomes[request.number] = outcome
        if outcome == "ok":
            self.answered.append(request.number)
        if self.preserves_order(request):
            self.order[request.model].remove(request.number)
        if request.batch in self.withheld:
            self.withheld[request.batch].discard(request.number)

    def _release(self, request: Request) -> None:
        assert request.number in self.outcomes, f"{request!r} is released before its outcome"
        assert request.number not in self.released, f"{request!r} is released twice"
        assert all(request not in batch.requests for batches in self.workers.values() for batch in batches), (
            f"{request!r} is released while a worker has it"
        )
        self.released.add(request.number)
