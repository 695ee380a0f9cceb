# SPDX-License-Identifier: Apache-2.0
"""Ends a process group whose starter was killed, which can end nothing itself: SIGTERM to its leader, then SIGKILL to all.

The first line of standard input is the leader's process; a second one says that the starter has ended the group itself. That
standard input ends before says that the starter is gone. Triton's and mosec's own children outlive their parent's SIGKILL.

usage: watcher.py SECONDS      how long the leader may take
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

POLL_S = 0.05


def is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    leader, has_ended = sys.stdin.readline(), sys.stdin.readline()
    if not leader or has_ended:
        return
    group, deadline = int(leader), time.monotonic() + float(sys.argv[1])
    with suppress(ProcessLookupError):
        os.kill(group, signal.SIGTERM)
        while is_running(group) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
