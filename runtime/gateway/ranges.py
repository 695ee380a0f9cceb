# SPDX-License-Identifier: Apache-2.0
"""Numbers in requests: Triton's have 64 bits, the broker's protocol ends at 2**63 - 1. Pure."""

from __future__ import annotations

from ...ipc.errors import invalid, not_found
from .requests import InferRequest, InRegion

MOST = 2**63 - 1
"""The largest number in the broker's protocol; no region is that large."""
SIZE_MAX = 2**64 - 1


def check_range(place: InRegion) -> InRegion:
    """A place in numbers that the broker takes; as in Triton those below 0 are large ones. Raises CallerError."""
    region, offset, byte_size = place.region, place.offset & SIZE_MAX, place.byte_size & SIZE_MAX
    if not region:
        raise not_found("Unable to find shared memory region: ''")
    if offset <= MOST and offset + byte_size > SIZE_MAX:
        raise invalid(
            f"Integer overflow detected: byte_size ({byte_size}) + offset ({offset}) exceeds maximum value ({SIZE_MAX}) "
            f"for region '{region}'"
        )
    return InRegion(region, min(offset, MOST), min(byte_size, MOST))


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
