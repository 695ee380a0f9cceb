# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of a program of torch: which batches have one, how it is made, and that it computes what the program computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...ipc.errors import ModelError
from ...ipc.messages import ModelSpec
from ..shapes import Shapes
from .device_zeros import largest, own, zero_work
from .on_device import DeviceTensor, DeviceWork, Slot
from .torch_gpu import TorchGpu
from .torch_models import torch

BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Those that Triton captures where no graph_spec says otherwise, and the largest; any other batch is executed plainly."""


class Bucket(NamedTuple):
    """A graph to make: so many rows, for batches of `lower` rows and more, with zeros behind them."""

    lower: int
    rows: int


class TorchGraph(NamedTuple):
    """A graph of one slot: it reads that slot's inputs and writes all its outputs."""

    rows: int
    graph: Any
    inputs: tuple[torch.Tensor, ...]  # all rows of each

    def serves(self, work: DeviceWork) -> bool:
        """Whether the work is what the graph computes."""
        return own(work)

    def replay(self, rows: int) -> None:
        """Computes a batch of so many rows, in the current stream."""
        if rows < self.rows:
            for tensor in self.inputs:
                tensor[rows:].zero_()
        self.graph.replay()


def buckets(spec: ModelSpec) -> list[Bucket]:
    """The graphs that the configuration asks for, smallest first; none where it does not."""
    optimization = spec.optimization
    if not optimization.cuda_graphs:
        return []
    most = largest(spec)
    if optimization.graph_specs:
        asked = {max(1, each.batch_size): max(1, each.lower_batch_size or each.batch_size) for each in optimization.graph_specs}
        return [Bucket(min(lower, rows), rows) for rows, lower in sorted(asked.items()) if rows <= most]
    return [Bucket(rows, rows) for rows in sorted({*BATCH_SIZES, most}) if rows <= most]


def capture(
    spec: ModelSpec, shapes: Shapes, slot: Slot, bucket: Bucket, gpu: TorchGpu, pool: Any,
    run: Callable[[DeviceWork], Sequence[DeviceTensor | None]],
) -> TorchGraph:  # fmt: skip
    """The graph of a batch in a slot, checked against `run`, which executes plainly. The slot's stream is current.

    Raises ModelError where the program cannot be captured, and what torch raises.
    """
    work = zero_work(spec, shapes, slot, bucket.rows)
    if work is None or None in work.places:
        raise ModelError("an input or output has variable dims")
    inputs = tuple(gpu.view(tensor) for tensor in work.inputs if tensor is not None)
    places = [gpu.view(place) for place in work.places if place is not None]
    stream = slot.lane.stream
    for _ in range(3):  # TorchScript compiles in its first executions of a shape, which cannot be captured
        run(work)
    stream.synchronize()
    graph = gpu.capture(lambda: run(work), stream, pool)
    for tensor in inputs:
        _fill(tensor)
    given = [tensor.clone() for tensor in inputs]
    run(work)
    expected = [place.clone() for place in places]
    for tensor, before in zip([*inputs, *places], [*given, *map(torch.zeros_like, places)], strict=True):
        tensor.copy_(before)  # the program may have changed its inputs
    graph.replay()
    stream.synchronize()
    for output, place, value in zip(spec.outputs, places, expected, strict=True):
        if not torch.allclose(place.double(), value.double(), rtol=1e-2, atol=1e-3, equal_nan=True):
            raise ModelError(f"output '{output.name}' differs from that of plain execution")
    return TorchGraph(bucket.rows, graph, inputs)


def _fill(tensor: torch.Tensor) -> None:
    """Something to compare with: noise; zeros where elements may be indices."""
    if tensor.dtype.is_floating_point:
        tensor.copy_(torch.rand(tensor.shape, device=tensor.device))
    else:
        tensor.zero_()
