# SPDX-License-Identifier: Apache-2.0
"""What both doors of the test's KServe v2 server share: identity models, regions, counters, and faults on request."""

from __future__ import annotations

import argparse
import mmap
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

EXTENSIONS = ["model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "statistics"]
NS = {"success": 15000, "queue": 1000, "compute_input": 2000, "compute_infer": 3000, "compute_output": 4000}
"""What every request is counted with."""
MODELS = {
    "numbers": ("FP32", [4], 8),
    "strings": ("BYTES", [2], 8),
    "halves": ("BF16", [3], 8),
    "no_batch": ("INT64", [-1], 0),
}
"""name -> datatype and dims of input x and output y, max_batch_size."""
NO_CLIENT_SHM = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."


class Refused(Exception):  # noqa: N818 - it is an answer
    """An answer that says why not. `status`: HTTP's, which gRPC's is told from."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HangUp(Exception):  # noqa: N818
    """The connection is to be closed instead of an answer."""


class Placed(NamedTuple):
    """Where a tensor lies."""

    region: str
    offset: int
    byte_size: int


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: Sequence[int]
    content: bytes | Placed


class KServe:
    """The server behind the doors."""

    def __init__(self, faults: argparse.Namespace) -> None:
        self.faults = faults
        self.released = threading.Event()  # requests that are held may be answered
        self.registered: list[str] = []  # every name that ever was
        self._lock = threading.Lock()
        self._regions: dict[str, mmap.mmap] = {}
        self._requests = 0
        self._succeeded = dict.fromkeys(MODELS, 0)

    def metadata(self) -> dict[str, Any]:
        lacking = {"statistics": self.faults.no_statistics, "model_configuration": self.faults.no_configuration}
        return {"name": "triton", "version": "2.51.0", "extensions": [name for name in EXTENSIONS if not lacking.get(name)]}

    def model(self, name: str) -> dict[str, Any]:
        datatype, dims, most = self._find(name)
        shape = ([-1] if most else []) + dims
        tensors = [{"name": tensor, "datatype": datatype, "shape": shape} for tensor in ("x", "y")]
        return {"name": name, "versions": ["1"], "platform": "python", "inputs": tensors[:1], "outputs": tensors[1:]}

    def configuration(self, name: str) -> dict[str, Any]:
        return {"name": name, "backend": "python", "max_batch_size": self._find(name)[2]}

    def statistics(self, name: str) -> dict[str, Any]:
        self._find(name)
        with self._lock:
            count = self._succeeded[name]
        counted = {key: {"count": count, "ns": count * ns} for key, ns in NS.items()}
        return {"model_stats": [{"name": name, "version": "1", "inference_stats": counted}]}

    def register(self, name: str, key: str, byte_size: int) -> None:
        if self.faults.no_client_shm:
            raise Refused(501, NO_CLIENT_SHM)
        try:
            fd = os.open(f"/dev/shm/{key.lstrip('/')}", os.O_RDWR)
        except OSError:
            raise Refused(500, f"Unable to open shared memory region: '{key}'") from None
        self._regions[name] = mmap.mmap(fd, byte_size)
        os.close(fd)
        self.registered.append(name)

    def register_cuda(self, name: str) -> None:
        raise Refused(400, f"failed to register CUDA shared memory region: '{name}', GPUs not supported")

    def unregister(self, name: str) -> None:
        if self.faults.in_use > 0:
            self.faults.in_use -= 1
            raise Refused(500, f"Cannot unregister shared memory region '{name}', it is currently in use.")
        region = self._regions.pop(name, None)
        if region is not None:
            region.close()

    def regions(self) -> list[str]:
        return sorted(self._regions)

    def infer(self, model: str, tensor: Tensor, place: Placed | None) -> Tensor:
        """The output, whose content is where it was placed. Raises Refused, HangUp."""
        self._find(model)
        with self._lock:
            self._requests += 1
            number = self._requests
        if number == self.faults.fail_nth:
            raise Refused(500, "the model fails this one")
        if number == self.faults.reject_nth:
            raise Refused(503, "Exceeds maximum queue size")
        if number == self.faults.hang_up_nth:
            raise HangUp
        if number == self.faults.hold_nth:
            self.released.wait()
        content = self._read(tensor.content)
        if number == self.faults.garble_nth:
            content = bytes(len(content))
        if place is not None:
            self._regions[place.region][place.offset : place.offset + len(content)] = content
        self._count(model)
        return Tensor("y", tensor.datatype, tensor.shape, content if place is None else place)

    def _read(self, content: bytes | Placed) -> bytes:
        if isinstance(content, bytes):
            return content
        if content.region not in self._regions:
            raise Refused(404, f"Unable to find shared memory region: '{content.region}'")
        return self._regions[content.region][content.offset : content.offset + content.byte_size]

    def _count(self, model: str) -> None:
        def add() -> None:
            with self._lock:
                self._succeeded[model] += 1

        if self.faults.count_late_s:
            timer = threading.Timer(self.faults.count_late_s, add)
            timer.daemon = True
            timer.start()
        else:
            add()

    @staticmethod
    def _find(name: str) -> tuple[str, list[int], int]:
        if name not in MODELS:
            raise Refused(404, f"Request for unknown model: '{name}' is not found")
        return MODELS[name]
