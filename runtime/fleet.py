# SPDX-License-Identifier: Apache-2.0
"""The fleet: starts a worker per instance, checks what it loaded, restarts it when it dies, gives up when it must."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable

from msgspec import structs

from ..ipc.errors import CallerError, PenstockError
from ..ipc.messages import Loaded, LoadFailed, LoadModel, Ready, Start, Stop
from .host import Host
from .host_policies import share_of, undefined_policies
from .instances import Instance, InstanceState, WorkerProcess
from .models import ModelState, ServedModel
from .rationing import NO_EFFECT, is_rate_limited, names_limits, needs_of, refuse_unrunnable
from .regions import RegionRegistry
from .repository.configuration import check_against, complete
from .restarts import CRASHES, WITHIN_NS, RestartPolicy
from .scheduling.events import AnyEvent, InstanceGone, InstanceReady, ModelAdded, ModelDown
from .scheduling.policy import CREDITS, Policy
from .settings import Settings

log = logging.getLogger("penstock.fleet")


Feed = Callable[[AnyEvent], None]
"""Hands one event to the scheduler and carries out what it commands."""

Settled = Callable[[ServedModel], None]
"""Is told of each model version that becomes READY or is given up."""


class Fleet:
    """All instances of all model versions."""

    def __init__(
        self, settings: Settings, host: Host, regions: RegionRegistry, feed: Feed, clock: Callable[[], int], settled: Settled
    ) -> None:
        self._settings = settings
        self._host = host
        self._regions = regions
        self._feed = feed
        self._clock = clock
        self._settled = settled
        self._count = 0
        self._stopping = False
        #: number -> instance that is not dead
        self.instances: dict[int, Instance] = {}
        #: instances that have messages to be flushed
        self.unflushed: set[Instance] = set()
        #: (time, order, instance name, model) of restarts to come
        self._restarts: list[tuple[int, int, str, ServedModel]] = []
        #: (generation of the model, instance name) -> its crash history
        self._policies: dict[tuple[int, str], RestartPolicy] = {}

    def __repr__(self) -> str:
        return f"<Fleet {sorted(instance.name for instance in self.instances.values())}, {len(self._restarts)} restarts due>"

    def check_invariants(self) -> None:
        """Every live instance is listed once, and by its model too."""
        for number, instance in self.instances.items():
            instance.check_invariants()
            assert instance.number == number and instance.state is not InstanceState.DEAD, instance
            assert instance in instance.model.instances, instance
        assert self._restarts == sorted(self._restarts) or self._restarts[0] == min(self._restarts)

    # --- models ----------------------------------------------------------------------------------------------------------

    def serve(self, model: ServedModel) -> None:
        """Starts the model's instances. When its configuration must be completed from the model file, one goes ahead.

        A model whose instances could never run, for want of a resource, is UNAVAILABLE instead.
        """
        if names_limits(model.config) and not self._settings.rate_limit:
            log.warning("model %s: %s", model.label, NO_EFFECT)
        try:
            self.refuse_unrunnable(model)
        except CallerError as error:
            self._give_up(model, error.message)
            return
        names = model.config.instance_names()
        for warning in undefined_policies(model.config, self._settings):
            log.warning("model %s: %s", model.label, warning)
        for name in names if model.config.is_complete else names[:1]:
            self._launch(name, model)

    def refuse_unrunnable(self, model: ServedModel) -> None:
        """Raises CallerError where the model's instances could never have the resources that they need."""
        loaded = {instance.model.number: instance.model.config for instance in self.instances.values()}
        refuse_unrunnable(model.config, loaded.values(), self._settings)

    def attach(self, process: WorkerProcess, model: ServedModel) -> Instance:
        """Takes in a worker that somebody started by hand."""
        return self._take_in(process, f"{model.name}_attached_{process.pid}", model, supervised=False)

    def _launch(self, name: str, model: ServedModel) -> None:
        self._take_in(self._host.launch(name), name, model, supervised=True)

    def _take_in(self, process: WorkerProcess, name: str, model: ServedModel, supervised: bool) -> Instance:
        self._count += 1
        instance = Instance(self._count, name, model, process, supervised)
        self.instances[instance.number] = instance
        model.instances.append(instance)
        self._host.watch(instance)
        share = share_of(model.config, name, self._settings)
        instance.cpus = share.cpus
        load = LoadModel(
            model.spec, name, model.directory, model.config.filename, share.threads, self._settings.isolate_system_regions,
            list(share.cpus), share.numa_node,
        )  # fmt: skip
        self._send(instance, load)
        return instance

    def _send(self, instance: Instance, message: LoadModel | Start | Stop) -> None:
        instance.send(message)
        self.unflushed.add(instance)

    # --- what workers report ---------------------------------------------------------------------------------------------

    def loaded(self, instance: Instance, message: Loaded) -> None:
        """The model is in memory: its configuration is completed and checked, and the worker told to start."""
        if instance.state is InstanceState.STOPPING:
            return  # it has not read yet that it is to go
        model = instance.model
        waiting = [] if model.config.is_complete else model.config.instance_names()[1:]
        if message.signature is not None:
            try:
                config = complete(model.config, message.signature)
                check_against(config, message.signature)
            except PenstockError as error:
                self.load_failed(instance, LoadFailed(error.message))
                return
            if not model.config.is_complete:
                model.configure(config)
        instance.become(InstanceState.LOADED)
        self._send(instance, Start(model.spec, list(model.config.warmup)))
        for name in waiting if instance.supervised else ():
            self._launch(name, model)

    def ready(self, instance: Instance, _message: Ready) -> None:
        """The worker is warmed up; with its first instance the model version becomes READY."""
        if instance.state is InstanceState.STOPPING:
            return
        instance.become(InstanceState.READY)
        model = instance.model
        if not model.accepts:
            if model.state is ModelState.LOADING:
                self._feed(ModelAdded(model.number, policy_of(model, self._settings)))
            model.become(ModelState.READY)
            log.info("model %s is READY", model.label)
            self._settled(model)
        self._feed(InstanceReady(instance.number, model.number, needs_of(model.config, instance.name)))

    def load_failed(self, instance: Instance, message: LoadFailed) -> None:
        """The model cannot be loaded; trying again would not help, so the instance goes for good."""
        instance.load_error = message.message
        log.error("%s: loading failed: %s", instance.name, message.message)
        instance.kill("loading failed")

    def exited(self, instance: Instance) -> None:
        """The process is gone. Its batches fail, its mappings are forgotten, and perhaps it is started again."""
        how = instance.process.close()
        reason = f"worker {how}" if not instance.verdict else f"{instance.verdict} (worker {how})"
        expected = instance.state is InstanceState.STOPPING
        was_ready = instance.is_ready
        instance.become(InstanceState.DEAD)
        self._regions.instance_gone(instance)
        del self.instances[instance.number]
        self.unflushed.discard(instance)
        instance.model.instances.remove(instance)
        log.log(logging.INFO if expected else logging.WARNING, "%s: %s", instance.name, reason)
        if was_ready or expected:
            self._feed(InstanceGone(instance.number, reason))
        if not expected and not self._stopping:
            self._after_crash(instance, instance.load_error or reason)

    def _after_crash(self, instance: Instance, reason: str) -> None:
        model = instance.model
        if instance.supervised and not instance.load_error:
            policy = self._policies.setdefault((model.number, instance.name), RestartPolicy())
            now = self._clock()
            delay = policy.crashed(now)
            if delay is not None:
                heapq.heappush(self._restarts, (now + delay, self._count, instance.name, model))
                self._count += 1
                return
            reason = f"{instance.name} crashed {CRASHES} times in {WITHIN_NS // 10**9} s, last: {reason}"
        if not model.instances and not any(entry[3] is model for entry in self._restarts):
            self._give_up(model, reason)

    def _give_up(self, model: ServedModel, reason: str) -> None:
        was_added = model.state is not ModelState.LOADING
        model.become(ModelState.UNAVAILABLE, reason)
        log.error("model %s is UNAVAILABLE: %s", model.label, reason)
        self._settled(model)
        if was_added:
            self._feed(ModelDown(model.number, reason))

    # --- time and the end ------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the next restart is due, in the clock's ns."""
        return self._restarts[0][0] if self._restarts else None

    def tick(self, now_ns: int) -> None:
        """Starts what is due."""
        while self._restarts and self._restarts[0][0] <= now_ns and not self._stopping:
            _, _, name, model = heapq.heappop(self._restarts)
            log.info("%s: starting again", name)
            self._launch(name, model)

    def stop(self) -> None:
        """Tells every worker to finish and go."""
        self._stopping = True
        self._restarts.clear()
        for instance in self.instances.values():
            if instance.state is not InstanceState.STOPPING:
                instance.become(InstanceState.STOPPING)
                self._send(instance, Stop())

    def kill(self, verdict: str) -> None:
        """Ends every worker that is still there."""
        for instance in self.instances.values():
            instance.kill(verdict)


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
