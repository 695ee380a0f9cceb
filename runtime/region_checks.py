# SPDX-License-Identifier: Apache-2.0
"""Where a request's tensors may lie: within their regions, where the model reaches them, outputs over nothing else.

Of shared regions Triton's clients ask, who match on its words (its shared_memory_manager.cc): they get those alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..ipc.errors import invalid
from ..ipc.messages import InputTensor, OutputPlace
from .models import ServedModel
from .regions import Names, Region


class Span:
    """A stretch of memory a request uses; two spans of one object must not overlap when one is written."""

    __slots__ = ("begin", "end", "identity", "tensor")

    def __init__(self, tensor: str, region: Region, offset: int, size: int) -> None:
        self.tensor = tensor
        self.identity = region.identity
        self.begin = region.offset + offset
        self.end = self.begin + size


def find_region(names: Names, place: InputTensor | OutputPlace, asker: str, datatype: str) -> Region:
    """The region that a tensor lies in. Raises CallerError: there is none, or it is too small. `asker` is who wants it."""
    region = names.find(place.region, place.shared, asker)
    _check_bounds(asker, region, place)
    _check_kind(asker, region, datatype)
    return region


def _check_bounds(asker: str, region: Region, place: InputTensor | OutputPlace) -> None:
    offset, size = place.offset, place.byte_size
    if offset > region.byte_size or (place.shared and offset == region.byte_size):
        told = f"Invalid offset for shared memory region: '{region.name}'"
        why = f" has {region.byte_size} bytes, offset is {offset}"
    elif offset + size > region.byte_size or (place.shared and size == 0):
        told = f"Invalid offset + byte size for shared memory region: '{region.name}'"
        why = f" has {region.byte_size} bytes, offset {offset} + byte size {size} is {offset + size}"
    else:
        return
    raise invalid(told if place.shared else f"{asker}: {told}{why}")


def _check_kind(asker: str, region: Region, datatype: str) -> None:
    if region.gpu and datatype == "BYTES":
        raise invalid(
            f"{asker}: BYTES cannot lie in CUDA memory, such as region '{region.name}': text is taken apart by the CPU; "
            "use a memfd or system region"
        )


def check_gpus(model: ServedModel, regions: Iterable[Region]) -> None:
    """Raises CallerError for CUDA regions that no instance of the model can reach."""
    on_gpus = [region for region in regions if region.gpu]
    if not on_gpus:
        return
    first = on_gpus[0]
    for other in on_gpus:
        if other.gpu != first.gpu:
            raise invalid(
                f"model '{model.name}': region '{first.name}' lies on {first.gpu}, region '{other.name}' on {other.gpu}: "
                "the CUDA regions of a request must lie on one GPU"
            )
    if not model.gpus:
        raise invalid(
            f"model '{model.name}' runs on the CPU and cannot reach region '{first.name}', CUDA memory on {first.gpu}: use a "
            "memfd or system region, or give the model an instance_group of KIND_GPU"
        )
    if first.gpu not in model.gpus:
        raise invalid(
            f"model '{model.name}' runs on {', '.join(sorted(model.gpus))} and cannot reach region '{first.name}', CUDA memory "
            f"on {first.gpu}: allocate it on a GPU of the model, or use a memfd or system region"
        )


def check_overlaps(model: ServedModel, read: list[Span], written: list[Span]) -> None:
    """Raises CallerError where an output lies over an input or another output."""
    for position, output in enumerate(written):
        for other in read + written[:position]:
            if output.identity == other.identity and max(output.begin, other.begin) < min(output.end, other.end):
                raise invalid(
                    f"model '{model.name}': output '{output.tensor}' overlaps '{other.tensor}' in memory "
                    f"(bytes {output.begin} to {output.end} and {other.begin} to {other.end})"
                )
