# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a batch lie, and therefore what must be copied. Pure: spans in, runs out; no memory is touched.

Requests of a batch may be executed in any order. Sorted by address, neighbours merge into runs: one run is a tensor that is
already there (a view, no copy); more runs are gathered or scattered by one copy each.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Bytes of one request's tensor: `address` is in this process, `offset` in the region."""

    region: int
    offset: int
    address: int
    byte_size: int


class Run(NamedTuple):
    """The spans `first` to `first + spans`, whose bytes follow each other without a gap, in one region and when packed.

    `start` is where the run begins in the packed tensor.
    """

    region: int
    offset: int
    byte_size: int
    start: int
    first: int
    spans: int


def address_order(spans: Sequence[Span]) -> list[int]:
    """The positions of `spans` sorted by address; equal addresses keep their order."""
    addresses = [span.address for span in spans]
    return sorted(range(len(addresses)), key=addresses.__getitem__)


def merge(spans: Sequence[Span], apart: Container[int] = (), starts: Sequence[int] | None = None) -> list[Run]:
    """The runs of `spans`, in the order given. Spans of regions in `apart` stay alone.

    `starts` says where each lies in the packed tensor, when it has gaps; by default they follow each other there. Two
    mappings may happen to touch in the address space: only bytes of the same region are ever one run.
    """
    runs: list[Run] = []
    position = 0
    for at, span in enumerate(spans):
        start = position if starts is None else starts[at]
        position = start + span.byte_size
        if runs:
            last = runs[-1]
            follows = last.region == span.region and last.offset + last.byte_size == span.offset
            if follows and last.start + last.byte_size == start and span.region not in apart:
                runs[-1] = last._replace(byte_size=last.byte_size + span.byte_size, spans=last.spans + 1)
                continue
        runs.append(Run(span.region, span.offset, span.byte_size, start, at, 1))
    return runs


def aligned(offset: int, alignment: int = 64) -> int:
    """The next multiple of `alignment` (a cache line) at or after `offset`."""
    return -(-offset // alignment) * alignment
