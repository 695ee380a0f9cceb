# SPDX-License-Identifier: Apache-2.0
"""How a request takes its memory and goes out: the same for a thread that then waits and for a task that then awaits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError

from ..ipc.errors import CallerError, invalid
from ..ipc.messages import Infer
from .asking import Asked, give_up_ns
from .connection import Connection
from .futures import InferFuture
from .leasing import Inputs, Lease, Wanted
from .pending import Entry
from .session import Session
from .slots import Slot


def send(connection: Connection, entry: Entry, lease: Lease, wanted: Asked) -> None:
    """Begins the lease's request and sends it. Raises CallerError, BrokerError: nothing was sent then."""
    begin(lease, connection)
    try:
        message, parts = lease.infer(entry.number, wanted)
        connection.start(entry, message, (), parts)
    except Exception:
        lease.release()
        raise


def begin(lease: Lease, connection: Connection) -> None:
    """The request takes its memory. Raises CallerError when another one has it."""
    try:
        lease.begin()
    except CallerError:
        connection.glance()  # its release may have arrived, and nobody has looked
        lease.begin()


def send_all(session: Session, slots: Iterable[Slot], wanted: Asked, timeout_s: float | None) -> list[InferFuture]:
    """Sends a request for each of the slots, as one frame. All of them, or (with an exception) none."""
    connection = session.live()
    begun: list[Slot] = []
    requests: list[tuple[InferFuture, Infer, Sequence[bytes]]] = []
    try:
        for slot in slots:
            begin(slot, connection)
            begun.append(slot)
            future = InferFuture(connection, next(session.numbers), slot, give_up_ns(timeout_s))
            message, parts = slot.infer(future.number, wanted)
            requests.append((future, message, parts))
        connection.start_all(requests)
    except Exception:
        for slot in begun:
            slot.release()
        raise
    return [future for future, _, _ in requests]


def wait(connection: Connection, entry: Entry) -> None:
    """Waits for the answer. Should that be interrupted, the slot stays quarantined until the broker releases it."""
    try:
        connection.wait(entry)
    except BaseException:
        connection.cancel(entry, CancelledError())  # not what interrupted, which holds the frames that hold the entry
        raise


def check_slot_call(inputs: Inputs | None, outputs: Wanted) -> None:
    """Raises CallerError for what does not go with a slot."""
    if inputs is not None or outputs is not None:
        raise invalid("a slot has its own inputs and outputs: write slot.inputs, and say what is wanted to buffers()")
