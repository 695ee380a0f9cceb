# SPDX-License-Identifier: Apache-2.0
"""The loop of a worker on a device, between messages: batches that have ended are answered, and others are let in meanwhile.

What is awaited, a message or the end of a batch, is looked for again and again at first, and slept for after a while: looking
finds it sooner by some microseconds, and costs a core.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic_ns

from ...ipc.codec import BadMessage
from ...ipc.errors import BrokerError, Code, MachineError
from ...ipc.local import LocalLink
from ...ipc.messages import Batch, BatchDone, ToWorker
from ..devices.cuda import Device, Event
from .batches import DeviceRunner

OUTDATED_MS = 1
"""A sleep that only an event which is not awaited any more could end, is this short."""


class Watch:
    """A thread that waits for one event at a time, and announces each. CUDA has no descriptor that could be polled."""

    def __init__(self, device: Device, announce: Callable[[], None]) -> None:
        self._device = device
        self._announce = announce
        #: what it waits for now; None once that is announced
        self.event: Event | None = None
        self._orders: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="penstock-watch", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Watch of {self.event!r}>"

    def begin(self, event: Event) -> None:
        """Waits for an event, when it waits for none."""
        assert self.event is None, repr(self)
        self.event = event
        self._orders.put(event)

    def close(self) -> None:
        """Ends the thread; what it waits for has come, or never will. To be called once."""
        self._orders.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (event := self._orders.get()) is not None:
            with suppress(MachineError):  # whoever asks the event then hears the same, in the thread that can act on it
                self._device.use()
                event.synchronize()
            self.event = None
            self._announce()


class Waiter:
    """Sleeps until the link has something to say or an execution may have ended."""

    def __init__(self, link_fd: int, device: Device) -> None:
        self._device = device
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._both, self._own = select.poll(), select.poll()
        for poll in (self._both, self._own):
            poll.register(self._fd, select.POLLIN)
        self._both.register(link_fd, select.POLLIN)
        #: lane -> its thread
        self._watches: dict[int, Watch] = {}

    def __repr__(self) -> str:
        return f"<Waiter with {list(self._watches.values())}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a thread outlived the descriptor that it announces by."""
        assert self._fd >= 0 or not self._watches, repr(self)

    def sleep(self, awaited: Sequence[tuple[int, Event]], listens: bool) -> None:
        """Until one of the events may have passed, or the link is readable and it listens. It may be neither."""
        outdated = False
        for lane, event in awaited:
            watch = self._watches.get(lane)
            if watch is None:
                watch = self._watches[lane] = Watch(self._device, self._announce)
            if watch.event is None:
                watch.begin(event)
            outdated = outdated or watch.event is not event
        found = (self._both if listens else self._own).poll(OUTDATED_MS if outdated else None)
        if any(fd == self._fd for fd, _ in found):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Ends the threads. Idempotent."""
        if self._fd >= 0:
            for watch in self._watches.values():
                watch.close()
            self._watches.clear()
            os.close(self._fd)
            self._fd = -1

    def _announce(self) -> None:
        os.eventfd_write(self._fd, 1)


class DeviceLoop:
    """Receives for a worker that has batches in flight, and answers them."""

    def __init__(
        self, link: LocalLink[ToWorker], runner: DeviceRunner, report: Callable[[Batch, BatchDone, Sequence[int]], None]
    ) -> None:
        self._link = link
        self._runner = runner
        self._report = report
        self._waiter = Waiter(link.fileno(), runner.device)
        self._spin_ns = runner.spin_ns
        #: when to sleep, unless something comes; 0: something came
        self._sleep_from_ns = 0
        #: it waits for messages alone
        self._is_idle = False
        #: SIGTERM came, and has not ended this process yet
        self._is_terminated = False

    def __repr__(self) -> str:
        return f"<DeviceLoop of {self._runner!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when its waiter contradicts itself."""
        self._waiter.check_invariants()

    def receive(self) -> Sequence[ToWorker | BadMessage]:
        """The next messages; none where only a part is there."""
        self.answer()
        while self._runner.in_flight:
            if self._look(listens=not self._is_terminated):
                return self._link.receive()
        self._is_idle = True
        if self._is_terminated:
            self._die()
        messages = self._link.receive(block=True)
        self._is_idle = False
        return messages

    def terminate(self, *_: object) -> None:
        """Handles SIGTERM: this process dies of it as soon as nothing is in flight, and all is answered.

        A client of an MPS daemon that dies with work in flight can take the others with it (NVIDIA's manual of MPS).
        """
        self._is_terminated = True
        if self._is_idle:
            self._die()

    def submit(self, batch: Batch) -> None:
        """Takes a batch in; waits for room in its lane, answering those that make it.

        Raises BrokerError for a lane that this worker has not.
        """
        if batch.lane not in self._runner.lanes:
            raise BrokerError(f"the broker sent a batch for lane {batch.lane} of {len(self._runner.lanes)}", Code.INTERNAL)
        while not self._runner.has_room(batch.lane):
            self._look(listens=False)
        self._runner.submit(batch)

    def drain(self) -> None:
        """Answers everything that is in flight."""
        self._runner.drain()
        self.answer()

    def answer(self) -> bool:
        """Reports the batches that have ended; whether there were some."""
        ended = self._runner.finished()
        for batch, report, fds in ended:
            self._report(batch, report, fds)
        return bool(ended)

    def lose(self, error: MachineError) -> None:
        """The context is lost: answers what is in flight with that."""
        for batch, report, fds in self._runner.lose(error):
            self._report(batch, report, fds)

    def close(self) -> None:
        """Ends the threads; nothing may be in flight. Idempotent."""
        self._waiter.close()

    @staticmethod
    def _die() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def _look(self, listens: bool) -> bool:
        """Answers what has ended. Else whether the link has something, where it listens; sleeps when it is time to."""
        if self.answer():
            self._sleep_from_ns = 0
            return False
        if listens and self._link.wait(0):
            self._sleep_from_ns = 0
            return True
        now_ns = monotonic_ns()
        if not self._sleep_from_ns:
            self._sleep_from_ns = now_ns + self._spin_ns
        if now_ns >= self._sleep_from_ns:
            self._waiter.sleep(self._runner.awaited(), listens)
        return False
