# SPDX-License-Identifier: Apache-2.0
"""How instances come: started by the broker where there is room, or by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..ipc.errors import MachineError
from ..ipc.messages import LoadModel
from .host import Host
from .host_policies import share_of
from .instances import Instance, WorkerProcess
from .launches import Launch, Launches
from .models import ServedModel
from .settings import Settings

Refused = Callable[[Launch, MachineError], None]
"""Told when the machine refuses to start a process."""


class Arrivals:
    """Makes instances of processes. `instances` and `unflushed` are the fleet's."""

    def __init__(
        self, settings: Settings, host: Host, launches: Launches, instances: dict[int, Instance], unflushed: set[Instance],
        clock: Callable[[], int], refused: Refused,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._host = host
        self._launches = launches
        self._instances = instances
        self._unflushed = unflushed
        self._clock = clock
        self._refused = refused
        self._count = 0

    def __repr__(self) -> str:
        return f"<Arrivals {self._count} so far>"

    def ask(self, names: Iterable[str], model: ServedModel) -> None:
        """Instances to be started as soon as there is room, which may be now."""
        for name in names:
            self._launches.ask(name, model)
        self.launch_due()

    def launch_due(self) -> None:
        """Starts what there is room or time for."""
        now_ns = self._clock()
        while (launch := self._launches.take(now_ns, self._loading())) is not None:
            try:
                process = self._host.launch(launch.name)
            except MachineError as error:
                self._refused(launch, error)
            else:
                self._take_in(process, launch.name, launch.model, supervised=True)

    def attach(self, process: WorkerProcess, model: ServedModel) -> Instance:
        """Takes in a worker that somebody started by hand."""
        return self._take_in(process, f"{model.name}_attached_{process.pid}", model, supervised=False)

    def _loading(self) -> int:
        """How many that the broker started are loading."""
        return sum(instance.is_loading and instance.supervised for instance in self._instances.values())

    def _take_in(self, process: WorkerProcess, name: str, model: ServedModel, supervised: bool) -> Instance:
        self._count += 1
        instance = Instance(self._count, name, model, process, supervised)
        self._instances[instance.number] = instance
        model.instances.append(instance)
        self._host.watch(instance)
        share = share_of(model.config, name, self._settings)
        instance.cpus = share.cpus
        load = LoadModel(
            model.spec, name, model.directory, model.config.filename, share.threads, self._settings.isolate_system_regions,
            list(share.cpus), share.numa_node,
        )  # fmt: skip
        instance.send(load)
        self._unflushed.add(instance)
        return instance
