# SPDX-License-Identifier: Apache-2.0
"""The memory of requests: slots from pooled regions where broker and client share memory, private arrays where they do not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ipc.errors import invalid
from ..ipc.tensors import numpy_dtype, serialize_bytes
from .arena import Arena, Broker
from .buffers import SingleUse, SlotPool
from .catalog import Catalog, Model
from .models import Array, Classification, Layout, ModelInfo, check_inputs, layout_of_arrays, to_array
from .regions import MemfdRegion, Placed, Region, SystemRegion
from .session import Session
from .slots import InlineSlot, PlacedRequest, Slot

Lease = Slot | SingleUse
Inputs = Mapping[str, Any]
Wanted = Mapping[str, Placed | Classification | None] | Sequence[str] | None


class Leasing:
    """A client's slots, whatever they are made of. Thread-safe."""

    def __init__(self, session: Session, catalog: Catalog) -> None:
        self._session = session
        self._catalog = catalog
        self._broker = Broker()
        self._pool = SlotPool(Arena(self._broker, self._add_region, session.drop))

    def __repr__(self) -> str:
        return f"<Leasing {self._pool!r}>"

    def check_invariants(self) -> None:
        """Those of the pool."""
        self._pool.check_invariants()

    def met(self, identity: bytes) -> None:
        """The session has met a broker: the same or another."""
        self._broker.meet(identity, self._session.keeps_memory)

    def slot(self, layout: Layout) -> Slot:
        """A slot to be used many times."""
        if self._is_inline:
            return InlineSlot.for_layout(layout)
        self._session.live().glance()  # slots that were released meanwhile are leased again
        return self._pool.lease(layout)

    def for_request(self, target: Model, inputs: Inputs | None, outputs: Wanted, version: int) -> Lease:
        """The memory of one request, with its inputs in it. Raises CallerError for inputs that do not fit."""
        if inputs is None:
            raise invalid(f"model '{target.name if isinstance(target, ModelInfo) else target}': inputs are missing")
        if any(isinstance(value, Placed) for value in inputs.values()):
            name, asked = (target.name, target.asked_version) if isinstance(target, ModelInfo) else (target, version)
            return PlacedRequest(name, asked, inputs, () if outputs is None else outputs)
        model = self._catalog.find(target, version)
        check_inputs(model, inputs)
        given = [spec for spec in model.inputs if spec.name in inputs]
        arrays = {spec.name: to_array(model, spec, inputs[spec.name]) for spec in given}
        contents = {spec.name: _content(spec.datatype, arrays[spec.name]) for spec in given}
        shapes = {name: array.shape for name, array in arrays.items()}
        layout = layout_of_arrays(model, contents, shapes, outputs)
        if self._is_inline:
            return InlineSlot(layout, contents, {})
        slot = self._pool.lease(layout)
        for name, content in contents.items():
            slot.inputs[name][...] = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        return SingleUse(slot)

    def close(self) -> None:
        """Lets go of the memory, now that the session has ended. Idempotent."""
        self._pool.close()

    @property
    def _is_inline(self) -> bool:
        return self._session.address.is_tcp or self._session.live().welcome.inline_only

    def _add_region(self, byte_size: int) -> Region:
        """A fresh registered region for the pool, without a name that could be left behind."""
        name = f"~{os.urandom(6).hex()}"  # random: a slot used with another client must be refused there, not found
        region: Region
        if self._session.keeps_memory:
            region = MemfdRegion(name, byte_size)
        else:
            region = SystemRegion.create(name, f"penstock-{os.getpid()}-{name[1:]}", byte_size)
        try:
            self._session.register(region, pooled=True)
        except BaseException:
            region.close()
            raise
        region.unlink()  # the broker has it open: from here on it dies with its users
        return region


def _content(datatype: str, array: Array) -> Array | bytes:
    if datatype == "BYTES":
        return serialize_bytes(array.ravel().tolist())
    return array.astype(numpy_dtype(datatype), copy=False)  # the machine's byte order
