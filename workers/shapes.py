# SPDX-License-Identifier: Apache-2.0
"""The two shapes of a tensor: the one that clients see, and the one that the model takes or gives.

They are the same but for three things: `reshape`, which gives the model other dims of as many elements; ragged inputs, which
reach it as one dimension; and outputs that are split by the shapes of an input, which leave it as one dimension. The bytes are
the same in either shape: nothing is copied because of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..ipc.messages import ModelSpec, TensorSpec
from .backends.base import Tensor
from .ragged import Shape, compute


class Sized(Protocol):
    """A tensor, wherever it lies."""

    @property
    def size(self) -> int:
        """Its elements."""


class Shapes:
    """The shapes of one model's tensors, from either side. Full ones: the batch dimension in front, where the model has one."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._batched = spec.max_batch_size > 0
        positions = {tensor.name: index for index, tensor in enumerate(spec.inputs)}
        #: (what is computed for each execution, the input whose shapes it is computed from)
        self._computed = [(what, positions[what.source]) for what in spec.batch_inputs]
        #: output -> the input by whose shapes it is split
        self.sources = {output: positions[t.shaped_as] for output, t in enumerate(spec.outputs) if t.shaped_as}
        #: what Work.inputs holds: the inputs of the spec, then those that are computed
        self.model_inputs = spec.inputs + [
            TensorSpec(target, what.datatype, [-1]) for what in spec.batch_inputs for target in what.targets
        ]

    def __repr__(self) -> str:
        return f"<Shapes of '{self._spec.name}', {len(self._computed)} computed, outputs split by {self.sources}>"

    def full(self, rows: int, dims: Sequence[int]) -> Shape:
        """Dims with the batch dimension."""
        return (rows, *dims) if self._batched else tuple(dims)

    # --- inputs ----------------------------------------------------------------------------------------------------------

    def taken(self, index: int, shape: Shape) -> Shape:
        """The shape that the model sees of an input of this shape (of one request: ragged inputs are not flat yet)."""
        tensor = self._spec.inputs[index]
        return shape if tensor.reshape is None else self._translated(shape, tensor.dims, tensor.reshape)

    def computed(self, requests: Sequence[Sequence[Shape | None]]) -> list[Tensor]:
        """The batch inputs, from the shapes (as `taken`) of all inputs of all requests, in the order of execution."""
        values: list[Tensor] = []
        for what, source in self._computed:
            value = compute(what, [shape for shapes in requests if (shape := shapes[source]) is not None], self._batched)
            values += [value] * len(what.targets)
        return values

    def work_inputs(self, contents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """One request's arrays, shaped as clients shape them, as Work.inputs has them."""
        inputs: list[Tensor | None] = []
        shapes: list[Shape | None] = []
        for index, content in enumerate(contents):
            shape = None if content is None else self.taken(index, content.shape)
            shapes.append(shape)
            is_ragged = self._spec.inputs[index].ragged
            inputs.append(None if content is None else content.reshape(-1 if is_ragged else shape))
        return inputs + self.computed([shapes])

    # --- outputs ---------------------------------------------------------------------------------------------------------

    def produced(self, output: int, rows: int, inputs: Sequence[Sized | None]) -> Shape:
        """The shape that the model gives an output of one execution with these inputs; -1 where only execution tells."""
        source = self.sources.get(output)
        if source is not None:
            content = inputs[source]
            assert content is not None, "the configuration refuses a source that may be left out"
            return (content.size,)
        tensor = self._spec.outputs[output]
        return self.full(rows, tensor.dims if tensor.reshape is None else tensor.reshape)

    def replied(self, output: int, rows: int, inputs: Sequence[Shape | None]) -> Shape:
        """The shape in which one request, whose inputs have these shapes, gets an output; -1 where only execution tells."""
        source = self.sources.get(output)
        if source is not None:
            shape = inputs[source]
            assert shape is not None, "the configuration refuses a source that may be left out"
            return shape
        return self.full(rows, self._spec.outputs[output].dims)

    def given(self, output: int, shape: Shape) -> Shape:
        """The shape in which clients get an output that the model gave in this one."""
        tensor = self._spec.outputs[output]
        return shape if tensor.reshape is None else self._translated(shape, tensor.reshape, tensor.dims)

    def _translated(self, shape: Shape, before: Sequence[int], after: Sequence[int]) -> Shape:
        """`shape`, which has the dims `before`, with the dims `after`: variable ones keep their order and their size."""
        lead = 1 if self._batched else 0
        variable = iter([size for dim, size in zip(before, shape[lead:], strict=True) if dim < 0])
        return (*shape[:lead], *(next(variable) if dim < 0 else dim for dim in after))
