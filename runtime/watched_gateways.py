# SPDX-License-Identifier: Apache-2.0
"""Gateway processes in the event loop: spawned with their settings and their listening socket, watched by pidfd."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from ..ipc.addresses import parse_address
from ..ipc.errors import MachineError, invalid
from .event_loop import EventLoop
from .gateway_ports import GatewayPorts
from .processes import Child, OutputReader
from .settings import Settings
from .watched import lines_of

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("penstock.gateway")

SETTINGS_VARIABLE = "PENSTOCK_GATEWAY_SETTINGS"
"""What a gateway is told, as JSON: in its environment, for arguments can be read by every user, and these may hold secrets."""


class WatchedGateways:
    """The gateway processes of this broker, and the ports that they serve."""

    def __init__(self, loop: EventLoop, settings: Settings) -> None:
        self._loop = loop
        self._settings = settings
        self._core: Core | None = None
        self._ports: GatewayPorts | None = None
        #: number -> the process, as long as it is watched
        self._processes: dict[int, Child] = {}
        #: number -> what its process has printed last
        self._last_lines: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<WatchedGateways {self._processes}, {self._ports}>"

    def serve(self, core: Core) -> None:
        """Whose gateways they are."""
        self._core = core

    @property
    def http(self) -> str:
        """HOST:PORT; empty where it is not served."""
        return str(self._ports.http) if self._ports and self._ports.http else ""

    @property
    def grpc(self) -> str:
        """HOST:PORT; empty where it is not served."""
        return str(self._ports.grpc) if self._ports and self._ports.grpc else ""

    @property
    def lost(self) -> dict[str, str]:
        """Name -> reason, of those that are given up."""
        assert self._core is not None
        return self._core.gateways.lost()

    def open_ports(self) -> None:
        """Raises CallerError where gateways could not reach this broker, BrokerError where a port cannot be had."""
        spec = self._settings.gateways
        if spec is None:
            return
        if not self._local_address():
            raise invalid(
                "gateways reach their broker by its local socket, and no address is one: add --address unix:///PATH, or "
                "leave --http-port and --grpc-port out"
            )
        self._ports = GatewayPorts.open(spec)
        assert self._core is not None
        self._core.gateways.places = {"http": self.http, "grpc": self.grpc}
        for protocol, place in self._core.gateways.places.items():
            if place:
                log.info("%s at %s", protocol, place)

    def launch(self, number: int) -> Child:
        """Spawns one, and listens to it. Raises MachineError."""
        assert self._ports is not None
        fd = self._ports.listening_fd(number)
        name = f"gateway {number}"
        try:
            with _log_copy() as log_fd:
                fds = [each for each in (fd, log_fd) if each >= 0]
                command = ("penstock.runtime.gateway", str(os.getpid()))
                process = Child(name, command, fds, {SETTINGS_VARIABLE: self._told(fd, log_fd)})
        except OSError as error:
            raise MachineError(f"cannot start {name}: {error}") from error
        self._processes[number] = process
        self._last_lines[number] = ""
        self._loop.add(process.pidfd, lambda _events: self.exited(number))
        output = process.output
        assert output is not None
        self._loop.add(output.fileno(), lambda _events: self._output(number, output))
        return process

    def refuse(self, number: int) -> None:
        """A gateway is given up: nobody is to wait for it."""
        assert self._ports is not None
        self._ports.refuse(number)

    def stop_accepting(self) -> None:
        """From now on only gateways that have not stopped to do so accept connections."""
        if self._ports is not None:
            self._ports.close()

    def exited(self, number: int) -> None:
        """The process is dead, or must be taken for dead: what it printed is logged, then the core is told."""
        process = self._processes.pop(number, None)
        if process is None:
            return
        assert self._core is not None and process.output is not None
        self._output(number, process.output)
        self._loop.remove(process.pidfd)
        self._loop.remove(process.output.fileno())
        how = process.close()
        failed = (
            how.startswith("exited") and how != "exited with status 0"
        )  # one that was killed, or told to go, said nothing of it
        self._core.gateways.exited(number, how, self._last_lines[number] if failed else "")

    def close(self) -> None:
        """Ends what is still there, and gives the ports up. Idempotent."""
        for number, process in list(self._processes.items()):
            process.kill()
            self.exited(number)
        self.stop_accepting()

    def _output(self, number: int, output: OutputReader) -> None:
        for line in lines_of(output, self._loop):
            log.info("[gateway %d] %s", number, line)
            self._last_lines[number] = line or self._last_lines[number]

    def _local_address(self) -> str:
        parsed = map(parse_address, self._settings.addresses)
        return next((f"unix://{address.target}" for address in parsed if address.kind == "local"), "")

    def _told(self, fd: int, log_fd: int) -> str:
        """All that a gateway process is told, as gateway/settings.py reads it."""
        spec, ports = self._settings.gateways, self._ports
        assert spec is not None and ports is not None and self._core is not None
        told = {
            **spec.told, "address": self._local_address(), "http_fd": fd,
            "log": msgspec.to_builtins(self._core.adjustments.log), "log_fd": log_fd,
            "leaves_within_s": self._settings.drain_s + self._settings.kill_s,
        }  # fmt: skip
        for protocol, place in (("http", ports.http), ("grpc", ports.grpc)):
            if place is not None:
                told |= {f"{protocol}_host": place.host, f"{protocol}_port": place.port}
        return json.dumps(told)


@contextmanager
def _log_copy() -> Iterator[int]:
    """A descriptor for where this process's log lines go; -1 where it was started without standard error."""
    if sys.stderr is None:
        yield -1
        return
    fd = os.dup(sys.stderr.fileno())
    try:
        yield fd
    finally:
        os.close(fd)
