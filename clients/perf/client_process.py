# SPDX-License-Identifier: Apache-2.0
"""One of several client processes that share a load, with a target of its own.

    parent --socketpair: orders.py--> this process --the same: answers--> parent

usage: python -m penstock.clients.perf.client_process FD PARENT      (a socket of the parent's, and its pid)

It ends when the parent hangs up, and with the parent.
"""

from __future__ import annotations

import sys
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any

from ...ipc.errors import PenstockError
from ...ipc.processes import die_with_parent
from .generating import Loop, loop_of
from .load import Load, Stint
from .orders import Prepare, Release, WarmUp
from .target import Target
from .targets import open_target


def main(fd: int, parent_pid: int) -> None:
    """Until the parent hangs up, or something fails."""
    die_with_parent(parent_pid)
    with Connection(fd) as parent:
        try:
            with closing(open_target(parent.recv())) as target:
                parent.send(None)
                while True:
                    _measure(parent, target, parent.recv())
        except PenstockError as error:
            parent.send(error)
        except (EOFError, ConnectionError):
            return  # the parent is done


def _measure(parent: Connection[Any, Any], target: Target, wanted: Prepare) -> None:
    with loop_of(target, wanted.plan, wanted.point, wanted.share) as loop:
        parent.send(None)
        while not isinstance(order := parent.recv(), Release):
            parent.send(_done(loop, order))
    parent.send(None)


def _done(loop: Loop, order: WarmUp | Stint) -> Load:
    return loop.warm_up(order.requests) if isinstance(order, WarmUp) else loop.run(order)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
