# SPDX-License-Identifier: Apache-2.0
"""From placed requests to one piece of work: which order, which inputs are views, what is gathered, where outputs may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..ipc.errors import PenstockError
from ..ipc.messages import ModelSpec, TensorSpec
from ..ipc.tensors import byte_size, deserialize_bytes, numpy_dtype
from .account import Account
from .backends.base import Tensor, Work
from .devices.host import Scratch, gather, view
from .packing import Run, Span, address_order, merge
from .placements import PlacementCache, Prepared, same_shapes
from .region_table import Octets, RegionTable


class Job:
    """One request on its way through a batch: where it stands in the batch, and its outcome."""

    __slots__ = ("error", "position", "prepared", "texts")

    def __init__(self, position: int, prepared: Prepared) -> None:
        self.position = position
        self.prepared = prepared
        #: input -> its elements, for BYTES
        self.texts: dict[int, Tensor] = {}
        self.error: PenstockError | None = None


class Packed(NamedTuple):
    """Work, and the outputs whose places in it are the requests' own slots."""

    work: Work
    in_place: set[int]


class InputPacker:
    """Builds the Work of requests that are executed together."""

    def __init__(self, spec: ModelSpec, regions: RegionTable, placements: PlacementCache, scratch: Scratch) -> None:
        self._spec = spec
        self._regions = regions
        self._placements = placements
        self._scratch = scratch

    def __repr__(self) -> str:
        return f"<InputPacker of '{self._spec.name}' with {self._scratch!r}>"

    def order(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that can be executed together, by address of their largest input; the others get their error."""
        fitting: list[Job] = []
        for job in jobs:
            job.error = self._read_texts(job) or (fitting and self._misfit(fitting[0], job)) or None
            if job.error is None:
                fitting.append(job)
        if len(fitting) < 2 or not self._spec.inputs:
            return fitting
        sizes = [span.byte_size for span in fitting[0].prepared.spans]
        largest = sizes.index(max(sizes))
        return [fitting[at] for at in address_order([job.prepared.spans[largest] for job in fitting])]

    def pack(self, jobs: Sequence[Job], account: Account) -> Packed:
        """The work for these jobs, in their order. A job whose memory has shrunk gets its error and takes part as zeros."""
        rows_of = [job.prepared.rows for job in jobs]
        inputs = [self._input(index, jobs, sum(rows_of), account) for index in range(len(self._spec.inputs))]
        wanted = tuple(sorted({output for job in jobs for output in job.prepared.targets}))
        places: list[Tensor | None] = []
        in_place: set[int] = set()
        for output in wanted:
            slots = self._slots(output, jobs, sum(rows_of))
            if slots is not None:
                in_place.add(output)
            places.append(self._private(output, sum(rows_of)) if slots is None else slots)
        return Packed(Work(rows_of, inputs, wanted, places, is_kept=False), in_place)

    def _misfit(self, first: Job, job: Job) -> PenstockError | None:
        return same_shapes(first.prepared.shapes, job.prepared.shapes, self._spec)

    def _read_texts(self, job: Job) -> PenstockError | None:
        """Reads BYTES inputs: the bytes first, so that no length can change while they are taken apart."""
        try:
            for index, tensor in enumerate(self._spec.inputs):
                if tensor.datatype == "BYTES":
                    span = job.prepared.spans[index]
                    content = np.empty(span.byte_size, np.uint8)
                    self._regions[span.region].read(span.offset, content)
                    job.texts[index] = deserialize_bytes(content.tobytes(), job.prepared.shapes[index], tensor.name)
        except PenstockError as error:
            return error
        return None

    def _input(self, index: int, jobs: Sequence[Job], rows: int, account: Account) -> Tensor:
        tensor = self._spec.inputs[index]
        if tensor.datatype == "BYTES":
            account.copied("snapshot", len(jobs), sum(job.prepared.spans[index].byte_size for job in jobs))
            texts = [job.texts[index] for job in jobs]
            return texts[0] if len(texts) == 1 else np.concatenate(texts)
        shape = jobs[0].prepared.shapes[index]
        if len(jobs) > 1:
            shape = (rows, *shape[1:])
        spans = [job.prepared.spans[index] for job in jobs]
        runs = merge(spans, self._regions.isolated)
        if len(runs) == 1 and not self._placements.copied[index] and self._regions[runs[0].region].is_mapped:
            return view(self._regions.mapped(runs[0].region), runs[0].offset, numpy_dtype(tensor.datatype), shape)
        total = sum(run.byte_size for run in runs)
        content = self._scratch.take(("input", index), total)
        for first, error in gather(self._regions, runs, content).items():
            jobs[first].error = error
        account.copied("gather" if len(runs) > 1 or not self._placements.copied[index] else "snapshot", len(runs), total)
        return _typed(content, tensor, shape)

    def _slots(self, output: int, jobs: Sequence[Job], rows: int) -> Tensor | None:
        """The requests' own slots as one tensor, where they follow each other like the rows."""
        run = self._common_run(output, jobs)
        if run is None:
            return None
        tensor = self._spec.outputs[output]
        shape = self._placements.full_shape(rows, tensor)
        return view(self._regions.mapped(run.region), run.offset, numpy_dtype(tensor.datatype), shape)

    def _private(self, output: int, rows: int) -> Tensor | None:
        """Private memory for an output; None where its size is not known."""
        tensor = self._spec.outputs[output]
        shape = self._placements.full_shape(rows, tensor)
        total = byte_size(tensor.datatype, shape)
        return None if total is None else _typed(self._scratch.take(("output", output), total), tensor, shape)

    def _common_run(self, output: int, jobs: Sequence[Job]) -> Run | None:
        spans: list[Span] = []
        for job in jobs:
            target = job.prepared.targets.get(output)
            if target is None or target.span is None or target.needed is None:
                return None
            spans.append(target.span)
        runs = merge(spans, self._regions.isolated)
        return runs[0] if len(runs) == 1 and self._regions[runs[0].region].is_mapped else None


def _typed(content: Octets, tensor: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    return content.view(numpy_dtype(tensor.datatype)).reshape(shape)
