# SPDX-License-Identifier: Apache-2.0
"""For which shapes CUDA graphs are made, and which batches each of them serves. Pure.

A graph has fixed shapes. Sizes of 1, 2, 4, 8 and so on up to the largest batch, those that the dynamic batcher prefers, and
those that the configuration asks for: a batch is served by the next larger graph, with zeros behind its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ....ipc.errors import CallerError, Code, PenstockError, invalid
from ....ipc.messages import GraphSpec, ModelSpec, TensorSpec
from .profiles import Shape, Shapes


class Bucket(NamedTuple):
    """The shapes of one graph."""

    rows: int  # 0: the model has no batch dimension
    lowest: int  # the smallest batch that it serves
    dims: tuple[Shape, ...]  # of each input of the model, without the batch dimension

    def shapes(self, rows: int) -> Shapes:
        """Those of all inputs for a batch of so many rows."""
        return tuple((rows, *dims) if self.rows else dims for dims in self.dims)

    def __str__(self) -> str:
        return f"batch {self.rows}" if self.rows else "no batch dimension"


def batch_sizes(max_batch_size: int, preferred: Sequence[int]) -> list[int]:
    """Powers of two, the largest batch and the preferred ones, ascending; [0] without a batch dimension."""
    if not max_batch_size:
        return [0]
    powers = {1 << exponent for exponent in range(max_batch_size.bit_length())}
    return sorted(powers | {max_batch_size} | {size for size in preferred if 0 < size <= max_batch_size})


def buckets(spec: ModelSpec, model_inputs: Sequence[TensorSpec]) -> list[Bucket]:
    """The graphs of a model, smallest first: those of its own accord where all dims are fixed, and those asked for.

    `model_inputs` as workers/shapes.py has them. None for a model whose inputs are ragged or computed: their length differs
    from batch to batch. Raises CallerError for a graph_spec that cannot be.
    """
    if spec.batch_inputs or any(tensor.ragged for tensor in spec.inputs):
        return []
    asked = [_asked_for(graph, spec, model_inputs) for graph in spec.optimization.graph_specs]
    fixed = [_dims(tensor) for tensor in model_inputs]
    if any(-1 in dims for dims in fixed):
        return sorted(asked)
    preferred = [*spec.optimization.preferred_batch_sizes, *(bucket.rows for bucket in asked)]
    sizes = batch_sizes(spec.max_batch_size, preferred)
    return [Bucket(size, below + 1 if size else 0, tuple(fixed)) for below, size in zip([0, *sizes], sizes, strict=False)]


def _dims(tensor: TensorSpec) -> Shape:
    return tuple(tensor.dims if tensor.reshape is None else tensor.reshape)


def _asked_for(graph: GraphSpec, spec: ModelSpec, model_inputs: Sequence[TensorSpec]) -> Bucket:
    if not (0 < graph.batch_size <= spec.max_batch_size or graph.batch_size == spec.max_batch_size == 0):
        raise _refused(spec, graph, f"its batch_size must be from 1 to max_batch_size {spec.max_batch_size}")
    if graph.lower_batch_size > graph.batch_size:
        raise _refused(spec, graph, f"its lower bound {graph.lower_batch_size} is above it")
    unknown = sorted(set(graph.inputs) - {tensor.name for tensor in model_inputs})
    if unknown:
        raise _refused(spec, graph, f"the model has no input '{unknown[0]}'")
    dims = tuple(_asked_dims(graph, spec, tensor) for tensor in model_inputs)
    for name, lower in graph.lower_inputs.items():
        if lower != graph.inputs.get(name, lower):
            raise CallerError(
                f"model '{spec.name}': graph_spec of batch_size {graph.batch_size}: its lower bound gives input '{name}' other "
                "dims; a graph can serve smaller batches, but not smaller dims, whose elements lie elsewhere",
                Code.UNSUPPORTED,
            )
    return Bucket(graph.batch_size, graph.lower_batch_size or graph.batch_size, dims)


def _asked_dims(graph: GraphSpec, spec: ModelSpec, tensor: TensorSpec) -> Shape:
    own = _dims(tensor)
    given = tuple(graph.inputs.get(tensor.name, own))
    fits = len(given) == len(own) and all(have in (want, -1) and want >= 0 for want, have in zip(given, own, strict=True))
    if not fits:
        raise _refused(spec, graph, f"input '{tensor.name}' needs dims without -1 that fit {list(own)}, got {list(given)}")
    return given


def _refused(spec: ModelSpec, graph: GraphSpec, reason: str) -> PenstockError:
    return invalid(f"model '{spec.name}': graph_spec of batch_size {graph.batch_size}: {reason}")
