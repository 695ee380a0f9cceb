# SPDX-License-Identifier: Apache-2.0
"""Which GPU a client's CUDA memory lies on. Each process numbers devices as it sees them; a UUID is the same for all."""

from __future__ import annotations

import re

from ..ipc.errors import CallerError, Code, invalid
from ..ipc.gpus import Gpus, is_wsl

UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
INSTEAD = "use a memfd or system region, which instances on GPUs pin"


def uuid_of(gpus: Gpus, device_id: int, region: str) -> str:
    """The UUID of the GPU that the broker's CUDA numbers so. Raises CallerError listing those there are."""
    uuid = gpus.uuid_of(device_id)
    if uuid is None:
        raise invalid(
            f"region '{region}': there is no GPU of device_id {device_id} among those that the broker knows ({gpus.listed()})"
        )
    return uuid


def check_gpu(uuid: str) -> str:
    """A GPU whose memory processes can share. Raises CallerError for another, and for what is no UUID."""
    if not UUID.fullmatch(uuid):
        raise invalid(f"a GPU's uuid looks like GPU-01234567-89ab-cdef-0123-456789abcdef (nvidia-smi -L), got {uuid!r}")
    if uuid.startswith("MIG-"):
        raise CallerError(
            f"CUDA memory of a MIG instance ({uuid}) is not shared between processes: {INSTEAD}", Code.UNSUPPORTED
        )
    if is_wsl():
        raise CallerError(f"CUDA memory cannot be shared between processes under WSL: {INSTEAD}", Code.UNSUPPORTED)
    return uuid
