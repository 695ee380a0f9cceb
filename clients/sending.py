# SPDX-License-Identifier: Apache-2.0
"""How a request takes its memory and goes out: the same for a thread that then waits and for a task that then awaits."""

from __future__ import annotations

from ..ipc.errors import CallerError, invalid
from .asking import Asked
from .connection import Connection
from .leasing import Inputs, Lease, Wanted
from .pending import Entry


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


def check_slot_call(inputs: Inputs | None, outputs: Wanted) -> None:
    """Raises CallerError for what does not go with a slot."""
    if inputs is not None or outputs is not None:
        raise invalid("a slot has its own inputs and outputs: write slot.inputs, and say what is wanted to buffers()")
