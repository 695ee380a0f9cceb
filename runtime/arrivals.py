# SPDX-License-Identifier: Apache-2.0
"""How instances come: started by the broker where there is room, or by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..ipc.errors import MachineError
from ..ipc.messages import Gpu, LoadModel
from .host import Host
from .host_policies import share_of
from .instances import Instance, Lane, WorkerProcess
from .launches import Launch, Launches
from .models import ServedModel
from .mps.daemon import MpsDaemon
from .mps.places import environment_of, has_users_own, own_directory
from .repository.configuration import WorkerPlan
from .scheduling.requests import NO_GPU
from .settings import Settings

Refused = Callable[[Launch, MachineError], None]
"""Told when the machine refuses to start a process."""


class Arrivals:
    """Makes instances of processes. `instances`, `lanes` and `unflushed` are the fleet's."""

    def __init__(
        self, settings: Settings, host: Host, launches: Launches, instances: dict[int, Instance], lanes: dict[int, Lane],
        unflushed: set[Instance], clock: Callable[[], int], refused: Refused,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._host = host
        self._launches = launches
        self._instances = instances
        self._lanes = lanes
        self._unflushed = unflushed
        self._clock = clock
        self._refused = refused
        self.mps = MpsDaemon(settings.mps, environment_of(own_directory()), has_users_own(), host.start_mps, unflushed)
        self._count = 0

    def __repr__(self) -> str:
        return f"<Arrivals {self._count} so far>"

    def ask(self, names: Iterable[str], model: ServedModel) -> None:
        """Instances to be started as soon as there is room, which may be now."""
        for name in names:
            self._launches.ask(model.config.worker_of(name), model)
        self.launch_due()

    def launch_due(self) -> None:
        """Starts what there is room or time for."""
        now_ns = self._clock()
        while (launch := self._launches.take(now_ns, self._loading())) is not None:
            plan = launch.plan
            environment = {**_environment(plan), **self.mps.environment_for(self._sharing(plan, launch.model))}
            try:
                process = self._host.launch(launch.name, environment)
            except MachineError as error:
                self._refused(launch, error)
            else:
                self._take_in(process, plan, launch.model, supervised=True)

    def attach(self, process: WorkerProcess, model: ServedModel) -> Instance:
        """Takes in a worker that somebody started by hand."""
        plan = model.config.worker_of(f"{model.name}_attached_{process.pid}")
        return self._take_in(process, plan, model, supervised=False)

    def _loading(self) -> int:
        """How many that the broker started are loading."""
        return sum(instance.is_loading and instance.supervised for instance in self._instances.values())

    def _sharing(self, plan: WorkerPlan, model: ServedModel) -> int:
        """How many workers the plan's GPU has: those of its model, and those of others that live. 0: it is on the CPU.

        Those that it replaces do not count: they leave when it is up.
        """
        if plan.gpu == NO_GPU:
            return 0
        others = sum(each.gpu == plan.uuid and each.model.label != model.label for each in self._instances.values())
        return others + sum(each.uuid == plan.uuid for each in model.config.workers())

    def _take_in(self, process: WorkerProcess, plan: WorkerPlan, model: ServedModel, supervised: bool) -> Instance:
        instance = Instance(self._count + 1, plan, model, process, supervised)
        self._count += instance.lanes
        self._instances[instance.number] = instance
        self._lanes.update(instance.by_lane())
        model.instances.append(instance)
        self._host.watch(instance)
        share = share_of(model.config, plan.name, self._settings)
        instance.cpus = share.cpus
        load = LoadModel(
            model.spec, plan.name, model.directory, model.config.filename, share.threads,
            self._settings.isolate_system_regions, list(share.cpus), share.numa_node, self._gpu(plan, supervised),
        )  # fmt: skip
        self.mps.send(instance, load, self._sharing(plan, model) if supervised else 0)
        self._unflushed.add(instance)
        return instance

    def _gpu(self, plan: WorkerPlan, supervised: bool) -> Gpu | None:
        """Where the worker computes. One that was attached by hand may see any GPUs, and finds its own by the UUID."""
        if plan.gpu == NO_GPU:
            return None
        ordinal, profiles = 0 if supervised else -1, list(plan.group.profiles)
        return Gpu(plan.uuid, ordinal, len(plan.instances), self._settings.busy_wait, profiles)


def _environment(plan: WorkerPlan) -> dict[str, str]:
    """A worker on a GPU sees that one alone, as its device 0: nothing that it does makes a context on another."""
    return {} if plan.gpu == NO_GPU else {"CUDA_VISIBLE_DEVICES": plan.uuid}
