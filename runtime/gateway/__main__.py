# SPDX-License-Identifier: Apache-2.0
"""How the broker starts a gateway: the broker's pid is its argument, its settings are in its environment, as JSON."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from io import TextIOWrapper

import msgspec

from ...ipc.errors import PenstockError
from ...ipc.log_lines import write_log
from ...ipc.processes import die_with_parent
from .settings import GatewaySettings


def main(told: str, parent: int) -> None:
    """Serves until it is told to stop, or the broker is gone.

    What it prints is the broker's to log. Its own log lines go where the broker's do, and have their shape already.
    """
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the broker decides what it means
    faulthandler.enable()
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    settings = msgspec.json.decode(told, type=GatewaySettings)
    for fd in (settings.http_fd, settings.log_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    write_log(settings.log, settings.log_fd)
    try:
        from .process import run

        run(settings, print, (signal.SIGTERM,))
    except PenstockError as error:
        sys.exit(error.message)  # on standard error; the status is 1


if __name__ == "__main__":
    main(os.environ.pop("PENSTOCK_GATEWAY_SETTINGS"), int(sys.argv[1]))
