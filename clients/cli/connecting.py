# SPDX-License-Identifier: Apache-2.0
"""Talking to a broker that runs: every failure ends the command with one line and the right exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...ipc.addresses import parse_address
from .failures import CommandFailed, Unreachable, failing_as

if TYPE_CHECKING:
    from ..client import Client

CONNECT_TIMEOUT_S = 3.0


@contextmanager
def connected(address: str | None) -> Iterator[Client]:
    """A client. No connection ends the command as Unreachable, a Penstock error within the block as CommandFailed."""
    from ..client import Client

    with failing_as(Unreachable):
        client = Client(address, name="penstock", connect_timeout_s=_patience_s(address))
    with client:
        with failing_as(Unreachable):
            client.is_ready()  # a client connects when it is first used
        with failing_as(CommandFailed):
            yield client


def _patience_s(address: str | None) -> float:
    """Clients wait for a broker that is being restarted; a command does so only where something suggests that there is one."""
    target = parse_address(address)
    listens = target.is_tcp or os.path.lexists(target.target.removeprefix("ipc://"))
    return CONNECT_TIMEOUT_S if listens else 0.0
