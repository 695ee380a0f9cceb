# SPDX-License-Identifier: Apache-2.0
"""What happens to the requests of a model when its instances and the model itself come and go."""

from __future__ import annotations

from .commands import AnyCommand
from .dispatcher import Dispatcher
from .events import InstanceGone, InstanceLeaving, InstanceReady, ModelAdded, ModelDown, ModelRemoved
from .expiry import Expiry
from .instances import Instance
from .models import DOWN, DRAINING, SERVING, Model
from .outcomes import Outcomes
from .requests import IllegalTransitionError


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
        if event.instance in instances:
            raise IllegalTransitionError(f"{instances[event.instance]!r} is ready a second time")
        instance = instances[event.instance] = Instance(event.instance, event.model)
        model.instances.add(instance)
        if model.resources is not None:
            model.resources.add(instance, event.needs)
        if model.state is DOWN:
            model.state, model.message = SERVING, ""
        self._dispatcher.settle(model, now_ns, out)

    def instance_leaving(self, event: InstanceLeaving, now_ns: int, out: list[AnyCommand]) -> None:
        """The others take what it would have been given; it is forgotten once it has finished."""
        instance = self._dispatcher.instances.get(event.instance)
        if instance is None:
            return
        model = self._dispatcher.models[instance.model]
        if model.state is not DRAINING:  # else it leaves with the model
            if model.resources is not None:
                model.resources.withdraw(instance, model.instances)
            model.instances.send_away(instance)
            self._dispatcher.settle(model, now_ns, out)

    def instance_gone(self, event: InstanceGone, now_ns: int, out: list[AnyCommand]) -> None:
        """The running batch fails; what was staged behind it goes back to the front of the queue.

        A worker answers each batch before it starts the next, and the broker drains its socket before it reports it gone, so
        a batch behind an unanswered one was never started, and executing it elsewhere executes it once.
        """
        instance = self._dispatcher.instances.pop(event.instance, None)
        if instance is None:
            return
        model = self._dispatcher.models[instance.model]
        model.instances.remove(instance)
        self._dispatcher.resources.remove(instance)
        self._dispatcher.watchdogs.timers.cancel(instance.number)
        staged = instance.batches
        if staged:
            self._outcomes.fail_running(staged.popleft().requests, event.message, out)
        model.put_back([request for batch in staged for request in self._outcomes.take_back(batch.requests, out)])
        others = self._expiry.expire(now_ns, out)  # what came back may have waited for its queue timeout meanwhile
        if model.state is DOWN or (model.state is DRAINING and not len(model.instances)):
            self._outcomes.fail_queued(model, out)
        for touched in dict.fromkeys((model, *others)):
            self._dispatcher.settle(touched, now_ns, out)

    def model_added(self, event: ModelAdded, _now_ns: int, _out: list[AnyCommand]) -> None:
        """Requests may come; they wait for an instance."""
        models = self._dispatcher.models
        if event.model in models:
            raise IllegalTransitionError(f"{models[event.model]!r} is added a second time")
        models[event.model] = Model(event.model, event.policy, self._dispatcher.resources, self._dispatcher.timeouts)

    def model_removed(self, event: ModelRemoved, now_ns: int, out: list[AnyCommand]) -> None:
        """No request may come; those that are here are served while there is an instance."""
        model = self._dispatcher.models.get(event.model)
        if model is None or model.state is DRAINING:
            return
        model.state, model.message = DRAINING, "the model is being unloaded"
        model.instances.call_back()
        if not len(model.instances):
            self._outcomes.fail_queued(model, out)
        self._dispatcher.settle(model, now_ns, out)

    def model_down(self, event: ModelDown, now_ns: int, out: list[AnyCommand]) -> None:
        """No request may come until an instance is ready; those that are queued fail."""
        model = self._dispatcher.models.get(event.model)
        if model is None:
            return
        if model.state is not DRAINING:
            model.state = DOWN
        model.message = event.message
        self._outcomes.fail_queued(model, out)
        self._dispatcher.settle(model, now_ns, out)

    def __repr__(self) -> str:
        return f"<lifecycles of {self._dispatcher!r}>"
