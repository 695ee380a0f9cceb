# SPDX-License-Identifier: Apache-2.0
"""Models of files served on a GPU, and requests to them from memory of each kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))  # programs beside each other, and no package

from penstock.clients import Client, MemfdRegion, SystemRegion
from penstock.clients.slots import PlacedRequest

KIND = "KIND_GPU"
MEMORY = ("memfd", "system", "cuda")
Array = npt.NDArray[np.float32]

CONFIG = """
backend: "{backend}"
max_batch_size: {rows}
input [ {{ name: "{names[0]}" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
output [ {{ name: "{names[1]}" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
instance_group [ {{ kind: {kind} }} ]
{rest}
"""


def add_model(
    repository: Path, backend: str, dim: int, rest: str = "", names: Sequence[str] = ("INPUT__0", "OUTPUT__0"), rows: int = 8
) -> Path:
    """Writes the configuration of `net`; where its file belongs is returned."""
    folder = repository / "net" / "1"
    folder.mkdir(parents=True)
    text = CONFIG.format(backend=backend, rows=rows, names=names, dim=dim, kind=KIND, rest=rest)
    (repository / "net" / "config.pbtxt").write_text(text)
    return folder


def asked(client: Client, memory: str, x: Array, names: Sequence[str] = ("INPUT__0", "OUTPUT__0")) -> Array:
    """What `net` answers to x, in and out of a region of this kind; the input must be as it was."""
    region = _region(memory, 2 * x.nbytes)
    client.register(region)
    region.unlink()
    try:
        _write(region, 0, x)
        _write(region, x.nbytes, np.full_like(x, -1e30))
        source, target = (region.tensor("FP32", x.shape, offset) for offset in (0, x.nbytes))
        client.infer(PlacedRequest("net", -1, {names[0]: source}, {names[1]: target}), timeout_s=60.0)
        np.testing.assert_array_equal(_read(region, 0, x), x)
        return _read(region, x.nbytes, x)
    finally:
        client.unregister(region.name)
        region.close()


def _region(memory: str, byte_size: int) -> Any:
    name = f"test-{os.urandom(6).hex()}"
    if memory == "memfd":
        return MemfdRegion(name, byte_size)
    if memory == "system":
        return SystemRegion.create(name, f"penstock-{name}", byte_size)
    from penstock.clients import CudaRegion

    return CudaRegion.allocate(name, byte_size)


def _write(region: Any, offset: int, values: Array) -> None:
    if isinstance(region, MemfdRegion | SystemRegion):
        region.array[offset : offset + values.nbytes] = values.reshape(-1).view(np.uint8)
    else:
        region.write(values, offset)


def _read(region: Any, offset: int, like: Array) -> Array:
    if isinstance(region, MemfdRegion | SystemRegion):
        copy: Array = region.array[offset : offset + like.nbytes].copy().view(np.float32).reshape(like.shape)
        return copy
    found: Array = region.read(offset, np.float32, like.shape)
    return found
