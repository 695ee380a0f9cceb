# SPDX-License-Identifier: Apache-2.0
"""The memory that callers keep their tensors in: the three kinds of the demonstration (-m), as regions.

system   a POSIX segment
pinned   sealed memory that instances on a GPU pin when it is registered; over ZeroMQ, which passes no descriptors, a
         POSIX segment, which they pin just as well
gpu      CUDA memory
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from ...ipc import cuda
from ...ipc.errors import CallerError, Code
from ..client import Client
from ..regions import Region, make_region

Memory = Literal["system", "pinned", "gpu"]


def check_memory(memory: Memory) -> None:
    """Raises CallerError for CUDA memory where this machine has no GPU that it could be had from."""
    if memory == "gpu":
        try:
            found = cuda.gpus()
        except cuda.CudaUnavailable as error:
            found, reason = [], error.message
        else:
            reason = "CUDA sees no GPU"
        if not found:
            raise CallerError(
                f"memory gpu cannot be had: {reason}; memory system and memory pinned need no GPU", Code.UNSUPPORTED
            )


@contextmanager
def registered(client: Client, memory: Memory, byte_size: int) -> Iterator[Region]:
    """A region that the client's broker knows within the block, and that nothing is left of after it."""
    with _made(client, memory, byte_size) as region:
        client.register(region)
        region.unlink()
        yield region
        client.unregister(region.name)  # after an error the session ends, and takes it along


def _made(client: Client, memory: Memory, byte_size: int) -> Region:
    name = f"people_detection_{os.getpid()}"  # known by it among the regions of other programs
    if client.address.is_tcp:
        raise CallerError(
            f"{client.address} is no address for shared memory: use unix:///PATH or ipc:///PATH", Code.UNSUPPORTED
        )
    if memory == "gpu":
        return make_region("cuda", name, byte_size)
    return make_region("memfd" if memory == "pinned" and client.address.kind == "local" else "system", name, byte_size)


def why_unpinned(region: dict[str, Any]) -> str:
    """Why no instance has pinned a region, as the broker describes it; empty where one has."""
    if region["pinned_by"]:
        return ""
    refused = "; ".join(f"{instance}: {reason}" for instance, reason in region["refused_by"].items())
    return refused or "only instances on a GPU pin memory, and there is none"
