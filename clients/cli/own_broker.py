# SPDX-License-Identifier: Apache-2.0
"""A broker that a command starts for itself, on sockets of its own, and ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .children import Child, Children, hear, interrupted_once

STARTS_WITHIN_S = 600.0
"""More than a model takes that builds its engines when it is loaded, or that is loaded while others have the machine. One that
ends early is noticed at once."""


def start_broker(children: Children, repository: Path, addresses: Sequence[str]) -> Child:
    """Starts it; it says when it is ready (`hear_ready`)."""
    listening = [word for address in addresses for word in ("--address", address)]
    return children.start(
        "penstock.clients.cli", "serve", str(repository), *listening, "--fallback", "cpu", "--log-level", "warning", "--json"
    )


def hear_ready(broker: Child) -> dict[str, Any]:
    """Waits until every model is loaded, or has failed to; what the broker says then. Raises CommandFailed."""
    said: dict[str, Any] = json.loads(hear(broker, STARTS_WITHIN_S))
    return said


def own_addresses(folder: str) -> tuple[str, str]:
    """Sockets for both links in a folder."""
    return f"unix://{folder}/broker.sock", f"ipc://{folder}/broker.zmq"


@contextmanager
def own_broker(repository: Path) -> Iterator[tuple[str, str]]:
    """Serves a repository until the block ends; the addresses, the local link's first.

    Should this process be killed, its broker dies with it, and the next broker of this user removes the folder of sockets.
    """
    from ...runtime.repository.private_directories import PrivateDirectory

    with interrupted_once(), closing(PrivateDirectory.create(0)) as folder, Children() as children:
        addresses = own_addresses(str(folder.path))
        hear_ready(start_broker(children, repository, addresses))
        yield addresses
