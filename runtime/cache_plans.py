# SPDX-License-Identifier: Apache-2.0
"""What the response cache must know of a placement: where to read a request's inputs, and which regions take its outputs.

Made once per distinct placement (bindings.py), and only for models whose configuration enables the cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from ..ipc.codec import encode
from ..ipc.messages import InputSlice, InputTensor, OutputSlice
from .models import ServedModel
from .regions import Region


class Piece(NamedTuple):
    """One input: what the key says before its bytes, and where those are."""

    prefix: bytes
    region: Region
    offset: int  # in the object behind the region
    byte_size: int


class CachePlan(NamedTuple):
    """Inputs sorted by name, as in Triton's key; `outputs`: per output wanted its region, None where it has no place."""

    inputs: tuple[Piece, ...]
    outputs: tuple[Region | None, ...]
    byte_size: int  # of all inputs

    def key(self) -> bytes | None:
        """The digest of the inputs as they are now. None when they are not all there: a segment was truncated."""
        digest = sha256()
        for prefix, region, offset, byte_size in self.inputs:
            content = os.pread(region.fd, byte_size, offset)
            if len(content) != byte_size:
                return None
            digest.update(prefix)
            digest.update(content)
        return digest.digest()


def cache_plan(
    model: ServedModel,
    tensors: Sequence[InputTensor],
    slices: Sequence[tuple[Region, InputSlice]],
    outputs: Sequence[OutputSlice],
    regions: dict[int, Region],
) -> CachePlan:
    """The plan of a checked placement. `tensors` and `slices` belong together; `regions` are those that it uses.

    Each prefix is self-delimiting and tells its input's byte size, so that no two lists of inputs are the same text. Model,
    version and generation are in all of them: what an earlier load of the model answered is never found. Shapes are in it
    and not in Triton's key, which takes [1,4] and [2,2] of the same bytes for the same request.
    """
    pieces = [
        Piece(
            encode([model.name, model.version, model.number, tensor.name, tensor.shape, piece.byte_size]),
            region,
            region.offset + piece.offset,
            piece.byte_size,
        )
        for tensor, (region, piece) in sorted(zip(tensors, slices, strict=True), key=lambda pair: pair[0].name)
    ]
    return CachePlan(tuple(pieces), tuple(regions.get(place.region) for place in outputs), sum(p.byte_size for p in pieces))
