# SPDX-License-Identifier: Apache-2.0
"""What happens to the requests of a model when its instances and the model itself come and go."""

from __future__ import annotations

from .commands import AnyCommand
from .dispatcher import Dispatcher
from .events import GpuDown, InstanceGone, InstanceLeaving, InstanceReady, ModelAdded, ModelDown, ModelRemoved
from .expiry import Expiry
from .instances import Instance
from .models import DOWN, DRAINING, Model
from .outcomes import Outcomes
from .requests import Batch, IllegalTransitionError
from .spread import SpreadModel


class Lifecycles:
    """Handlers of the events on models and instances; their state is the dispatcher's."""

    __slots__ = ("_dispatcher", "_expiry", "_outcomes")

    def __init__(self, dispatcher: Dispatcher, outcomes: Outcomes, expiry: Expiry) -> None:
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._expiry = expiry

    def instance_ready(self, event: InstanceReady, now_ns: int, out: list[AnyCommand]) -> None:
        """The instance takes batches; a model that was down serves again."""
        model = self._dispatcher.models.get(event.model)
        if model is None:
            return
        instances = self._dispatcher.instances
        lanes = range(event.instance, event.instance + event.lanes)
        for number in lanes:
            if number in instances:
                raise IllegalTransitionError(f"{instances[number]!r} is ready a second time")
            instance = instances[number] = Instance(number, event.model, lanes, event.gpu)
            model.instances.add(instance)
            if model.resources is not None:
                model.resources.add(instance, event.needs)
        model.came_up(event.gpu)
        self._dispatcher.settle(model, now_ns, out)

    def instance_leaving(self, event: InstanceLeaving, now_ns: int, out: list[AnyCommand]) -> None:
        """The others take what it would have been given; it is forgotten once it has finished."""
        instances = self._dispatcher.instances
        numbers = range(event.instance, event.instance + event.lanes)
        lanes = [instances[number] for number in numbers if number in instances]
        if not lanes:
            return
        model = self._dispatcher.models[lanes[0].model]
        if model.state is not DRAINING:  # else they leave with the model
            for instance in lanes:
                if model.resources is not None:
                    model.resources.withdraw(instance, model.instances)
                model.instances.send_away(instance)
            self._dispatcher.settle(model, now_ns, out)

    def instance_gone(self, event: InstanceGone, now_ns: int, out: list[AnyCommand]) -> None:
        """What may have been begun fails; what was never begun goes back to the front of the queue.

        A worker on the CPU answers each batch before it starts the next, and the broker drains its socket before it reports
        it gone, so a batch behind an unanswered one was never begun, and executing it elsewhere executes it once. On a GPU all
        that was sent may have been begun (Instance.begun), and all of it fails, in all lanes: nothing is executed twice, and a
        batch that kills its worker does so once, wherever it stood.
        """
        numbers = range(event.instance, event.instance + event.lanes)
        lanes = [lane for number in numbers if (lane := self._dispatcher.instances.pop(number, None)) is not None]
        if not lanes:
            self._expiry.settle(now_ns, out)
            return
        model = self._dispatcher.models[lanes[0].model]
        staged: list[Batch] = []
        for instance in lanes:
            model.instances.remove(instance)
            self._dispatcher.resources.remove(instance)
            self._dispatcher.watchdogs.timers.cancel(instance.number)
            for _ in range(instance.begun()):
                self._outcomes.fail_running(instance.batches.popleft().requests, event.message, out)
            staged += instance.batches
        model.put_back([request for batch in staged for request in self._outcomes.take_back(batch.requests, out)])
        others = self._expiry.expire(now_ns, out)  # what came back may have waited for its queue timeout meanwhile
        if model.state is DOWN:
            self._outcomes.fail_queued(model.clear(), model.message, out)
        elif model.state is DRAINING:
            self._outcomes.fail_queued(model.take_stranded(), model.message, out)
        for touched in dict.fromkeys((model, *others)):
            self._dispatcher.settle(touched, now_ns, out)

    def model_added(self, event: ModelAdded, _now_ns: int, _out: list[AnyCommand]) -> None:
        """Requests may come; they wait for an instance."""
        models = self._dispatcher.models
        if event.model in models:
            raise IllegalTransitionError(f"{models[event.model]!r} is added a second time")
        kind = SpreadModel if event.policy.spread else Model
        models[event.model] = kind(event.model, event.policy, self._dispatcher.resources, self._dispatcher.timeouts)

    def gpu_down(self, event: GpuDown, now_ns: int, out: list[AnyCommand]) -> None:
        """What is bound to the GPU fails, until an instance is ready there."""
        model = self._dispatcher.models.get(event.model)
        if isinstance(model, SpreadModel):
            self._outcomes.fail_queued(model.went_down(event.gpu, event.message), event.message, out)
            self._dispatcher.settle(model, now_ns, out)

    def model_removed(self, event: ModelRemoved, now_ns: int, out: list[AnyCommand]) -> None:
        """No request may come; those that are here are served while there is an instance."""
        model = self._dispatcher.models.get(event.model)
        if model is None or model.state is DRAINING:
            return
        model.drain("the model is being unloaded")
        model.instances.call_back()
        self._outcomes.fail_queued(model.take_stranded(), model.message, out)
        self._dispatcher.settle(model, now_ns, out)

    def model_down(self, event: ModelDown, now_ns: int, out: list[AnyCommand]) -> None:
        """No request may come until an instance is ready; those that are queued fail."""
        model = self._dispatcher.models.get(event.model)
        if model is None:
            return
        if model.state is not DRAINING:
            model.state = DOWN
        model.message = event.message
        self._outcomes.fail_queued(model.clear(), model.message, out)
        self._dispatcher.settle(model, now_ns, out)

    def __repr__(self) -> str:
        return f"<lifecycles of {self._dispatcher!r}>"
