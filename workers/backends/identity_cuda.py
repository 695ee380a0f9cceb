# SPDX-License-Identifier: Apache-2.0
"""Identity on a GPU: one copy within the device per output, and so the measure of everything around a model.

It is also the smallest backend that keeps the contract of on_device.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ipc.messages import LoadModel, ModelSpec, Signature
from ...ipc.tensors import ITEM_BYTES
from ..devices.cuda import Copy, copy_all
from .identity import Echo
from .on_device import DeviceBackend, DeviceTensor, DeviceWork, Slot

if TYPE_CHECKING:
    from ..devices.cuda import Device


class IdentityCuda(DeviceBackend):
    """Every row of output k is the first elements of the same row of input k."""

    needs_snapshots = False

    def __init__(self) -> None:
        self._echo: Echo | None = None

    def __repr__(self) -> str:
        return f"<IdentityCuda {self._echo!r}>"

    def load(self, order: LoadModel, device: Device) -> Signature | None:  # noqa: ARG002 - nothing of it matters
        """Nothing to load; any configuration that passes `Echo` suits it."""
        return None

    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:  # noqa: ARG002 - nothing to warm
        """Raises CallerError where an output cannot come from its input."""
        self._echo = Echo(spec)

    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Copies into the places. What has none, because its dims are variable, is its input, where that lies."""
        copies: list[Copy] = []
        results: list[DeviceTensor] = []
        for output, place in zip(work.wanted, work.places, strict=True):
            source = work.inputs[output]
            assert self._echo is not None and source is not None, "warmed up, and not optional"
            shape, rows, count = self._echo.cut(output, source.shape)
            if place is None:
                results.append(DeviceTensor(source.address, source.datatype, shape, source.byte_size))
            else:
                copies += _rows(place.address, source, rows, count * ITEM_BYTES[source.datatype])
                results.append(place)
        copy_all(copies, work.slot.lane.stream)
        return results if None in work.places else work.places

    def close(self) -> None:
        """Nothing to give back."""
        self._echo = None


def _rows(address: int, source: DeviceTensor, rows: int, taken: int) -> list[Copy]:
    """The copies of the first `taken` bytes of each row: one where that is all of it."""
    row_bytes = source.byte_size // max(rows, 1)
    if taken == row_bytes:
        return [Copy(address, source.address, source.byte_size)]
    return [Copy(address + row * taken, source.address + row * row_bytes, taken) for row in range(rows)]
