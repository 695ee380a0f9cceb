# SPDX-License-Identifier: Apache-2.0
"""Workers in the event loop: their socket, their pidfd, their output.

Death is known by pidfd, not by end-of-file: a child that a model forked may keep the socket open. What a worker said before
it died is read first, so that finished batches count as finished.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..ipc.errors import MachineError, PenstockError
from ..ipc.local import LinkClosed
from .event_loop import READ, WRITE, EventLoop
from .instances import Instance
from .processes import AttachedWorker, OutputReader, SpawnedWorker

if TYPE_CHECKING:
    from .core import Core

output_log = logging.getLogger("penstock.worker")


class WatchedWorkers:
    """The worker processes this broker listens to."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._core: Core | None = None
        #: instance -> its process, as long as it is watched
        self._processes: dict[Instance, SpawnedWorker | AttachedWorker] = {}

    def __repr__(self) -> str:
        return f"<WatchedWorkers {sorted(instance.name for instance in self._processes)}>"

    def serve(self, core: Core) -> None:
        """Everything workers say goes to this core."""
        self._core = core

    def launch(self, name: str, environment: Mapping[str, str]) -> SpawnedWorker:
        """Spawns one. Raises MachineError."""
        try:
            return SpawnedWorker(name, environment)
        except OSError as error:
            raise MachineError(f"cannot start a worker for {name}: {error}") from error

    def watch(self, instance: Instance) -> None:
        """Listens to an instance from now on."""
        process = instance.process
        assert isinstance(process, (SpawnedWorker, AttachedWorker))
        self._processes[instance] = process
        self._loop.add(process.link.fileno(), lambda events: self._ready(instance, process, events))
        self._loop.add(process.pidfd, lambda _events: self.exited(instance))
        output = process.output
        if output is not None:
            self._loop.add(output.fileno(), lambda _events: self._output(instance.name, output))

    def wait_for_room(self, instance: Instance) -> None:
        """The instance's socket is full: flush again when it is not."""
        self._loop.modify(self._processes[instance].link.fileno(), READ | WRITE)

    def _ready(self, instance: Instance, process: SpawnedWorker | AttachedWorker, events: int) -> None:
        assert self._core is not None
        if events & WRITE:
            self._loop.modify(process.link.fileno(), READ)
            self._core.fleet.unflushed.add(instance)
        if events & ~WRITE:
            self._read(instance, process)

    def _read(self, instance: Instance, process: SpawnedWorker | AttachedWorker) -> bool:
        """Reads once; False when there was nothing more to read."""
        assert self._core is not None
        try:
            messages = process.link.receive()
        except LinkClosed:
            self._loop.remove(process.link.fileno())
            instance.hung_up()
            return False
        except PenstockError as error:
            instance.kill(f"worker broke the protocol: {error.message}")
            return False
        self._core.receive_from_worker(instance, messages)
        return bool(messages)

    def exited(self, instance: Instance) -> None:
        """The process is dead, or must be taken for dead: what it said last is read, then the core is told."""
        process = self._processes.pop(instance, None)
        if process is None:
            return
        assert self._core is not None
        while self._read(instance, process):
            pass
        self._loop.remove(process.pidfd)
        self._loop.remove(process.link.fileno())
        if process.output is not None:
            self._loop.remove(process.output.fileno())
            self._output(instance.name, process.output)
        self._core.worker_exited(instance)

    def _output(self, name: str, output: OutputReader) -> None:
        for line in lines_of(output, self._loop):
            output_log.info("[%s] %s", name, line)


def lines_of(output: OutputReader, loop: EventLoop) -> list[str]:
    """The lines that a process has printed; at their end the loop listens no more."""
    lines = output.read_lines()
    if lines is None:
        loop.remove(output.fileno())
        return []
    return lines
