# SPDX-License-Identifier: Apache-2.0
"""Requests in memory of each kind, filled, poisoned and read alike."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.clients import Client, CudaRegion, MemfdRegion, SystemRegion
from penstock.clients.regions import Region
from penstock.clients.slots import PlacedRequest

Array = npt.NDArray[np.float32]
KINDS = ("memfd", "system", "cuda")
POISON = -1e30


def make_region(kind: str, byte_size: int) -> Region:
    """Memory of one's own, not registered."""
    name = f"test-{os.urandom(6).hex()}"
    if kind == "memfd":
        return MemfdRegion(name, byte_size)
    if kind == "system":
        return SystemRegion.create(name, f"penstock-{name}", byte_size)
    return CudaRegion.allocate(name, byte_size)


def write_into(region: Region, values: Array, offset: int) -> None:
    if isinstance(region, CudaRegion):
        region.write(values, offset)
    else:
        region.array[offset : offset + values.nbytes] = values.reshape(-1).view(np.uint8)


def read_from(region: Region, shape: tuple[int, ...], offset: int) -> Array:
    if isinstance(region, CudaRegion):
        return region.read(offset, np.float32, shape)
    end = offset + math.prod(shape) * np.dtype(np.float32).itemsize
    return region.array[offset:end].view(np.float32).reshape(shape).copy()


class Exchange:
    """One request to an identity model, and the region that it has for itself. A context manager."""

    def __init__(self, client: Client, model: str, kind: str, shape: tuple[int, ...], seed: int = 0) -> None:
        self._client = client
        self.x: Array = np.random.default_rng(seed).random(shape, np.float32)
        self.region = make_region(kind, 2 * self.x.nbytes)
        client.register(self.region)
        self.region.unlink()
        self._is_registered = True
        self.write(self.x)
        tensors = [self.region.tensor("FP32", shape, offset) for offset in (0, self.x.nbytes)]
        self.request = PlacedRequest(model, -1, {"INPUT__0": tensors[0]}, {"OUTPUT__0": tensors[1]})

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()
        self.region.close()

    def unregister(self) -> None:
        """Takes the region away from the broker; once."""
        if self._is_registered:
            self._is_registered = False
            self._client.unregister(self.region.name)

    def infer(self, **options: Any) -> Any:
        """Sends the request and looks whether what comes back is what was sent."""
        self.poison()
        result = self._client.infer(self.request, **options)
        self.check()
        return result

    def poison(self) -> None:
        self.write(np.full_like(self.x, POISON), self.x.nbytes)

    def check(self) -> None:
        np.testing.assert_array_equal(self.read(), self.x)

    def write(self, values: Array, offset: int = 0) -> None:
        write_into(self.region, values, offset)

    def read(self) -> Array:
        """The output."""
        return read_from(self.region, self.x.shape, self.x.nbytes)
