# SPDX-License-Identifier: Apache-2.0
"""What the core needs of the process around it. The event loop provides it with sockets, a test with scripted links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .gateways import GatewayProcess
    from .instances import Instance, WorkerProcess
    from .repository.jobs import Job
    from .sessions import Session


class Host(Protocol):
    """The surroundings of a Core."""

    def launch(self, name: str, environment: Mapping[str, str]) -> WorkerProcess:
        """Starts a worker process for the instance of this name, with these variables beside the broker's own.

        Raises MachineError when the machine refuses.
        """
        ...

    def launch_gateway(self, number: int) -> GatewayProcess:
        """Starts a gateway process. Raises MachineError when the machine refuses."""
        ...

    def lose_gateway(self, number: int) -> None:
        """A gateway is given up: no client is to wait for it."""
        ...

    def start_mps(self) -> None:
        """Starts an MPS daemon; the fleet's MpsDaemon hears what becomes of it."""
        ...

    def adopt(self, session: Session) -> WorkerProcess:
        """Makes a worker of a connection that said so in its Hello; the session's link passes to it."""
        ...

    def watch(self, instance: Instance) -> None:
        """From now on, what this instance says goes to the core, and so does its death."""
        ...

    def run_aside(self, job: Job, then: Callable[[Any], None]) -> None:
        """Has a job done that may block, after those before it; `then` gets its result, or the PenstockError that it raised."""
        ...

    def forget(self, session: Session) -> None:
        """The session has ended; its link is about to be closed."""
        ...
