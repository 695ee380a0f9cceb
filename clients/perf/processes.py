# SPDX-License-Identifier: Apache-2.0
"""Several client processes that share a load, for servers that one process cannot keep busy. Spawned, never forked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from ...ipc.errors import Code, MachineError
from .arrivals import Share
from .load import Load, Stint, gathered
from .orders import Prepare, Release, WarmUp
from .plan import Plan, Point
from .target import TargetSpec

PROGRAM = "penstock.clients.perf.client_process"
LEAD_NS = 20_000_000
"""So long before a window begins all are told when: by then the last of them waits for that moment."""
ENDS_WITHIN_S = 5.0
"""A process that was told to end and has not by then is killed."""


class ClientProcess:
    """One of them, as its parent sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", PROGRAM, str(theirs.fileno()), str(os.getpid())]
        with ours, theirs:
            # In a session of its own: of Ctrl-C it is told by its parent, which ends it.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            self.connection: Connection[Any, Any] = Connection(ours.detach())

    def __repr__(self) -> str:
        return f"<ClientProcess {self.number} pid {self._child.pid}{' ended' if self._child.returncode is not None else ''}>"

    def check_invariants(self) -> None:
        """Nobody talks to one that has been reaped."""
        assert self._child.returncode is None or self.connection.closed, self

    def tell(self, order: Any) -> None:
        """Raises MachineError when it has ended."""
        try:
            self.connection.send(order)
        except ConnectionError:
            raise self._died() from None

    def answer(self) -> Any:
        """What it has to say. Raises the PenstockError that ended it, and MachineError when it has ended otherwise."""
        try:
            found = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None
        if isinstance(found, Exception):
            raise found
        return found

    def _died(self) -> MachineError:
        code = self._child.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return MachineError(f"client process {self.number} (pid {self._child.pid}) {how}", Code.INTERNAL)

    def kill(self) -> None:
        """At once: the server sees its connection end."""
        self._child.kill()

    def close(self) -> None:
        """Hangs up and reaps it. Idempotent."""
        self.connection.close()
        try:
            self._child.wait(ENDS_WITHIN_S)
        except BaseException as error:
            self._child.kill()
            self._child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


class ClientProcesses:
    """As many as the plan says. A context manager: none is left behind, whatever happens."""

    def __init__(self, spec: TargetSpec, plan: Plan) -> None:
        self._spec = spec
        self._plan = plan
        self._all: list[ClientProcess] = []

    def __repr__(self) -> str:
        return f"<ClientProcesses {self._all}>"

    def check_invariants(self) -> None:
        """Those of each; never more than the plan says."""
        assert len(self._all) <= self._plan.processes, self
        for process in self._all:
            process.check_invariants()

    def __enter__(self) -> ClientProcesses:
        try:
            for number in range(self._plan.processes):
                self._all.append(ClientProcess(number))
            ask(self._all, [self._spec] * len(self._all))
        except BaseException:
            self._end(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(at_once=kind is not None)

    def _end(self, at_once: bool) -> None:
        for process in self._all:
            process.connection.close()  # all of them, before the first is waited for
            if at_once:
                process.kill()
        with ExitStack() as each:  # all of them, should this be interrupted while one is waited for
            while self._all:
                each.callback(self._all.pop().close)

    @contextmanager
    def at(self, point: Point) -> Iterator[Crew]:
        """A closed loop of fewer requests than there are processes keeps as many processes busy as it has requests."""
        count = len(self._all) if point.request_rate is not None else min(len(self._all), point.concurrency)
        crew = self._all[:count]
        ask(crew, [Prepare(self._plan, point, Share(process.number, count)) for process in crew])
        yield Crew(crew, is_open=point.request_rate is not None)
        ask(crew, [Release()] * count)


class Crew:
    """The processes that make the load of one point, which has been prepared."""

    def __init__(self, processes: Sequence[ClientProcess], is_open: bool) -> None:
        self._processes = processes
        self._is_open = is_open

    def __repr__(self) -> str:
        return f"<Crew of {len(self._processes)} in {'an open' if self._is_open else 'a closed'} loop>"

    def check_invariants(self) -> None:
        """Somebody makes the load."""
        assert self._processes, self

    def warm_up(self, requests: int) -> Load:
        """So many of each."""
        return gathered(ask(self._processes, [WarmUp(requests)] * len(self._processes)))

    def run(self, stint: Stint) -> Load:
        """All begin at the same moment."""
        begin_ns = time.monotonic_ns() + LEAD_NS
        shares = [Share(number, len(self._processes)) for number in range(len(self._processes))]
        requests = [
            stint.requests if self._is_open or not stint.requests else max(share.part(stint.requests), 1) for share in shares
        ]
        return gathered(ask(self._processes, [stint._replace(begin_ns=begin_ns, requests=count) for count in requests]))


def ask(processes: Sequence[ClientProcess], orders: Sequence[Any]) -> list[Any]:
    """Gives each its order and returns their answers. Raises as soon as one has failed, however long the others take."""
    for process, order in zip(processes, orders, strict=True):
        process.tell(order)
    waiting = {process.connection: at for at, process in enumerate(processes)}
    answers: list[Any] = [None] * len(processes)
    while waiting:
        for connection in wait(list(waiting)):
            at = waiting.pop(connection)  # type: ignore[call-overload]  # the stubs know sockets and descriptors as well
            answers[at] = processes[at].answer()
    return answers
