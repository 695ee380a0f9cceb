# SPDX-License-Identifier: Apache-2.0
"""The worker's loop: one message after another, each answered before the next is begun."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from ..ipc.codec import BadMessage
from ..ipc.errors import BrokerError, Code, MachineError, PenstockError
from ..ipc.local import LinkClosed, LocalLink
from ..ipc.messages import Batch, Loaded, LoadFailed, LoadModel, MapRegion, Message, Ready, Start, Stop, ToWorker, UnmapRegion
from ..ipc.processors import occupy
from .backends import make_backend
from .backends.base import Backend
from .batches import BatchRunner, as_error, failed
from .classification import read_labels
from .region_table import RegionTable
from .warm_up import run_samples


class State(Enum):
    """EMPTY: no model yet. LOADED: waits for the checked configuration. READY: takes batches. STOPPED: the process may end."""

    EMPTY = "empty"
    LOADED = "loaded"
    READY = "ready"
    STOPPED = "stopped"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.EMPTY: frozenset({State.LOADED, State.STOPPED}),
    State.LOADED: frozenset({State.READY, State.STOPPED}),
    State.READY: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}
"""State -> states it may become."""


class WorkerLoop:
    """Serves one model to one broker over one link, until told to stop or until the link ends."""

    def __init__(self, link: LocalLink[ToWorker], backend_by_name: Callable[[str], Backend] = make_backend) -> None:
        self._link = link
        self._backend_by_name = backend_by_name
        self.state = State.EMPTY
        self._has_failed = False
        #: set from LOADED on
        self._backend: Backend | None = None
        self._directory = ""
        #: set from READY on
        self._runner: BatchRunner | None = None
        self._regions = RegionTable()
        self._handlers: dict[type, Callable[[Any], None]] = {
            Batch: self._execute,
            MapRegion: self._map,
            UnmapRegion: self._unmap,
            LoadModel: self._load,
            Start: self._start,
            Stop: self._stop,
            BadMessage: self._refuse,
        }

    def __repr__(self) -> str:
        return f"<WorkerLoop {self.state.value}, {self._backend!r}, {self._regions!r}, {self._runner!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when the parts contradict each other."""
        assert (self._runner is not None) == (self.state is State.READY), repr(self)
        self._regions.check_invariants()
        if self._runner is not None:
            self._runner.check_invariants()

    def run(self) -> bool:
        """Serves; False when the model could not be loaded. Raises PenstockError when the broker breaks the protocol."""
        try:
            while self._handle_all(self._link.receive(block=True)):
                pass
        except LinkClosed:
            return True  # the broker is gone: nobody is left to answer
        finally:
            self.close()
        return not self._has_failed

    def _handle_all(self, messages: Sequence[ToWorker | BadMessage]) -> bool:
        """False after the last message that is for this worker; nothing follows a Stop."""
        for message in messages:
            self._handlers[type(message)](message)
            if self.state is State.STOPPED:
                return False
        return True

    def close(self) -> None:
        """Gives back the model, the memory and the link. Idempotent."""
        self.state = State.STOPPED
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self._regions.close()
        self._link.close()

    # --- messages --------------------------------------------------------------------------------------------------------

    def _execute(self, batch: Batch) -> None:
        runner = self._runner
        if runner is None:
            raise self._broken("a batch")
        report, fds = runner.run(batch)
        try:
            self._link.put(report, fds)
        except PenstockError as error:  # more descriptors than one message or this process may have
            cause = MachineError(f"the outputs of {len(fds)} requests cannot be handed over: {error.message}")
            self._link.put(failed(batch, report.started_ns, cause, report.infer_ns))
        finally:
            for fd in fds:
                os.close(fd)
        self._link.flush(block=True)  # before the next batch is begun: the scheduler relies on it

    def _map(self, message: MapRegion) -> None:
        (fd,) = self._link.take_fds(message.fds)
        self._regions.map(message, fd)

    def _unmap(self, message: UnmapRegion) -> None:
        if self._runner is not None:
            self._runner.forget_region(message.region)
        self._regions.unmap(message.region)

    def _load(self, order: LoadModel) -> None:
        if self.state is not State.EMPTY:
            raise self._broken("a second LoadModel")
        self._regions = RegionTable(order.isolate_system_regions)
        self._directory = order.directory
        try:
            occupy(order.cpus, order.numa_node)  # first: what the backend starts inherits it
            self._backend = self._backend_by_name(order.spec.backend)
            signature = self._backend.load(order)
        except BaseException as error:  # noqa: BLE001 - a model may raise anything; the broker is told why, and this ends
            self._fail(as_error(error))
            return
        self._become(State.LOADED)
        self._answer(Loaded(os.getpid(), signature))

    def _start(self, message: Start) -> None:
        if self.state is not State.LOADED or self._backend is None:
            raise self._broken("Start")
        try:
            labels = read_labels(message.spec, self._directory)
            self._backend.warm_up(message.spec, samples_follow=bool(message.samples))
            runner = BatchRunner(message.spec, self._backend, self._regions, labels)
            run_samples(message, runner, self._regions, self._directory)
        except BaseException as error:  # noqa: BLE001 - see _load
            self._fail(as_error(error))
            return
        self._runner = runner
        self._become(State.READY)
        gc.collect()
        gc.freeze()  # what was loaded stays: later collections need not look at it
        self._answer(Ready())

    def _stop(self, _message: Stop) -> None:
        self._become(State.STOPPED)

    def _refuse(self, message: BadMessage) -> None:
        raise BrokerError(f"the broker sent what this worker cannot read: {message.reason}", Code.INTERNAL)

    def _fail(self, error: PenstockError) -> None:
        self._has_failed = True
        self._answer(LoadFailed(error.message or type(error).__name__, error.fault, error.code.value))
        self._become(State.STOPPED)

    def _answer(self, message: Message) -> None:
        self._link.put(message)
        self._link.flush(block=True)

    def _become(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state

    def _broken(self, what: str) -> BrokerError:
        return BrokerError(f"the broker sent {what} while this worker was {self.state.value}", Code.INTERNAL)
