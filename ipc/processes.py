# SPDX-License-Identifier: Apache-2.0
"""Processes that end together: dying with the parent, and pidfds by which a death is seen.

A pidfd becomes readable when its process ends, and names that process even after its number has been given to another;
an end-of-file on a socket does neither, for a forked child keeps the socket open.
"""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """From now on SIGKILL ends this process when its parent does; at once if it already has.

    To be called first thing in a process that the parent's main thread spawned: the signal is sent when the spawning
    *thread* ends (prctl(2)), and a parent that died before this call sends none, hence the look at getppid afterwards.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def open_pidfd(pid: int) -> int:
    """A descriptor, the caller's to close, that becomes readable when the process ends. Raises ProcessLookupError."""
    return os.pidfd_open(pid)
