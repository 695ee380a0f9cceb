# SPDX-License-Identifier: Apache-2.0
"""From placed requests to one piece of work: which order, which inputs are views, what is gathered, where outputs may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..ipc.errors import PenstockError
from ..ipc.messages import ItemResult, ModelSpec, TensorSpec
from ..ipc.tensors import byte_size, deserialize_bytes, elements, numpy_dtype
from .account import Account
from .backends.base import Tensor, Work
from .devices.host import Scratch, gather, view
from .packing import Span, address_order, is_one_run, merge
from .placements import PlacementCache, Prepared, misfit
from .ragged import Shape
from .region_table import Octets, RegionTable


class Job:
    """One request on its way through an execution, and its outcome."""

    __slots__ = ("error", "fd", "item", "prepared", "texts")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        #: its BYTES inputs, by position
        self.texts: dict[int, Tensor] = {}
        #: why it failed alone
        self.error: PenstockError | None = None
        #: its result, where that is not what its placement promised; with the descriptor of its unplaced outputs
        self.item: ItemResult | None = None
        self.fd = -1


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
        self._texts = [index for index, tensor in enumerate(spec.inputs) if tensor.datatype == "BYTES"]

    def __repr__(self) -> str:
        return f"<InputPacker of '{self._spec.name}' with {self._scratch!r}>"

    def order(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that can be executed together, by address of their largest input; the others get their error."""
        fitting: list[Job] = []
        for job in jobs:
            if self._texts:
                job.error = self._read_texts(job)
            if job.error is None:
                if fitting and job.prepared.row_shapes != fitting[0].prepared.row_shapes:
                    job.error = misfit(fitting[0].prepared, job.prepared, self._spec)
                else:
                    fitting.append(job)
        if len(fitting) < 2 or not any(fitting[0].prepared.spans):
            return fitting
        sizes = [0 if span is None else span.byte_size for span in fitting[0].prepared.spans]
        largest = sizes.index(max(sizes))
        return [fitting[at] for at in address_order(spans_of(largest, fitting))]

    def pack(self, jobs: Sequence[Job], account: Account) -> Packed:
        """The work for these jobs, in their order. A job whose memory has shrunk gets its error and takes part as zeros."""
        rows_of = [job.prepared.rows for job in jobs]
        rows = sum(rows_of)
        inputs = [self._input(index, jobs, rows, account) for index in range(len(self._spec.inputs))]
        if self._spec.batch_inputs:
            inputs += self._placements.shapes.computed([job.prepared.shapes for job in jobs])
        sets = {job.prepared.wanted for job in jobs}
        wanted = sets.pop() if len(sets) == 1 else tuple(sorted(set().union(*sets)))
        shapes = [self._placements.shapes.produced(output, rows, inputs) for output in wanted]
        slots = [self._slots(output, jobs, shape) for output, shape in zip(wanted, shapes, strict=True)]
        places = [
            self._private(output, shape) if found is None else found
            for output, shape, found in zip(wanted, shapes, slots, strict=True)
        ]
        in_place = {output for output, found in zip(wanted, slots, strict=True) if found is not None}
        return Packed(Work(rows_of, inputs, wanted, places, is_kept=False), in_place)

    def _read_texts(self, job: Job) -> PenstockError | None:
        """Reads BYTES inputs: the bytes first, so that no length can change while they are taken apart."""
        try:
            for index in self._texts:
                span, shape = job.prepared.spans[index], job.prepared.shapes[index]
                if span is None or shape is None:
                    continue
                content = np.empty(span.byte_size, np.uint8)
                self._regions[span.region].read(span.offset, content)
                name = self._spec.inputs[index].name
                job.texts[index] = deserialize_bytes(content.tobytes(), shape, name, self._spec.name)
        except PenstockError as error:
            return error
        return None

    def _input(self, index: int, jobs: Sequence[Job], rows: int, account: Account) -> Tensor | None:
        tensor = self._spec.inputs[index]
        shape = jobs[0].prepared.shapes[index]
        if shape is None:
            return None  # left out, by all of them
        spans = spans_of(index, jobs)
        if tensor.ragged:
            shape = (sum(elements(each) for job in jobs if (each := job.prepared.shapes[index]) is not None),)
        elif len(jobs) > 1:
            shape = (rows, *shape[1:])
        if tensor.datatype == "BYTES":
            account.copied("snapshot", len(jobs), sum(span.byte_size for span in spans))
            texts = [job.texts[index].reshape(-1) for job in jobs]
            return (texts[0] if len(texts) == 1 else np.concatenate(texts)).reshape(shape)
        runs = merge(spans, self._regions.isolated)
        if len(runs) == 1 and not self._placements.copied[index] and self._regions[runs[0].region].is_mapped:
            return view(self._regions.mapped(runs[0].region), runs[0].offset, numpy_dtype(tensor.datatype), shape)
        total = sum(run.byte_size for run in runs)
        content = self._scratch.take(("input", index), total)
        for first, error in gather(self._regions, runs, content).items():
            jobs[first].error = error
        account.copied("gather" if len(runs) > 1 or not self._placements.copied[index] else "snapshot", len(runs), total)
        return _typed(content, tensor, shape)

    def _slots(self, output: int, jobs: Sequence[Job], shape: Shape) -> Tensor | None:
        """The requests' own slots as one tensor, where they follow each other like the rows."""
        spans: list[Span] = []
        for job in jobs:
            target = job.prepared.targets.get(output)
            if target is None or target.span is None or target.needed is None:
                return None
            spans.append(target.span)
        if not is_one_run(spans, self._regions.isolated) or not self._regions[spans[0].region].is_mapped:
            return None
        dtype = numpy_dtype(self._spec.outputs[output].datatype)
        return view(self._regions.mapped(spans[0].region), spans[0].offset, dtype, shape)

    def _private(self, output: int, shape: Shape) -> Tensor | None:
        """Private memory for an output; None where its size is not known."""
        tensor = self._spec.outputs[output]
        total = byte_size(tensor.datatype, shape)
        return None if total is None else _typed(self._scratch.take(("output", output), total), tensor, shape)


def spans_of(index: int, jobs: Sequence[Job]) -> list[Span]:
    """Where an input of these jobs lies; empty where it was left out, which jobs that fit together agree on."""
    return [span for job in jobs if (span := job.prepared.spans[index]) is not None]


def _typed(content: Octets, tensor: TensorSpec, shape: tuple[int, ...]) -> Tensor:
    return content.view(numpy_dtype(tensor.datatype)).reshape(shape)
