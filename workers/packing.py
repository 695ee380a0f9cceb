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
    region, end, packed_end = -1, -1, 0  # of the run at hand, whose beginnings are below
    offset = start = first = 0
    for at, span in enumerate(spans):
        number, begin, _, byte_size = span
        packed_begin = packed_end if starts is None else starts[at]
        if number != region or begin != end or packed_begin != packed_end or number in apart:
            if at:
                runs.append(Run(region, offset, end - offset, start, first, at - first))
            region, offset, start, first = number, begin, packed_begin, at
        end, packed_end = begin + byte_size, packed_begin + byte_size
    if spans:
        runs.append(Run(region, offset, end - offset, start, first, len(spans) - first))
    return runs


def is_one_run(spans: Sequence[Span], apart: Container[int] = ()) -> bool:
    """Whether `merge` would find one run; says no at the first gap."""
    region, end, _, byte_size = spans[0]
    end += byte_size
    if len(spans) > 1 and region in apart:
        return False
    for number, begin, _, byte_size in spans[1:]:
        if number != region or begin != end:
            return False
        end += byte_size
    return True


def aligned(offset: int, alignment: int = 64) -> int:
    """The next multiple of `alignment` (a cache line) at or after `offset`."""
    return -(-offset // alignment) * alignment
