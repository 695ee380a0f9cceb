# SPDX-License-Identifier: Apache-2.0
"""How instances leave that are not wanted any more, one by one or with their model.

One that serves finishes what it has (the scheduler says when it has), is told to stop, and is killed when it has not left
within kill_s. One that has not loaded yet has nothing to finish, and is ended at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ipc.messages import Stop
from .instances import Instance, InstanceState
from .launches import Launches
from .models import ModelState, ServedModel
from .scheduling.events import AnyEvent, InstanceLeaving, ModelRemoved
from .scheduling.timers import Timers

Feed = Callable[[AnyEvent], None]
"""Hands one event to the scheduler and carries out what it commands."""


class Departures:
    """Instances on their way out. `tell_gone` hears of each retired model of which nothing is left."""

    def __init__(
        self, instances: Mapping[int, Instance], launches: Launches, unflushed: set[Instance], feed: Feed,
        clock: Callable[[], int], kill_ns: int, tell_gone: Callable[[ServedModel], None],
    ) -> None:  # fmt: skip
        self._instances = instances
        self._launches = launches
        self._unflushed = unflushed
        self._feed = feed
        self._clock = clock
        self._kill_ns = kill_ns
        self._tell_gone = tell_gone
        #: instance that was told to stop -> when it is killed
        self._patience = Timers()

    def __repr__(self) -> str:
        return f"<Departures {[self._instances[number].name for number in self._patience]}>"

    def check_invariants(self) -> None:
        """Who is to leave was told so; what was retired starts nothing."""
        self._patience.check_invariants()
        assert all(self._instances[number].state is InstanceState.STOPPING for number in self._patience), self
        for instance in self._instances.values():
            retired = instance.model.state is ModelState.UNLOADING
            assert not (retired and self._launches.expects(instance.model)), instance

    def retire(self, model: ServedModel) -> None:
        """The version takes no more requests; those that it has are finished, then its workers leave. Idempotent."""
        if model.state is ModelState.UNLOADING:
            return
        self._launches.drop(model)
        model.awaited.clear()
        model.become(ModelState.UNLOADING)
        for instance in [instance for instance in model.instances if instance.is_loading]:
            instance.kill("the model is being unloaded")
        if model.is_added:
            self._feed(ModelRemoved(model.number))
        self.left(model)

    def release(self, model: ServedModel, names: set[str]) -> None:
        """These instances of a version that goes on are not wanted any more."""
        self._launches.drop(model, names)
        model.awaited -= names
        for instance in [instance for instance in model.instances if instance.name in names]:
            instance.wanted = False
            if instance.is_ready:
                self._feed(InstanceLeaving(instance.number, instance.lanes))
            elif instance.is_loading:
                instance.kill("the instance is not wanted any more")

    def drained(self, model: ServedModel) -> None:
        """The scheduler has forgotten the version: nothing of it is at any worker."""
        for instance in model.instances:
            self._vacated(instance)

    def lane_vacated(self, instance: Instance) -> None:
        """Nothing is left at one lane of an instance that is to leave."""
        instance.vacant += 1
        if instance.vacant == instance.lanes:
            self._vacated(instance)

    def _vacated(self, instance: Instance) -> None:
        if instance.is_ready:
            instance.become(InstanceState.STOPPING)
            instance.send(Stop())
            self._unflushed.add(instance)
            self._patience.set(instance.number, self._clock() + self._kill_ns)

    def exited(self, instance: Instance) -> None:
        """The process of an instance is gone, whether it was to leave or not."""
        self._patience.cancel(instance.number)

    def left(self, model: ServedModel) -> None:
        """An instance of a retired model may have been its last."""
        if not model.instances:
            self._tell_gone(model)

    def next_deadline(self) -> int | None:
        """When patience with the first of them ends, in the clock's ns."""
        return self._patience.first_ns()

    def tick(self, now_ns: int) -> None:
        """Ends those that should have ended themselves."""
        for number in self._patience.pop_due(now_ns):
            self._instances[number].kill("did not exit in time")
