# SPDX-License-Identifier: Apache-2.0
"""The worker's loop: one message after another, each answered before the next is begun.

Batches on a device are the exception: they are answered when they end, and others come meanwhile (on_gpu/loop.py).
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ipc.codec import BadMessage
from ..ipc.cuda import CudaError, CudaUnavailable
from ..ipc.errors import BrokerError, Code, MachineError, PenstockError
from ..ipc.local import LinkClosed, LocalLink
from ..ipc.messages import (
    Batch,
    BatchDone,
    Loaded,
    LoadFailed,
    LoadModel,
    MapRegion,
    Message,
    Ready,
    RegionUnmapped,
    Start,
    Stop,
    ToWorker,
    UnmapRegion,
)
from ..ipc.processors import occupy
from .batches import BatchRunner, as_error, failed
from .instances import Instance, make_instance
from .region_table import RegionTable

if TYPE_CHECKING:
    from .on_gpu.batches import DeviceRunner
    from .on_gpu.loop import DeviceLoop


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

    def __init__(self, link: LocalLink[ToWorker], make: Callable[[LoadModel], Instance] = make_instance) -> None:
        self._link = link
        self._make = make
        #: how messages are waited for
        self._receive: Callable[[], Sequence[ToWorker | BadMessage]] = partial(link.receive, block=True)
        self.state = State.EMPTY
        self._has_failed = False
        self._has_gpu = False  # it was given one
        #: set from LOADED on
        self._instance: Instance | None = None
        self._directory = ""
        #: set from READY on, the second where batches are in flight while others come
        self._runner: BatchRunner | DeviceRunner | None = None
        self._device_loop: DeviceLoop | None = None
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
        return f"<WorkerLoop {self.state.value}, {self._instance!r}, {self._regions!r}, {self._runner!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when the parts contradict each other."""
        assert (self._runner is not None) == (self.state is State.READY), repr(self)
        self._regions.check_invariants()
        if self._runner is not None:
            self._runner.check_invariants()
        if self._device_loop is not None:
            self._device_loop.check_invariants()

    def run(self) -> bool:
        """Serves; False when the model could not be loaded.

        Raises PenstockError when the broker breaks the protocol; CudaError or CudaUnavailable when the GPU's context is lost.
        """
        try:
            while self._handle_all(self._receive()):
                pass
        except LinkClosed:
            return True  # the broker is gone: nobody is left to answer
        except (CudaError, CudaUnavailable) as error:
            self._lose(error)
            raise
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
        """Gives back the model, the memory and the link: first what may use a part, then the part. Idempotent."""
        self.state = State.STOPPED
        runner, self._runner = self._runner, None
        waiting, self._device_loop = self._device_loop, None
        instance, self._instance = self._instance, None
        with ExitStack() as parts:  # the last first, and each though one before it could not be given back
            parts.callback(self._link.close)
            if instance is not None and instance.device is not None:
                parts.callback(instance.device.close)
            parts.callback(self._regions.close)
            if instance is not None:
                parts.callback(instance.close)
            if waiting is not None:
                parts.callback(waiting.close)
            if runner is not None:
                parts.callback(runner.close)

    # --- messages --------------------------------------------------------------------------------------------------------

    def _execute(self, batch: Batch) -> None:
        runner = self._runner
        if runner is None:
            raise self._broken("a batch")
        report, fds = runner.run(batch)
        self._report(batch, report, fds)  # before the next batch is begun: the scheduler relies on it

    def _report(self, batch: Batch, report: BatchDone, fds: Sequence[int]) -> None:
        """Sends a report with its descriptors, and closes these."""
        try:
            self._link.put(report, fds)
        except PenstockError as error:  # more descriptors than one message or this process may have
            cause = MachineError(f"the outputs of {len(fds)} requests cannot be handed over: {error.message}")
            self._link.put(failed(batch, report.started_ns, cause, report.infer_ns))
        finally:
            for fd in fds:
                os.close(fd)
        self._link.flush(block=True)

    def _lose(self, error: MachineError) -> None:
        """The context is lost: what is in flight is told why; what has not been read yet the broker gives to another worker."""
        if self._device_loop is not None:
            with suppress(LinkClosed):
                self._device_loop.lose(error)

    def _map(self, message: MapRegion) -> None:
        fds = self._link.take_fds(message.fds)
        self._regions.map(message, fds[0] if fds else -1)
        if message.report:
            self._answer(self._regions.report(message.region))

    def _unmap(self, message: UnmapRegion) -> None:
        if self._runner is not None:
            self._runner.forget_region(message.region)
        if self._device_loop is not None:
            self._device_loop.answer()
        self._regions.unmap(message.region)
        if message.report:
            self._answer(RegionUnmapped(message.region))

    def _load(self, order: LoadModel) -> None:
        if self.state is not State.EMPTY:
            raise self._broken("a second LoadModel")
        self._directory = order.directory
        try:
            occupy(order.cpus, order.numa_node)  # first: what the backend starts inherits it
            self._has_gpu = order.gpu is not None
            self._instance = self._make(order)
            self._regions = RegionTable(order.isolate_system_regions, self._instance.device)
            signature = self._instance.load(order)
        except BaseException as error:  # noqa: BLE001 - a model may raise anything; the broker is told why, and this ends
            self._fail(as_error(error))
            return
        self._become(State.LOADED)
        self._answer(Loaded(os.getpid(), signature))

    def _start(self, message: Start) -> None:
        if self.state is not State.LOADED or self._instance is None:
            raise self._broken("Start")
        try:
            self._runner = runner = self._instance.start(message, self._regions, self._directory)
        except BaseException as error:  # noqa: BLE001 - see _load
            self._fail(as_error(error))
            return
        if not isinstance(runner, BatchRunner):
            from .on_gpu.loop import DeviceLoop

            self._device_loop = DeviceLoop(self._link, runner, self._report)
            self._receive = self._device_loop.receive
            self._handlers[Batch] = self._device_loop.submit
            signal.signal(signal.SIGTERM, self._device_loop.terminate)
        self._become(State.READY)
        gc.collect()
        gc.freeze()  # what was loaded stays: later collections need not look at it
        device = self._instance.device
        on_host = self._has_gpu and device is None
        self._answer(Ready(device is not None and device.is_mps, self._instance.describe(), on_host))

    def _stop(self, _message: Stop) -> None:
        if self._device_loop is not None:
            self._device_loop.drain()
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
