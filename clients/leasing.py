# SPDX-License-Identifier: Apache-2.0
"""The memory of requests: slots from pooled regions where broker and client share memory, private arrays where they do not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..ipc.errors import CallerError, Code, invalid
from ..ipc.tensors import numpy_dtype
from .arena import Arena, Broker
from .arrays import AnyArray, device_of, text_content, to_array
from .buffers import SingleUse, SlotPool
from .catalog import Catalog, Model
from .device_arrays import DeviceArray
from .models import Classification, Layout, ModelInfo, TensorInfo, check_inputs, layout_of_arrays
from .regions import Placed, Region, make_region
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
        #: GPU -> its pool; None: that of shared memory
        self._pools: dict[int | None, SlotPool] = {None: self._pool(None)}

    def __repr__(self) -> str:
        return f"<Leasing {', '.join(map(repr, self._pools.values()))}>"

    def check_invariants(self) -> None:
        """Those of the pools."""
        for pool in self._pools.values():
            pool.check_invariants()

    def _pool(self, device: int | None) -> SlotPool:
        return SlotPool(Arena(self._broker, partial(self._add_region, device), self._session.drop))

    def _pool_for(self, layout: Layout) -> SlotPool:
        pool = self._pools.get(layout.device)
        return self._pools.setdefault(layout.device, self._pool(layout.device)) if pool is None else pool

    def met(self, identity: bytes) -> None:
        """The session has met a broker: the same or another."""
        self._broker.meet(identity, self._session.keeps_memory)

    def slot(self, layout: Layout) -> Slot:
        """A slot to be used many times."""
        connection = self._session.live()
        connection.glance()  # slots that were released meanwhile are leased again
        return self.empty(layout, connection.takes_inline_only)

    def empty(self, layout: Layout, inline: bool) -> Slot:
        """The same. Waits for the broker only where the pool lacks room (`lacks`)."""
        if inline:
            _refuse_inline(layout)
        return InlineSlot.for_layout(layout) if inline else self._pool_for(layout).lease(layout)

    def for_request(self, target: Model, inputs: Inputs | None, outputs: Wanted, version: int) -> Lease:
        """The memory of one request, with its inputs in it. Raises CallerError for inputs that do not fit."""
        given = checked(target, inputs)
        if in_regions(given):
            return placed_request(target, given, outputs, version)
        draft = self._catalog.fit(target, version, lambda model: Draft.of(model, given, outputs))
        return self.filled(draft, self._session.live().takes_inline_only)

    def filled(self, draft: Draft, inline: bool) -> Lease:
        """The memory of a request that is drafted. Waits for the broker only where the pool lacks room (`lacks`)."""
        if inline:
            _refuse_inline(draft.layout)
            return InlineSlot(draft.layout, draft.contents, {})
        slot = self._pool_for(draft.layout).lease(draft.layout)
        for name, content in draft.contents.items():
            slot.inputs[name][...] = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        return SingleUse(slot)

    def lacks(self, layout: Layout) -> int:
        """How large a region must be added (`make_region`, registered, `add`) before the pool has a slot of it; 0: none."""
        return self._pool_for(layout).lacks(layout)

    @property
    def epoch(self) -> int:
        """To be read before a region is registered, and given to `add` with it."""
        return self._broker.epoch

    def add(self, layout: Layout, region: Region, epoch: int) -> None:
        """A registered region for the pool of that layout. It loses its name: the broker has it open."""
        region.unlink()
        self._pool_for(layout).add(region, epoch)

    def close(self) -> None:
        """Lets go of the memory, now that the session has ended. Idempotent."""
        for pool in self._pools.values():
            pool.close()

    def make_region(self, device: int | None, byte_size: int) -> Region:
        """A fresh region for a pool, not registered yet."""
        name = f"~{os.urandom(6).hex()}"  # random: a slot used with another client must be refused there, not found
        if device is not None:
            return make_region("cuda", name, byte_size, device)
        return make_region("memfd" if self._session.keeps_memory else "system", name, byte_size)

    def _add_region(self, device: int | None, byte_size: int) -> Region:
        """One that is registered, and has no name that could be left behind."""
        region = self.make_region(device, byte_size)
        try:
            self._session.register(region, pooled=True)
        except BaseException:
            region.close()
            raise
        region.unlink()  # the broker has it open: from here on it dies with its users
        return region


class Draft(NamedTuple):
    """A request whose inputs were checked, before it has memory."""

    layout: Layout
    contents: dict[str, Any]  # arrays, and bytes of BYTES

    @classmethod
    def of(cls, model: ModelInfo, inputs: Inputs, outputs: Wanted) -> Draft:
        """Raises CallerError for inputs that do not fit the model."""
        check_inputs(model, inputs)
        given = [spec for spec in model.inputs if spec.name in inputs]
        arrays = {spec.name: to_array(model, spec, inputs[spec.name]) for spec in given}
        device = device_of(model, arrays)
        contents = {spec.name: _content(model, spec, arrays[spec.name]) for spec in given}
        shapes = {name: array.shape for name, array in arrays.items()}
        return cls(layout_of_arrays(model, contents, shapes, outputs)._replace(device=device), contents)


def _refuse_inline(layout: Layout) -> None:
    if layout.device is not None:
        raise CallerError(
            f"model '{layout.model}': this broker takes tensors inline only, and none from a GPU: copy them to the CPU first",
            Code.UNSUPPORTED,
        )


def checked(target: Model, inputs: Inputs | None) -> Inputs:
    """The inputs of a request for a model, which must have some."""
    if not isinstance(inputs, Mapping):
        why = "are missing" if inputs is None else f"must be a mapping from names to arrays, given is a {type(inputs).__name__}"
        raise invalid(f"model '{target.name if isinstance(target, ModelInfo) else target}': inputs {why}")
    return inputs


def in_regions(inputs: Inputs) -> bool:
    """Whether the inputs lie in regions of the caller's own."""
    return any(isinstance(value, Placed) for value in inputs.values())


def placed_request(target: Model, inputs: Inputs, outputs: Wanted, version: int) -> PlacedRequest:
    """A request with inputs that lie in regions."""
    name, asked = (target.name, target.asked_version) if isinstance(target, ModelInfo) else (target, version)
    return PlacedRequest(name, asked, inputs, () if outputs is None else outputs)


def _content(model: ModelInfo, spec: TensorInfo, array: AnyArray) -> AnyArray | bytes:
    if isinstance(array, DeviceArray):
        return array
    if spec.datatype == "BYTES":
        return text_content(array, f"model '{model.name}': input '{spec.name}'")
    return array.astype(numpy_dtype(spec.datatype), copy=False)  # the machine's byte order
