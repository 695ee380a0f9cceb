# SPDX-License-Identifier: Apache-2.0
"""Talking to a broker that runs: every failure ends the command with one line and the right exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .failures import CommandFailed, Unreachable, failing_as

if TYPE_CHECKING:
    from ..client import Client


@contextmanager
def connected(address: str | None) -> Iterator[Client]:
    """A client. No connection ends the command with UNREACHABLE, a Penstock error within the block with FAILED."""
    from ..client import Client

    with failing_as(Unreachable):
        client = Client(address)
    with failing_as(CommandFailed), client:
        yield client
