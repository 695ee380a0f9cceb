# SPDX-License-Identifier: Apache-2.0
"""What the process that builds a TensorRT engine is told and answers, as lines of JSON; which profiles it builds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from ..models import TensorInfo

Dims = tuple[int, ...]


class Range(NamedTuple):
    """The shapes of one input that a profile is for. TensorRT chooses its kernels for `best`."""

    least: Dims
    best: Dims
    most: Dims


class Order(Struct, frozen=True, kw_only=True):
    """Build this. Without `onnx`: only say what there is."""

    onnx: str = ""
    plan: str = ""
    halves: bool = False  # set the FP16 flag, which TensorRT has up to 10
    profiles: tuple[dict[str, Range], ...] = ()  # input -> shapes, batch dimension included; none: every dim is fixed
    workspace_bytes: int = 0  # 0: as much as the GPU has
    timing_cache: str = ""


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line from the builder: how far it is, or, as the last, what came of it."""

    step: str = ""
    error: str = ""
    version: str = ""  # TensorRT's; with it the process is done
    has_fp16_flag: bool = False
    inputs: tuple[TensorInfo, ...] = ()  # of the network, with complete dims
    outputs: tuple[TensorInfo, ...] = ()


def buckets(max_batch_size: int, preferred: Sequence[int]) -> list[tuple[int, int]]:
    """(least, most) rows of each profile: up to each preferred size, and up to the largest batch.

    Together they are all sizes, each once; there is none without a batch dimension.
    """
    if not max_batch_size:
        return []
    ends = sorted({size for size in preferred if size < max_batch_size} | {max_batch_size})
    return list(zip([1, *(end + 1 for end in ends[:-1])], ends, strict=True))


def profiles_of(
    inputs: Sequence[TensorInfo], max_batch_size: int, preferred: Sequence[int], shapes: Mapping[str, Sequence[Dims]]
) -> tuple[dict[str, Range], ...]:
    """A profile per bucket. `shapes`: the dims, without the batch, that an input with variable ones is used with.

    Where an input is used with three shapes or more, the second is what the kernels are chosen for, else the largest.
    """
    if not max_batch_size and not any(-1 in tensor.dims for tensor in inputs):
        return ()
    rows: list[tuple[Dims, Dims]] = [((least,), (most,)) for least, most in buckets(max_batch_size, preferred)]
    return tuple(
        {tensor.name: _range(least, most, shapes.get(tensor.name, (tensor.dims,))) for tensor in inputs}
        for least, most in rows or [((), ())]
    )


def _range(least: Dims, most: Dims, used: Sequence[Dims]) -> Range:
    sizes = list(zip(*used, strict=True))
    largest = tuple(max(each) for each in sizes)
    best = used[1] if len(used) > 2 else largest
    return Range(least + tuple(min(each) for each in sizes), most + tuple(best), most + largest)
