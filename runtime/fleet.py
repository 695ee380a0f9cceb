# SPDX-License-Identifier: Apache-2.0
"""The fleet: starts a worker per instance, checks what it loaded, restarts it when it dies, gives up when it must."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from msgspec import structs

from ..ipc.errors import CallerError, PenstockError, from_wire
from ..ipc.messages import Loaded, LoadFailed, Ready, Start, Stop
from .arrivals import Arrivals
from .departures import Departures, Feed
from .host import Host
from .host_policies import undefined_policies
from .instances import Instance, InstanceState, Lane, WorkerProcess
from .launches import Launches
from .losses import Losses, Watcher
from .models import ModelState, ServedModel
from .rationing import NO_EFFECT, is_rate_limited, needs_of, refuse_unrunnable
from .regions import RegionRegistry
from .repository.configuration import ModelConfig, check_against, complete
from .repository.placement import Placing
from .scheduling.events import InstanceGone, InstanceReady, ModelAdded
from .scheduling.policy import CREDITS, Policy
from .settings import Settings

log = logging.getLogger("penstock.fleet")


class Fleet:
    """All instances of all model versions."""

    def __init__(
        self, settings: Settings, host: Host, regions: RegionRegistry, feed: Feed, clock: Callable[[], int], placing: Placing
    ) -> None:
        self._settings = settings
        self.placing = placing  # where the instances of a model that is read may go
        self._regions = regions
        self._feed = feed
        self._clock = clock
        self._stopping = False
        self._launches = Launches(settings.instances_at_once)
        self._losses = Losses(self._launches, feed, clock)
        #: number -> instance that is not dead
        self.instances: dict[int, Instance] = {}
        #: the scheduler's number -> lane of one of them
        self.lanes: dict[int, Lane] = {}
        #: instances that have messages to be flushed
        self.unflushed: set[Instance] = set()
        self._arrivals = Arrivals(
            settings, host, self._launches, self.instances, self.lanes, self.unflushed, clock,
            lambda launch, error: self._losses.crashed(launch.plan, launch.model, error),
        )  # fmt: skip
        self.mps = self._arrivals.mps
        self.departures = Departures(
            self.instances,
            self._launches,
            self.unflushed,
            feed,
            clock,
            int(settings.kill_s * 1e9),
            self._losses.gone,
        )

    def __repr__(self) -> str:
        return f"<Fleet {sorted(instance.name for instance in self.instances.values())}, {self._launches!r}>"

    def report_to(self, watcher: Watcher) -> None:
        """Everything that becomes of models is told to this one."""
        self._losses.watcher = watcher

    def check_invariants(self) -> None:
        """Every live instance is listed once, and by its model too."""
        self._launches.check_invariants()
        self.departures.check_invariants()
        self.mps.check_invariants()
        for number, instance in self.instances.items():
            instance.check_invariants()
            assert instance.number == number and instance.state is not InstanceState.DEAD, instance
            assert instance in instance.model.instances, instance
        assert self.lanes == {n: lane for each in self.instances.values() for n, lane in each.by_lane().items()}, self

    # --- starting --------------------------------------------------------------------------------------------------------

    def serve(self, model: ServedModel) -> None:
        """Starts the model's instances. When its configuration must be completed from the model file, one goes ahead.

        A model whose instances could never run, for want of a resource, is UNAVAILABLE instead.
        """
        model.asked_ns = self._clock()
        for warning in _without_effect(model.config, self._settings):
            log.warning("model %s: %s", model.label, warning)
        names = model.config.worker_names()
        try:
            self.refuse_unrunnable(model)
        except CallerError as error:
            self._losses.refused(names, model, error)
            return
        model.awaited.update(names)
        self._arrivals.ask(names if model.config.is_complete else names[:1], model)

    def resize(self, model: ServedModel, config: ModelConfig) -> None:
        """Starts the instances that this configuration has and the model's has not. Those that it has not go on."""
        added = [name for name in config.worker_names() if name not in model.config.worker_names()]
        model.configure(config)
        for name in added:
            model.lost.pop(name, None)
        try:
            self.refuse_unrunnable(model)
        except CallerError as error:
            self._losses.refused(added, model, error)
            return
        model.awaited.update(added)
        self._arrivals.ask(added, model)

    def refuse_unrunnable(self, model: ServedModel) -> None:
        """Raises CallerError where the model's instances could never have the resources that they need."""
        others = {each.model.number: each.model.config for each in self.instances.values() if each.model.name != model.name}
        refuse_unrunnable(model.config, others.values(), self._settings)

    def attach(self, process: WorkerProcess, model: ServedModel) -> Instance:
        """Takes in a worker that somebody started by hand."""
        return self._arrivals.attach(process, model)

    # --- what workers report ---------------------------------------------------------------------------------------------

    def loaded(self, instance: Instance, message: Loaded) -> None:
        """The model is in memory: its configuration is completed and checked, and the worker told to start."""
        if instance.is_ending:
            return
        model = instance.model
        waiting = [] if model.config.is_complete else model.config.worker_names()[1:]
        if message.signature is not None:
            try:
                config = complete(model.config, message.signature)
                check_against(config, message.signature)
            except PenstockError as error:
                self.load_failed(instance, LoadFailed(error.message, code=error.code.value))
                return
            if not model.config.is_complete:
                model.configure(config)
        instance.become(InstanceState.LOADED)
        instance.send(Start(model.spec, list(model.config.warmup)))
        self.unflushed.add(instance)
        if instance.supervised:
            self._arrivals.ask(waiting, model)

    def ready(self, instance: Instance, message: Ready) -> None:
        """The worker is warmed up; with its first instance the model version becomes READY."""
        if instance.is_ending or not self.mps.verify(instance, message.mps):
            return
        instance.become(InstanceState.READY)
        model = instance.model
        if not model.accepts and model.state is not ModelState.UNLOADING:
            if not model.is_added:
                model.count_in(self._clock())
                self._feed(ModelAdded(model.number, policy_of(model, self._settings)))
            model.become(ModelState.READY)
            log.info("model %s is READY", model.label)
            self._losses.watcher.model_ready(model)
            self._losses.gpus_lost(model)
        plan = instance.plan
        self._feed(InstanceReady(instance.number, model.number, needs_of(plan), plan.gpu, instance.lanes))
        self._arrivals.launch_due()
        self._losses.no_longer_awaited(instance.name, model)

    def load_failed(self, instance: Instance, message: LoadFailed) -> None:
        """The model cannot be loaded; trying again would not help, so the instance goes for good."""
        instance.load_error = from_wire(message.code, message.message, message.fault)
        log.error("%s: loading failed: %s", instance.name, message.message)
        instance.kill("loading failed")

    def exited(self, instance: Instance) -> None:
        """The process is gone. Its batches fail, its mappings are forgotten, and perhaps it is started again."""
        how = instance.process.close()
        reason = f"worker {how}" if not instance.verdict else f"{instance.verdict} (worker {how})"
        model = instance.model
        expected = instance.state is InstanceState.STOPPING
        was_ready = instance.is_ready
        instance.become(InstanceState.DEAD)
        self._regions.instance_gone(instance)
        self.mps.gone(instance)
        del self.instances[instance.number]
        for number in instance.by_lane():
            del self.lanes[number]
        self.unflushed.discard(instance)
        model.instances.remove(instance)
        log.log(logging.INFO if expected else logging.WARNING, "%s: %s", instance.name, reason)
        if was_ready or expected:
            self._feed(InstanceGone(instance.number, reason, instance.lanes))
        self.departures.exited(instance)
        if model.state is ModelState.UNLOADING:
            self.departures.left(model)
        elif not self._stopping and not instance.wanted:
            self._losses.released(model)
        elif not self._stopping and not expected:
            self._losses.died(instance, reason)
        self._arrivals.launch_due()

    # --- time and the end ------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the next restart is due, or patience with an instance that is to leave ends; in the clock's ns."""
        due = (self._launches.next_deadline(), self.departures.next_deadline(), self.mps.due_ns)
        return min((due_ns for due_ns in due if due_ns is not None), default=None)

    def tick(self, now_ns: int) -> None:
        """Starts what is due, and ends what should have ended itself."""
        self.departures.tick(now_ns)
        self.mps.tick(now_ns)
        launch_ns = self._launches.next_deadline()
        if launch_ns is not None and launch_ns <= now_ns:
            self._arrivals.launch_due()

    def stop(self) -> None:
        """Tells every worker to finish and go."""
        self._stopping = True
        self._launches.clear()
        for instance in self.instances.values():
            if instance.state is not InstanceState.STOPPING:
                instance.become(InstanceState.STOPPING)
                instance.send(Stop())
                self.unflushed.add(instance)

    def kill(self, verdict: str) -> None:
        """Ends every worker that is still there."""
        for instance in self.instances.values():
            instance.kill(verdict)


def _without_effect(config: ModelConfig, settings: Settings) -> Iterator[str]:
    """What the configuration asks for and the settings do not provide."""
    if config.names_limits and not settings.rate_limit:
        yield NO_EFFECT
    yield from undefined_policies(config, settings)


def policy_of(model: ServedModel, settings: Settings) -> Policy:
    """The scheduler's view of a model's configuration."""
    batching = model.config.dynamic_batching
    seconds = model.config.max_execution_s
    limit_s = settings.max_execution_s if seconds is None else seconds
    limited = is_rate_limited(model.config, settings)
    policy = Policy(
        max_batch_size=model.spec.max_batch_size,
        max_execution_ns=int(limit_s * 1e9),
        max_queued_per_principal=settings.max_queued_per_principal,
        credits=1 if limited else CREDITS,
        rate_limited=limited,
        spread=len(model.config.devices) > 1,
    )
    if batching is None:
        return policy
    return structs.replace(
        policy,
        dynamic=True,
        preserve_ordering=batching.preserve_ordering,
        preferred_batch_sizes=batching.preferred_batch_sizes,
        max_queue_delay_ns=batching.max_queue_delay_us * 1000,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_queue_policy=batching.default_queue_policy,
        priority_queue_policies=batching.priority_queue_policies,
    )
