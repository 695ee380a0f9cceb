# SPDX-License-Identifier: Apache-2.0
"""What a message to the broker can carry of a request. Triton's numbers have 64 bits, those of the broker's protocol 63. Pure.

What it cannot carry is refused here, to who asked: a frame that is too large would cost the gateway its connection, and all
others their requests.
"""

from __future__ import annotations

from collections.abc import Sized

from ...ipc.errors import invalid, not_found
from .requests import InferRequest, InRegion
from .unknown_models import LONGEST_NAME

MOST = 2**63 - 1
"""The largest number in the broker's protocol; no region is that large."""
SIZE_MAX = 2**64 - 1
MOST_TENSORS = 256
"""Inputs, and outputs, of a request."""
MOST_DIMS = 32


def check_range(place: InRegion) -> InRegion:
    """A place in numbers that the broker takes; as in Triton those below 0 are large ones. Raises CallerError."""
    region, offset, byte_size = place.region, place.offset & SIZE_MAX, place.byte_size & SIZE_MAX
    if not region:
        raise not_found("Unable to find shared memory region: ''")
    if len(region) > LONGEST_NAME:
        raise not_found(f"Unable to find shared memory region: '{region[:LONGEST_NAME]}...'")
    if offset <= MOST and offset + byte_size > SIZE_MAX:
        raise invalid(
            f"Integer overflow detected: byte_size ({byte_size}) + offset ({offset}) exceeds maximum value ({SIZE_MAX}) "
            f"for region '{region}'"
        )
    return InRegion(region, min(offset, MOST), min(byte_size, MOST))


def unsigned(value: int) -> int:
    """A priority or a timeout in numbers that the broker takes; as in Triton those below 0 are large ones."""
    return value if 0 <= value <= MOST else MOST


def check_count(tensors: Sized, kind: str, model: str) -> None:
    """Raises CallerError for more inputs, or outputs, than a request has. `kind`: which of them."""
    if len(tensors) > MOST_TENSORS:
        raise invalid(f"model '{model}': at most {MOST_TENSORS} {kind} per request, got {len(tensors)}")


def check_tensors(request: InferRequest) -> None:
    """Raises CallerError, in the words of Triton's core where it has some, for tensors that no model has."""
    check_count(request.inputs, "inputs", request.model)
    check_count(request.outputs, "outputs", request.model)
    for given in request.inputs:
        _check_name(given.name, "input", request.model)
        what = f"input '{given.name}' for model '{request.model}'"
        if len(given.shape) > MOST_DIMS:
            raise invalid(f"{what}: at most {MOST_DIMS} dimensions are taken, got {len(given.shape)}")
        for dim in given.shape:
            if not 0 <= dim <= MOST:
                shape = ",".join(map(str, given.shape))
                if dim < 0:
                    raise invalid(f"All input dimensions should be specified for {what}, got [{shape}]")
                raise invalid(f"{what}: no dimension is larger than {MOST}, got [{shape}]")
    for wanted in request.outputs:
        _check_name(wanted.name, "output", request.model)


def _check_name(name: str, kind: str, model: str) -> None:
    if not name:  # of an output it would mean room (ipc/messages/from_client.py), which is the gateway's to offer
        raise invalid(f"unexpected inference {kind} '' for model '{model}'")
    if len(name) > LONGEST_NAME:
        raise invalid(f"unexpected inference {kind} '{name[:LONGEST_NAME]}...' for model '{model}'")
