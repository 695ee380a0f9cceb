# SPDX-License-Identifier: Apache-2.0
"""The scheduler: events and the time in, commands out, every state change made in the same step.

It knows no socket, clock or process. It composes the ledger of requests, the models (each with queue, batch being formed and
instances) and three sets of timers; the rule that closes a batch is in batcher.py.

Late or unknown events (the end of a batch that already failed, a cancel of a request that is over, anything about a model or
instance that is gone) are ignored: they are races that the broker cannot avoid. Impossible ones raise IllegalTransitionError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ipc.errors import Code
from .batcher import NEVER_NS
from .commands import AnyCommand, Completed, Drained, Finish, Kill, Release, SendBatch
from .events import (
    AnyEvent,
    Arrived,
    ArrivedTogether,
    BatchEnded,
    Cancelled,
    InstanceGone,
    InstanceReady,
    ModelAdded,
    ModelDown,
    ModelRemoved,
    SessionEnded,
    Tick,
)
from .instances import Instance
from .ledger import Ledger
from .models import DOWN, DRAINING, SERVING, Model
from .requests import FINISHED_EARLY, QUEUED, SENT, Batch, IllegalTransitionError, Request, become
from .timers import Timers

NS_PER_MS = 1_000_000


class Scheduler:
    """One door in (`handle`), one timer out (`next_deadline`). Not thread-safe: it has one caller."""

    __slots__ = ("_batch_number", "_handlers", "_instances", "_ledger", "_looks", "_models", "_watchdogs")

    def __init__(self) -> None:
        self._ledger = Ledger()
        #: model number -> model, from ModelAdded until Drained.
        self._models: dict[int, Model] = {}
        #: instance number -> instance, from InstanceReady until InstanceGone or until its model is forgotten.
        self._instances: dict[int, Instance] = {}
        #: model number -> when the batch it holds back must be looked at again (its look_ns).
        self._looks = Timers()
        #: instance number -> when to look at its first batch: not after that has run for max_execution_ns. An entry outlives
        #: the batch it was set for and is then moved when it falls due, which is cheaper than one timer per batch.
        self._watchdogs = Timers()
        #: Number of the last batch.
        self._batch_number = 0
        self._handlers: dict[type, Callable[[Any, int, list[AnyCommand]], None]] = {
            Arrived: self._arrived,
            ArrivedTogether: self._arrived_together,
            BatchEnded: self._batch_ended,
            Cancelled: self._cancelled,
            SessionEnded: self._session_ended,
            Tick: self._tick,
            InstanceReady: self._instance_ready,
            InstanceGone: self._instance_gone,
            ModelAdded: self._model_added,
            ModelRemoved: self._model_removed,
            ModelDown: self._model_down,
        }

    def handle(self, event: AnyEvent, now_ns: int) -> list[AnyCommand]:
        """What is to be done about the event, in order. `now_ns` never goes back."""
        out: list[AnyCommand] = []
        self._handlers[type(event)](event, now_ns, out)
        return out

    def next_deadline(self) -> int | None:
        """When a Tick is due. It may come for nothing, never too late for something."""
        earliest_ns = self._watchdogs.first_ns()
        for timers in (self._looks, self._ledger.deadlines):
            time_ns = timers.first_ns()
            if time_ns is not None and (earliest_ns is None or time_ns < earliest_ns):
                earliest_ns = time_ns
        return earliest_ns

    def queued(self, model: int) -> int:
        """How many requests of the model are queued."""
        known = self._models.get(model)
        return 0 if known is None else known.queued

    # --- requests ---

    def _arrived(self, event: Arrived, now_ns: int, out: list[AnyCommand]) -> None:
        model = self._admit(event.request, now_ns, out)
        if model is not None:
            self._dispatch(model, now_ns, out)

    def _arrived_together(self, event: ArrivedTogether, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for request in event.requests:
            model = self._admit(request, now_ns, out)
            if model is not None:
                touched[model.number] = model
        for model in touched.values():
            self._dispatch(model, now_ns, out)

    def _admit(self, request: Request, now_ns: int, out: list[AnyCommand]) -> Model | None:
        """Queues the request or refuses it; the model, where something may be sent now."""
        model = self._models.get(request.model)
        self._ledger.enter(request)
        if model is None or model.state is not SERVING:
            message = f"model {request.model} is not loaded" if model is None else model.message
            self._refuse(request, Code.UNAVAILABLE, message, "model", out)
            return None
        assert request.rows <= model.policy.max_batch_size or model.policy.max_batch_size == 0, request
        if request.deadline_ns is not None and request.deadline_ns <= now_ns:
            self._refuse(request, Code.DEADLINE_EXCEEDED, "the deadline passed before the request was queued", "caller", out)
            return None
        accepted = model.accept(request, now_ns)
        if accepted is None:
            limit = f"{model.policy.max_queued_per_principal} requests of {request.principal!r} are queued, which is the limit"
            self._refuse(request, Code.OVERLOADED, limit, "broker", out)
        return model if accepted else None

    def _refuse(self, request: Request, code: Code, message: str, fault: str, out: list[AnyCommand]) -> None:
        """Outcome and release of a request that stands in no queue and is at no worker."""
        self._ledger.end((request,))
        out.append(Finish(request, code, message, fault, True))

    def _cancelled(self, event: Cancelled, now_ns: int, out: list[AnyCommand]) -> None:
        request = self._ledger.find(event.number)
        if request is not None:
            self._finish(request, Code.CANCELLED, "cancelled by the caller", "caller", out)
            self._settle(self._models[request.model], now_ns, out)

    def _session_ended(self, event: SessionEnded, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for request in self._ledger.of_session(event.session):
            touched[request.model] = self._models[request.model]
            self._finish(request, Code.CANCELLED, "the session ended", "caller", out)
        for model in touched.values():
            self._settle(model, now_ns, out)

    def _finish(self, request: Request, code: Code, message: str, fault: str, out: list[AnyCommand]) -> None:
        """The outcome of a request that its batch has not given it; nothing where it already has one."""
        if request.state is QUEUED:
            self._refuse(request, code, message, fault, out)
            self._models[request.model].withdraw(request)
        elif request.state is SENT:
            self._ledger.finish_early(request)
            out.append(Finish(request, code, message, fault, False))

    # --- batches and time ---

    def _dispatch(self, model: Model, now_ns: int, out: list[AnyCommand]) -> None:
        """Sends what may be sent and sets the timer for what is held back."""
        while (assignment := model.assign(now_ns)) is not None:
            instance, requests, rows, closed = assignment
            self._batch_number = number = self._batch_number + 1
            become(requests, SENT)
            for request in requests:
                request.batch = number
            batch = Batch(number, model.number, instance.number, requests, rows, closed, now_ns)
            if model.instances.sent(instance, batch, now_ns):
                self._watch(instance, model)
            out.append(SendBatch(batch))
        if model.look_ns != model.timer_ns:
            self._set_look(model)

    def _set_look(self, model: Model) -> None:
        model.timer_ns = model.look_ns
        if model.look_ns == NEVER_NS:
            self._looks.cancel(model.number)
        else:
            self._looks.set(model.number, model.look_ns)

    def _batch_ended(self, event: BatchEnded, now_ns: int, out: list[AnyCommand]) -> None:
        instance = self._instances.get(event.instance)
        if instance is None or not instance.batches:
            return
        if instance.batches[0].number != event.batch_number:
            if any(batch.number == event.batch_number for batch in instance.batches):
                raise IllegalTransitionError(f"{instance!r} ended batch {event.batch_number}, which is not its first")
            return
        model = self._models[instance.model]
        batch = model.instances.ended(instance, now_ns)
        live = batch.requests
        late = [request for request in live if request.state is FINISHED_EARLY]
        if late:
            live = [request for request in live if request.state is SENT]
        self._ledger.end(batch.requests)
        out.append(Completed(batch, live, late))
        if instance.batches:
            self._watch(instance, model)
        self._settle(model, now_ns, out)

    def _watch(self, instance: Instance, model: Model) -> None:
        """A batch became first at the instance."""
        limit_ns = model.policy.max_execution_ns
        if limit_ns and not instance.killed and instance.number not in self._watchdogs:
            self._watchdogs.set(instance.number, instance.since_ns + limit_ns)

    def _tick(self, _event: Tick, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for number in self._ledger.deadlines.pop_due(now_ns):
            request = self._ledger.find(number)
            assert request is not None, number
            waited_ms = (now_ns - request.arrived_ns) / NS_PER_MS
            where, fault = ("in the queue", "broker") if request.state is QUEUED else ("at the model", "model")
            message = f"the deadline passed {where}, {waited_ms:.1f} ms after arrival"
            touched[request.model] = self._models[request.model]
            self._finish(request, Code.DEADLINE_EXCEEDED, message, fault, out)
        for number in self._watchdogs.pop_due(now_ns):
            self._bark(self._instances[number], now_ns, out)
        for number in self._looks.pop_due(now_ns):
            model = touched[number] = self._models[number]
            model.timer_ns = NEVER_NS
        for model in touched.values():
            self._settle(model, now_ns, out)

    def _bark(self, instance: Instance, now_ns: int, out: list[AnyCommand]) -> None:
        """The instance's watchdog fell due: for the batch that is first now, or for an earlier one."""
        if not instance.batches:
            return
        model = self._models[instance.model]
        limit_ns = model.policy.max_execution_ns
        if now_ns < instance.since_ns + limit_ns:
            self._watchdogs.set(instance.number, instance.since_ns + limit_ns)
            return
        model.instances.give_up(instance)
        message = f"batch {instance.batches[0].number} ran past the limit of {limit_ns / NS_PER_MS:.1f} ms for one execution"
        out.append(Kill(instance.number, message))

    # --- instances and models ---

    def _instance_ready(self, event: InstanceReady, now_ns: int, out: list[AnyCommand]) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        if event.instance in self._instances:
            raise IllegalTransitionError(f"{self._instances[event.instance]!r} is ready a second time")
        instance = self._instances[event.instance] = Instance(event.instance, event.model)
        model.instances.add(instance)
        if model.state is DOWN:
            model.state, model.message = SERVING, ""
        self._settle(model, now_ns, out)

    def _instance_gone(self, event: InstanceGone, now_ns: int, out: list[AnyCommand]) -> None:
        """The running batch fails; what was staged behind it goes back to the front of the queue.

        A worker answers each batch before it starts the next, and the broker drains its socket before it reports it gone, so
        a batch behind an unanswered one was never started, and executing it elsewhere executes it once.
        """
        instance = self._instances.pop(event.instance, None)
        if instance is None:
            return
        model = self._models[instance.model]
        model.instances.remove(instance)
        self._watchdogs.cancel(instance.number)
        staged = instance.batches
        if staged:
            for request in staged.popleft().requests:
                self._end_at_worker(request, event.message, out)
        model.put_back([request for batch in staged for request in batch.requests if self._is_returned(request, out)])
        if model.state is DOWN or (model.state is DRAINING and not len(model.instances)):
            self._fail_queued(model, out)
        self._settle(model, now_ns, out)

    def _end_at_worker(self, request: Request, message: str, out: list[AnyCommand]) -> None:
        if request.state is FINISHED_EARLY:
            self._ledger.end((request,))
            out.append(Release(request))
        else:
            self._refuse(request, Code.INTERNAL, message, "model", out)

    def _is_returned(self, request: Request, out: list[AnyCommand]) -> bool:
        """A request of a batch that was never started is queued again, unless it has its outcome: then it is over."""
        if request.state is FINISHED_EARLY:
            self._ledger.end((request,))
            out.append(Release(request))
            return False
        request.become(QUEUED)
        return True

    def _model_added(self, event: ModelAdded, _now_ns: int, _out: list[AnyCommand]) -> None:
        if event.model in self._models:
            raise IllegalTransitionError(f"{self._models[event.model]!r} is added a second time")
        self._models[event.model] = Model(event.model, event.policy)

    def _model_removed(self, event: ModelRemoved, now_ns: int, out: list[AnyCommand]) -> None:
        model = self._models.get(event.model)
        if model is None or model.state is DRAINING:
            return
        model.state, model.message = DRAINING, f"model {event.model} is being unloaded"
        if not len(model.instances):
            self._fail_queued(model, out)
        self._settle(model, now_ns, out)

    def _model_down(self, event: ModelDown, now_ns: int, out: list[AnyCommand]) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        if model.state is not DRAINING:
            model.state = DOWN
        model.message = event.message
        self._fail_queued(model, out)
        self._settle(model, now_ns, out)

    def _fail_queued(self, model: Model, out: list[AnyCommand]) -> None:
        for request in model.clear():
            self._refuse(request, Code.UNAVAILABLE, model.message, "model", out)

    def _settle(self, model: Model, now_ns: int, out: list[AnyCommand]) -> None:
        """After a change: sends what may be sent, and forgets a removed model of which nothing is left."""
        self._dispatch(model, now_ns, out)
        if model.state is DRAINING and not model.queued and model.instances.all_idle():
            for instance in model.instances:
                del self._instances[instance.number]
                self._watchdogs.cancel(instance.number)
            del self._models[model.number]
            out.append(Drained(model.number))

    # --- checks ---

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself or the comments on it."""
        self._ledger.check_invariants()
        self._looks.check_invariants()
        self._watchdogs.check_invariants()
        at_instances = [i for model in self._models.values() for i in model.instances]
        assert {i.number: i for i in at_instances} == self._instances, self
        sent = [request for i in at_instances for batch in i.batches for request in batch.requests]
        early = self._ledger.in_state(FINISHED_EARLY)
        assert sorted(request.number for request in sent) == sorted(self._ledger.in_state(SENT) | early), self
        assert sum(model.queued for model in self._models.values()) == len(self._ledger.in_state(QUEUED)), self
        for number, model in self._models.items():
            model.check_invariants()
            assert model.look_ns == model.timer_ns and (model.look_ns != NEVER_NS) == (number in self._looks), model
        assert all(number in self._models for number in self._looks), self
        for instance in at_instances:
            self._check_instance(instance)

    def _check_instance(self, instance: Instance) -> None:
        policy = self._models[instance.model].policy
        for batch in instance.batches:
            assert batch.requests and batch.rows == sum(request.rows for request in batch.requests), batch
            assert policy.max_batch_size == 0 or batch.rows <= policy.max_batch_size, batch
            assert policy.batches or len(batch.requests) == 1, batch
            assert all(request.batch == batch.number and request.model == batch.model for request in batch.requests), batch
        watched = policy.max_execution_ns > 0 and bool(instance.batches) and not instance.killed
        assert not watched or instance.number in self._watchdogs, instance

    def __repr__(self) -> str:
        return f"<scheduler: {self._ledger!r}, {list(self._models.values())}>"
