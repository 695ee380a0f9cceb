# SPDX-License-Identifier: Apache-2.0
"""The models and their instances by number, with their timers; sends what may be sent and forgets what is drained."""

from __future__ import annotations

from collections.abc import Sequence

from .batcher import NEVER_NS
from .commands import AnyCommand, Drained, Kill, SendBatch, Vacated
from .instances import Instance
from .ledger import Ledger
from .limits import ResourceLimit
from .models import DRAINING, Model
from .requests import SENT, Batch, become
from .resources import Resources
from .timeouts import Timeouts
from .timers import Timers
from .watchdogs import Watchdogs, overrun


class Dispatcher:
    """After whatever changed a model, `settle` it (or, where nothing was taken from it, `dispatch`)."""

    __slots__ = ("_batch_number", "_ledger", "instances", "looks", "models", "resources", "timeouts", "watchdogs")

    def __init__(self, ledger: Ledger, limits: Sequence[ResourceLimit]) -> None:
        self._ledger = ledger
        #: model number -> model, from ModelAdded until Drained.
        self.models: dict[int, Model] = {}
        #: instance number -> instance, from InstanceReady until InstanceGone, Vacated or until its model is forgotten.
        self.instances: dict[int, Instance] = {}
        #: model number -> when the batch it holds back must be looked at again (its look_ns).
        self.looks = Timers()
        #: When requests of models with queue timeouts expire.
        self.timeouts = Timeouts()
        self.watchdogs = Watchdogs()
        #: What the instances of rate limited models hold and wait for.
        self.resources = Resources(limits)
        #: Number of the last batch.
        self._batch_number = 0

    def dispatch(self, model: Model, now_ns: int, out: list[AnyCommand]) -> None:
        """Sends what may be sent and sets the timer for what is held back."""
        recalled = model.resources.recall(model.instances) if model.resources is not None else ()
        while (assignment := model.assign(now_ns)) is not None:
            instance, requests, rows, closed = assignment
            self._batch_number = number = self._batch_number + 1
            become(requests, SENT)
            for request in requests:
                request.batch = number
            batch = Batch(number, model.number, instance.number, requests, rows, closed, now_ns)
            if model.instances.sent(instance, batch, now_ns):
                self.watchdogs.watch(instance, model.policy.max_execution_ns)
            out.append(SendBatch(batch))
        if model.look_ns != model.timer_ns:
            self._set_timer(model)
        if model.resources is not None:
            model.resources.settle(model.instances, recalled)

    def settle(self, model: Model, now_ns: int, out: list[AnyCommand]) -> None:
        """Delivers whose turn has come, dispatches; forgets instances that left, and a removed model once it is empty."""
        if model.ordering is not None:
            model.ordering.deliver(self._ledger, out)
        self.dispatch(model, now_ns, out)
        if model.instances.leaving:
            self._vacate(model, out)
        if model.state is DRAINING and not model.queued and model.instances.all_idle():
            for instance in model.instances:
                del self.instances[instance.number]
                self.resources.remove(instance)
                self.watchdogs.timers.cancel(instance.number)
            del self.models[model.number]
            out.append(Drained(model.number))

    def _vacate(self, model: Model, out: list[AnyCommand]) -> None:
        for instance in [leaving for leaving in model.instances.leaving if not leaving.batches]:
            del self.instances[instance.number]
            model.instances.remove(instance)
            self.resources.remove(instance)
            self.watchdogs.timers.cancel(instance.number)
            out.append(Vacated(instance.number))

    def batch_ended(self, instance: Instance, model: Model, now_ns: int) -> Batch:
        """Takes the first batch off the instance."""
        batch = model.instances.ended(instance, now_ns)
        if model.resources is not None:
            model.resources.ended(instance)
        if instance.batches:
            self.watchdogs.watch(instance, model.policy.max_execution_ns)
        return batch

    def wake(self, now_ns: int, out: list[AnyCommand]) -> None:
        """Resources were freed: those that wait for some are asked again, in their order."""
        resources = self.resources
        while resources.freed:
            resources.freed = False
            for claim in resources.in_turn():
                if claim.waits and resources.may_start(claim):
                    self.settle(self.models[claim.model], now_ns, out)

    def look(self, now_ns: int) -> list[Model]:
        """The models whose held batch is due to be looked at."""
        models = [self.models[number] for number in self.looks.pop_due(now_ns)]
        for model in models:
            model.timer_ns = NEVER_NS
        return models

    def kill_overrun(self, now_ns: int, out: list[AnyCommand]) -> None:
        """Gives up the instances whose first batch ran past its limit, and all that share a worker with them."""
        for number in self.watchdogs.timers.pop_due(now_ns):
            instance = self.instances[number]
            model = self.models[instance.model]
            limit_ns = model.policy.max_execution_ns
            if not instance.killed and self.watchdogs.has_run_out(instance, limit_ns, now_ns):
                for lane in [self.instances[number] for number in instance.lanes if number in self.instances]:
                    self._give_up(lane, model)
                out.append(Kill(number, overrun(instance, limit_ns)))
                self.settle(model, now_ns, out)

    def _give_up(self, instance: Instance, model: Model) -> None:
        if model.resources is not None:
            model.resources.withdraw(instance, model.instances)
        model.instances.give_up(instance)

    def _set_timer(self, model: Model) -> None:
        model.timer_ns = model.look_ns
        if model.look_ns == NEVER_NS:
            self.looks.cancel(model.number)
        else:
            self.looks.set(model.number, model.look_ns)

    def check_invariants(self) -> None:
        """Raises AssertionError where the state contradicts itself or the comments on it."""
        self.looks.check_invariants()
        self.timeouts.check_invariants()
        self.watchdogs.timers.check_invariants()
        assert {i.number: i for model in self.models.values() for i in model.instances} == self.instances, self
        assert all(number in self.models for number in self.looks), self
        assert all(number in self.instances for number in self.watchdogs.timers), self
        for number, model in self.models.items():
            model.check_invariants()
            held = model.look_ns != NEVER_NS
            assert model.look_ns == model.timer_ns and held == (number in self.looks), model
        for instance in self.instances.values():
            self._check_instance(instance)
        limited = {number: i for number, i in self.instances.items() if self.models[i.model].policy.rate_limited}
        self.resources.check_invariants(limited, {number for model in self.models.values() for number in model.instances.aside})

    def _check_instance(self, instance: Instance) -> None:
        policy = self.models[instance.model].policy
        self.watchdogs.check(instance, policy.max_execution_ns)
        for batch in instance.batches:
            assert batch.requests and batch.rows == sum(request.rows for request in batch.requests), batch
            assert policy.max_batch_size == 0 or batch.rows <= policy.max_batch_size, batch
            assert policy.batches or len(batch.requests) == 1, batch
            assert all(request.batch == batch.number and request.model == batch.model for request in batch.requests), batch

    def __repr__(self) -> str:
        return f"<{list(self.models.values())}>"
