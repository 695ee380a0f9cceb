# SPDX-License-Identifier: Apache-2.0
"""The scheduler: events and the time in, commands out, every state change made in the same step.

It knows no socket, clock or process. It composes the ledger of requests, the dispatcher (models, their queues and instances,
timers), outcomes and lifecycles; the rule that closes a batch is in batcher.py.

Late or unknown events (the end of a batch that already failed, a cancel of a request that is over, anything about a model or
instance that is gone) are ignored: they are races that the broker cannot avoid. Impossible ones raise IllegalTransitionError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ipc.errors import Code
from .batcher import NEVER_NS
from .commands import AnyCommand, Completed, Withhold
from .dispatcher import Dispatcher
from .events import (
    AnyEvent,
    Arrived,
    ArrivedTogether,
    BatchEnded,
    Cancelled,
    GpuDown,
    InstanceGone,
    InstanceLeaving,
    InstanceReady,
    ModelAdded,
    ModelDown,
    ModelRemoved,
    SessionEnded,
    Tick,
)
from .expiry import Expiry
from .ledger import Ledger
from .lifecycles import Lifecycles
from .limits import ResourceLimit
from .models import SERVING, Model
from .ordering import withhold
from .outcomes import Outcomes
from .requests import FINISHED_EARLY, QUEUED, SENT, WITHHELD, IllegalTransitionError, Request
from .watchdogs import NS_PER_MS

_WHERE_LATE = {
    QUEUED: ("in the queue", "broker"),
    SENT: ("at the model", "model"),
    WITHHELD: ("behind the replies before it", "model"),
}
"""Where a request was when its deadline passed, and whose fault that is."""


class Scheduler:
    """One door in (`handle`), one timer out (`next_deadline`). Not thread-safe: it has one caller."""

    __slots__ = ("_dispatcher", "_expiry", "_handlers", "_ledger", "_outcomes", "_timeouts")

    def __init__(self, limits: Sequence[ResourceLimit] = ()) -> None:
        self._ledger = Ledger()
        self._outcomes = Outcomes(self._ledger)
        self._dispatcher = Dispatcher(self._ledger, limits)
        self._timeouts = self._dispatcher.timeouts
        self._expiry = Expiry(self._dispatcher, self._ledger, self._outcomes)
        lifecycles = Lifecycles(self._dispatcher, self._outcomes, self._expiry)
        self._handlers: dict[type, Callable[[Any, int, list[AnyCommand]], None]] = {
            Arrived: self._arrived,
            ArrivedTogether: self._arrived_together,
            BatchEnded: self._batch_ended,
            Cancelled: self._cancelled,
            SessionEnded: self._session_ended,
            Tick: self._tick,
            InstanceReady: lifecycles.instance_ready,
            InstanceGone: lifecycles.instance_gone,
            InstanceLeaving: lifecycles.instance_leaving,
            GpuDown: lifecycles.gpu_down,
            ModelAdded: lifecycles.model_added,
            ModelRemoved: lifecycles.model_removed,
            ModelDown: lifecycles.model_down,
        }

    def handle(self, event: AnyEvent, now_ns: int) -> list[AnyCommand]:
        """What is to be done about the event, in order. `now_ns` never goes back."""
        out: list[AnyCommand] = []
        if now_ns >= self._timeouts.next_ns and type(event) is not InstanceGone:  # which goes before all that is sent
            self._expiry.settle(now_ns, out)
        self._handlers[type(event)](event, now_ns, out)
        if self._dispatcher.resources.freed:
            self._dispatcher.wake(now_ns, out)
        return out

    def next_deadline(self) -> int | None:
        """When a Tick is due, in ns. It may come for nothing, never too late for something."""
        dispatcher = self._dispatcher
        earliest_ns = dispatcher.watchdogs.timers.first_ns()
        timeouts = () if self._timeouts.next_ns == NEVER_NS else (self._timeouts,)
        for timers in (dispatcher.looks, self._ledger.deadlines, *timeouts):
            time_ns = timers.first_ns()
            if time_ns is not None and (earliest_ns is None or time_ns < earliest_ns):
                earliest_ns = time_ns
        return earliest_ns

    def queued(self, model: int) -> int:
        """How many requests of the model are queued."""
        known = self._dispatcher.models.get(model)
        return 0 if known is None else known.queued

    def resources(self) -> list[dict[str, Any]]:
        """The resources of the rate limiter, how much of them is in use, and how many instances wait."""
        return self._dispatcher.resources.describe()

    def queued_by_level(self, model: int) -> dict[int, int]:
        """The same by priority level, where there are any; empty for a model without levels or queue policies."""
        known = self._dispatcher.models.get(model)
        return {} if known is None else known.depths()

    def _arrived(self, event: Arrived, now_ns: int, out: list[AnyCommand]) -> None:
        model = self._admit(event.request, now_ns, out)
        if model is not None:
            self._dispatcher.dispatch(model, now_ns, out)

    def _arrived_together(self, event: ArrivedTogether, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for request in event.requests:
            model = self._admit(request, now_ns, out)
            if model is not None:
                touched[model.number] = model
        for model in touched.values():
            self._dispatcher.dispatch(model, now_ns, out)

    def _admit(self, request: Request, now_ns: int, out: list[AnyCommand]) -> Model | None:
        """Queues the request or refuses it; the model, where something may be sent now."""
        model = self._dispatcher.models.get(request.model)
        self._ledger.enter(request)
        if model is None or model.state is not SERVING:
            message = f"model {request.model} is not loaded" if model is None else model.message
            self._outcomes.refuse(request, Code.UNAVAILABLE, message, "model", out, accepted=False)
            return None
        policy = model.policy
        assert request.rows <= policy.max_batch_size or policy.max_batch_size == 0, request
        if request.deadline_ns is not None and request.deadline_ns <= now_ns:
            message = "the deadline passed before the request was queued"
            self._outcomes.refuse(request, Code.DEADLINE_EXCEEDED, message, "caller", out, accepted=False)
            return None
        accepted = model.accept(request, now_ns)
        if accepted is None:  # what arrived together with it may leave the queue first
            self._dispatcher.dispatch(model, now_ns, out)
            accepted = model.accept(request, now_ns)
        if accepted is None:
            code, message = model.refusal(request)
            self._outcomes.refuse(request, code, message, "broker", out, accepted=False)
        elif model.ordering is not None:
            model.ordering.enter(request)
        return model if accepted else None

    def _batch_ended(self, event: BatchEnded, now_ns: int, out: list[AnyCommand]) -> None:
        instance = self._dispatcher.instances.get(event.instance)
        if instance is None or not instance.batches:
            return
        if instance.batches[0].number != event.batch_number:
            if any(batch.number == event.batch_number for batch in instance.batches):
                raise IllegalTransitionError(f"{instance!r} ended batch {event.batch_number}, which is not its first")
            return
        model = self._dispatcher.models[instance.model]
        batch = self._dispatcher.batch_ended(instance, model, now_ns)
        live = batch.requests
        late = [request for request in live if request.state is FINISHED_EARLY]
        if late:
            live = [request for request in live if request.state is SENT]
        if model.ordering is None:
            self._ledger.end(batch.requests)
            out.append(Completed(batch, live, late))
        else:
            self._ledger.end(late)
            withhold(live)
            out.append(Withhold(batch, live, late))
        self._dispatcher.settle(model, now_ns, out)

    def _cancelled(self, event: Cancelled, now_ns: int, out: list[AnyCommand]) -> None:
        request = self._ledger.find(event.number)
        if request is not None:
            model = self._dispatcher.models[request.model]
            self._outcomes.finish(request, model, Code.CANCELLED, "cancelled by the caller", "caller", out)
            self._dispatcher.settle(model, now_ns, out)

    def _session_ended(self, event: SessionEnded, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for request in self._ledger.of_session(event.session):
            model = touched[request.model] = self._dispatcher.models[request.model]
            self._outcomes.finish(request, model, Code.CANCELLED, "the session ended", "caller", out)
        for model in touched.values():
            self._dispatcher.settle(model, now_ns, out)

    def _tick(self, _event: Tick, now_ns: int, out: list[AnyCommand]) -> None:
        touched: dict[int, Model] = {}
        for number in self._ledger.deadlines.pop_due(now_ns):
            request = self._ledger.find(number)
            assert request is not None, number
            model = touched[request.model] = self._dispatcher.models[request.model]
            where, fault = _WHERE_LATE[request.state]
            message = f"the deadline passed {where}, {(now_ns - request.arrived_ns) / NS_PER_MS:.1f} ms after arrival"
            self._outcomes.finish(request, model, Code.DEADLINE_EXCEEDED, message, fault, out)
        self._dispatcher.kill_overrun(now_ns, out)
        for model in self._dispatcher.look(now_ns):
            touched[model.number] = model
        for model in touched.values():
            self._dispatcher.settle(model, now_ns, out)

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself or the comments on it."""
        self._ledger.check_invariants()
        self._dispatcher.check_invariants()
        batches = [batch for instance in self._dispatcher.instances.values() for batch in instance.batches]
        at_workers = [request.number for batch in batches for request in batch.requests]
        assert sorted(at_workers) == sorted(self._ledger.in_state(SENT) | self._ledger.in_state(FINISHED_EARLY)), self
        orderings = [model.ordering for model in self._dispatcher.models.values() if model.ordering is not None]
        withheld = [number for ordering in orderings for number in ordering.withheld()]
        assert sorted(withheld) == sorted(self._ledger.in_state(WITHHELD)), self
        assert not self._dispatcher.resources.freed, self
        queued = sum(model.queued for model in self._dispatcher.models.values())
        assert queued == len(self._ledger.in_state(QUEUED)), self

    def __repr__(self) -> str:
        return f"<scheduler: {self._ledger!r}, {self._dispatcher!r}>"
