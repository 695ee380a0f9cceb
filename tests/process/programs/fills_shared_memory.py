# SPDX-License-Identifier: Apache-2.0
"""Runs a broker and asks_for_too_much.py against it, on a /dev/shm of 16 MB. To be started in a mount namespace of its own.

Arguments: FOLDER, where a repository `models` is. Says what that program says.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from running import PROGRAMS, RunningBroker


def mount_small_tmpfs() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=16m") != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "/dev/shm")


def main(folder: Path) -> None:
    mount_small_tmpfs()
    with RunningBroker(folder, folder / "models") as broker:
        program = [sys.executable, str(PROGRAMS / "asks_for_too_much.py"), broker.addresses["zmq"], "large", "0"]
        subprocess.run(program, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
