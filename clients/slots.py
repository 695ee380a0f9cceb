# SPDX-License-Identifier: Apache-2.0
"""Slots: the memory of one request at a time, as arrays. Here what all of them share, and those without shared memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from msgspec import Raw

from ..ipc.codec import encode
from ..ipc.errors import CallerError, invalid
from ..ipc.messages import Infer, InputTensor, OutputPlace
from ..ipc.tensors import numpy_dtype
from .asking import Asked
from .models import Array, Classification, Layout, TensorLayout, check_classes
from .pending import Entry
from .regions import Placed
from .results import InferResult, Outputs, outputs_of

NO_OUTPUTS: Mapping[str, Array] = MappingProxyType({})


class Tensors(dict[str, Array]):
    """A slot's arrays by name. They are its memory: to be written in place, and not to be replaced."""

    def __setitem__(self, name: str, _value: object) -> None:
        raise TypeError(f"a slot's arrays are written in place: ...['{name}'][:] = values")

    def __missing__(self, name: str) -> Array:
        raise KeyError(f"this slot has no place for '{name}', only for {list(self)}; outputs of unknown size come with results")


class Slot(ABC):
    """Memory for one request at a time; as often as wanted, and from any thread.

    `inputs` and `outputs` map tensor names to arrays, to be written before and read after. Between the request and its
    release (the result; after a cancel or a timeout the end of the batch) the memory is the worker's: using the slot again
    is refused. Closing it meanwhile is fine.
    """

    def __init__(self, model: str, version: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self.model = model
        self.version = version
        self.inputs = inputs
        self.outputs = outputs
        self.closed = False
        # Popping is atomic, and so decides between two threads without a lock; the same below for giving the memory back.
        self._idle = [True]
        self._owed = [True]

    def __repr__(self) -> str:
        state = "idle" if self._idle else "in flight"
        return f"<{type(self).__name__} of model '{self.model}' {state}{' closed' if self.closed else ''}>"

    def check_invariants(self) -> None:
        """The memory is given back once, and only after close."""
        assert len(self._idle) <= 1 and len(self._owed) <= 1, self
        assert self._owed or (self.closed and self._idle), self

    @property
    def in_flight(self) -> bool:
        """Whether a request has this memory."""
        return not self._idle

    def begin(self) -> None:
        """A request takes the memory. Raises CallerError when another one has it, or the slot is closed."""
        if self.closed:
            raise CallerError(f"model '{self.model}': this slot is closed")
        try:
            self._idle.pop()
        except IndexError:
            raise CallerError(
                f"model '{self.model}': this slot has a request in flight, or one that was given up and is not released yet"
            ) from None
        if self.closed:  # meanwhile, by another thread, which saw it busy and left the rest to us
            self.release()
            raise CallerError(f"model '{self.model}': this slot is closed")

    @abstractmethod
    def infer(self, number: int, asked: Asked) -> tuple[Infer, Sequence[bytes]]:
        """The message that asks for it, and the parts that go with it."""

    def _message(self, number: int, asked: Asked, inputs: Raw, outputs: Raw, parts: int = 0) -> Infer:
        version = self.version if asked.version < 0 else asked.version
        return Infer(
            number, self.model, inputs, outputs, version, asked.deadline_us, asked.principal, asked.explain, parts,
            asked.priority, asked.timeout_us,
        )  # fmt: skip

    @abstractmethod
    def build_result(self, entry: Entry) -> InferResult:
        """What came of the entry's request."""

    def release(self) -> None:
        """No worker can touch the memory any more."""
        self._idle.append(True)
        if self.closed:
            self._settle_up()

    def lose(self) -> None:
        """Whether a worker still touches the memory will never be known."""
        self.release()

    def close(self) -> None:
        """Gives the memory back, as soon as it is released. Idempotent."""
        self.closed = True
        if self._idle:
            self._settle_up()

    def _settle_up(self) -> None:
        try:
            self._owed.pop()
        except IndexError:
            return  # the other of `close` and `release` was first
        self._give_back()

    def _give_back(self) -> None:  # noqa: B027 - private memory needs no giving back
        """Nothing, unless the memory is somebody's."""

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class InlineSlot(Slot):
    """Private memory, for brokers on other machines: tensors travel beside the messages."""

    def __init__(self, layout: Layout, contents: Mapping[str, Array | bytes], outputs: Mapping[str, Array]) -> None:
        arrays = Tensors((name, content) for name, content in contents.items() if not isinstance(content, bytes))
        super().__init__(layout.model, layout.version, arrays, outputs)
        self._contents = contents
        self._inputs_raw = Raw(encode([InputTensor(spec.name, spec.datatype, list(spec.shape)) for spec in layout.inputs]))
        self._outputs_raw = Raw(encode([unplaced(spec) for spec in layout.outputs]))
        self._order = [spec.name for spec in layout.inputs]

    @classmethod
    def for_layout(cls, layout: Layout) -> InlineSlot:
        """With fresh arrays for everything of known size."""
        arrays = Tensors((spec.name, np.zeros(spec.shape, numpy_dtype(spec.datatype))) for spec in layout.inputs)
        placed = [spec for spec in layout.outputs if spec.byte_size >= 0]
        return cls(layout, arrays, Tensors((spec.name, np.zeros(spec.shape, numpy_dtype(spec.datatype))) for spec in placed))

    def infer(self, number: int, asked: Asked) -> tuple[Infer, Sequence[bytes]]:
        """With the inputs' bytes, copied now, as parts."""
        contents = [self._contents[name] for name in self._order]
        parts = [content if isinstance(content, bytes) else content.tobytes() for content in contents]
        return self._message(number, asked, self._inputs_raw, self._outputs_raw, len(parts)), parts

    def build_result(self, entry: Entry) -> InferResult:
        """Outputs of the shape that was foreseen are copied into the slot's own arrays."""
        message = entry.message
        outputs = dict(outputs_of(bytes(message.outputs), NO_OUTPUTS, entry.brought))
        return InferResult(copy_into(self.outputs, outputs), message.version, message.explain)


class PlacedRequest(Slot):
    """A single request whose tensors lie in regions that the caller made and registered."""

    def __init__(self, model: str, version: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | Sequence[str]) -> None:
        super().__init__(model, version, NO_OUTPUTS, NO_OUTPUTS)
        for name, placed in inputs.items():
            if not isinstance(placed, Placed):
                raise invalid(
                    f"model '{model}': either all inputs lie in regions or none; input '{name}' is a {type(placed).__name__}"
                )
        places = [_place(model, name, outputs[name] if isinstance(outputs, Mapping) else None) for name in outputs]
        forms = outputs.values() if isinstance(outputs, Mapping) else ()
        self._memory = {placed.region.name: placed.region.memory for placed in forms if isinstance(placed, Placed)}
        self._regions = [placed.region for placed in inputs.values()]  # which are kept until the result is there
        self._inputs_raw = Raw(encode([_tensor(name, placed) for name, placed in inputs.items()]))
        self._outputs_raw = Raw(encode(places))

    def infer(self, number: int, asked: Asked) -> tuple[Infer, Sequence[bytes]]:
        """Names the regions."""
        return self._message(number, asked, self._inputs_raw, self._outputs_raw), ()

    def build_result(self, entry: Entry) -> InferResult:
        """Views on the caller's regions."""
        message = entry.message
        return InferResult(outputs_of(bytes(message.outputs), self._memory, entry.brought), message.version, message.explain)


def copy_into(arrays: Mapping[str, Array], outputs: Mapping[str, Array]) -> Outputs:
    """`outputs`, with those that fit one of `arrays` copied there and replaced by it."""
    kept = dict(outputs)
    for name, array in arrays.items():
        found = outputs.get(name)
        if found is not None and found.shape == array.shape and found.dtype == array.dtype:
            array[...] = found
            kept[name] = array
    return MappingProxyType(kept)


def _tensor(name: str, placed: Placed) -> InputTensor:
    return InputTensor(name, placed.datatype, list(placed.shape), placed.region.name, placed.offset, placed.byte_size)


def unplaced(spec: TensorLayout) -> OutputPlace:
    """The output wherever the broker puts it, in the form that is wanted."""
    return OutputPlace(spec.name, classification=spec.classes)


def _place(model: str, name: str, placed: Placed | Classification | None) -> OutputPlace:
    if placed is None:
        return OutputPlace(name)
    if isinstance(placed, Classification):
        return OutputPlace(name, classification=check_classes(model, name, placed))
    if not isinstance(placed, Placed):
        raise invalid(
            f"model '{model}': output '{name}' must be None, region.tensor(...) or Classification(n), given is a "
            f"{type(placed).__name__}"
        )
    return OutputPlace(name, placed.region.name, placed.offset, placed.byte_size)
