# SPDX-License-Identifier: Apache-2.0
"""Models of files served on a GPU, and requests to them from memory of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from exchanging import POISON, make_region, read_from, write_into

from penstock.clients import Client
from penstock.clients.slots import PlacedRequest

Array = npt.NDArray[np.float32]

CONFIG = """
backend: "{backend}"
max_batch_size: {rows}
input [ {{ name: "{names[0]}" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
output [ {{ name: "{names[1]}" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
instance_group [ {{ kind: KIND_GPU }} ]
{rest}
"""


def add_model(
    repository: Path, backend: str, dim: int, rest: str = "", names: Sequence[str] = ("INPUT__0", "OUTPUT__0"), rows: int = 8,
    model: str = "net",
) -> Path:  # fmt: skip
    """Writes the configuration of a model; where its file belongs is returned."""
    folder = repository / model / "1"
    folder.mkdir(parents=True)
    text = CONFIG.format(backend=backend, rows=rows, names=names, dim=dim, rest=rest)
    (repository / model / "config.pbtxt").write_text(text)
    return folder


def asked(client: Client, memory: str, x: Array, names: Sequence[str] = ("INPUT__0", "OUTPUT__0"), model: str = "net") -> Array:
    """What a model answers to x, in and out of a region of this kind; the input must be as it was."""
    region = make_region(memory, 2 * x.nbytes)
    client.register(region)
    region.unlink()
    try:
        write_into(region, x, 0)
        write_into(region, np.full_like(x, POISON), x.nbytes)
        source, target = (region.tensor("FP32", x.shape, offset) for offset in (0, x.nbytes))
        client.infer(PlacedRequest(model, -1, {names[0]: source}, {names[1]: target}), timeout_s=60.0)
        np.testing.assert_array_equal(read_from(region, x.shape, 0), x)
        return read_from(region, x.shape, x.nbytes)
    finally:
        client.unregister(region.name)
        region.close()
