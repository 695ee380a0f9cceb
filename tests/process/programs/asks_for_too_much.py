# SPDX-License-Identifier: Apache-2.0
"""A client that gets no memory. Arguments: ADDRESS MODEL, and how many bytes a file of this process may have (0: no limit).

It asks for a slot of the model, says {"error": its text, "fault": whose, "left": what it still holds of shared memory}, then has
a small request served by the model "echo" and says {"y": the answer}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any

import numpy as np

from penstock.clients import Client, PenstockError


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def shared_memory() -> list[str]:
    """What this process holds of it, and what it has left under a name of its own."""
    found = [name for name in os.listdir("/dev/shm") if f"-{os.getpid()}-" in name]
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that lists them
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if "memfd:" in name or "penstock" in name]


def main(address: str, model: str, limit: int) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with Client(address) as client:
        before = shared_memory()
        try:
            client.buffers(model, 1)
        except PenstockError as error:
            say(error=error.message, fault=error.fault, left=[each for each in shared_memory() if each not in before])
        y = client.infer("echo", {"x": np.array([[1, 2]], np.float32)}).outputs["y"]
        say(y=y.tolist())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
