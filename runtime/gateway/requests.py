# SPDX-License-Identifier: Apache-2.0
"""Inference as both protocols mean it: what a request asks, and what is answered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...ipc.errors import invalid, not_found
from ...ipc.messages import Explanation

Bytes = bytes | bytearray | memoryview
"""Content of a tensor: its elements as KServe's binary tensor data lays them out."""

MOST = 2**63 - 1
"""The largest number in the broker's protocol; no region is that large."""
SIZE_MAX = 2**64 - 1
"""The largest number in Triton's HTTP and in its memory."""


class InRegion(NamedTuple):
    """A tensor's place in a registered region."""

    region: str
    offset: int
    byte_size: int  # of an output: its capacity


class Input(NamedTuple):
    """An input: its content, or where that lies."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: Bytes | InRegion


class Output(NamedTuple):
    """An output that is asked for. Without a place it comes back with the answer."""

    name: str
    place: InRegion | None = None
    classification: int = 0  # Triton's: its best that many classes; 0: the output itself


class InferRequest(NamedTuple):
    """One request. No outputs: all of the model's. `priority` and `timeout_us` as the schedule policy extension has them."""

    model: str
    version: int  # -1: the newest
    id: str
    inputs: Sequence[Input]
    outputs: Sequence[Output] = ()
    priority: int = 0
    timeout_us: int = 0
    parameters: Mapping[str, Any] = {}  # custom ones, and forwarded headers: no backend of this release takes any
    explain: bool = False  # how it was served is to be answered too


def unsigned(value: int) -> int:
    """A priority or a timeout in numbers that the broker takes; as in Triton those below 0 are large ones."""
    return value if 0 <= value <= MOST else MOST


def check_shapes(request: InferRequest) -> None:
    """Raises CallerError, in the words of Triton's core, for dimensions that no tensor has."""
    for given in request.inputs:
        for dim in given.shape:
            if not 0 <= dim <= MOST:
                what = f"input '{given.name}' for model '{request.model}'"
                shape = ",".join(map(str, given.shape))
                if dim < 0:
                    raise invalid(f"All input dimensions should be specified for {what}, got [{shape}]")
                raise invalid(f"{what}: no dimension is larger than {MOST}, got [{shape}]")


class OutputTensor(NamedTuple):
    """An output of an answer. `content` is None when it lies in the region that was asked for."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: memoryview | None


class InferAnswer(NamedTuple):
    """What a request is answered with."""

    model: str
    version: int
    id: str
    outputs: Sequence[OutputTensor]
    explain: Explanation | None = None
    sent_ns: int = 0  # with `explain`: when the request went to the broker, CLOCK_MONOTONIC


def check_range(place: InRegion) -> InRegion:
    """A place in a region in numbers that the broker takes; as in Triton those below 0 are large ones. Raises CallerError."""
    region, offset, byte_size = place.region, place.offset & SIZE_MAX, place.byte_size & SIZE_MAX
    if not region:
        raise not_found("Unable to find shared memory region: ''")
    if offset <= MOST and offset + byte_size > SIZE_MAX:
        raise invalid(
            f"Integer overflow detected: byte_size ({byte_size}) + offset ({offset}) exceeds maximum value ({SIZE_MAX}) "
            f"for region '{region}'"
        )
    return InRegion(region, min(offset, MOST), min(byte_size, MOST))
