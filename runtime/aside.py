# SPDX-License-Identifier: Apache-2.0
"""The helper thread: what may block is done there, one job after the other, and its result comes back into the loop.

There is a thread only while there is something to do: a second one would make the loop's give up the interpreter lock now and
then.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..ipc.errors import BrokerError, Code, MachineError, PenstockError
from .event_loop import EventLoop
from .repository.jobs import Job, Tell
from .repository.origins import Moment, Opened

log = logging.getLogger("penstock.broker")

Then = Callable[[Any], None]
"""Gets a job's result, or the PenstockError that it raised."""


class HelperThread:
    """Runs jobs. When it is closed, origins are still told what they were to be told; nothing else is begun."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._executor: ThreadPoolExecutor | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: jobs whose results have not been handed on, in order
        self._running: deque[tuple[Job, Future[Any], Then]] = deque()
        loop.add(self._wake, self._finished)

    def __repr__(self) -> str:
        return f"<HelperThread with {len(self._running)} jobs>"

    def run(self, job: Job, then: Then) -> None:
        """Has a job done; `then` gets its result, from the loop."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "repository")
        future = self._executor.submit(_run, job)
        self._running.append((job, future, then))
        future.add_done_callback(lambda _future: os.eventfd_write(self._wake, 1))

    def _finished(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._running and self._running[0][1].done():
            _, future, then = self._running.popleft()
            if not self._running and self._executor is not None:
                self._executor.shutdown()  # its thread has nothing left to do, and ends at once
                self._executor = None
            then(future.result())

    def close(self) -> None:
        """Waits for the job that has begun, and for what origins are to be told; a model that nobody serves is given up."""
        for job, future, _ in self._running:
            if not isinstance(job, Tell):
                future.cancel()
        if self._executor is not None:
            self._executor.shutdown()
        for _, future, _ in self._running:
            if not future.cancelled() and isinstance(opened := future.result(), Opened):
                opened.origin.become(Moment.LOAD_FAIL)
                opened.origin.tell(Moment.LOAD_FAIL)
        self._loop.remove(self._wake)
        os.close(self._wake)


def _run(job: Job) -> Any:
    """A job may fail in ways that nobody foresaw; no model is to take the broker down with it."""
    try:
        return job.run()
    except PenstockError as error:
        return error
    except OSError as error:
        return MachineError(f"{error.strerror or error}: {error.filename or 'file'}")
    except Exception as error:
        log.exception("%r", job)
        return BrokerError(f"{type(error).__name__}: {error}", Code.INTERNAL)
