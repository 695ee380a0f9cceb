# SPDX-License-Identifier: Apache-2.0
"""From what a backend computed to where it is wanted: nothing to do for slots it filled, else slots or a memfd per request."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np

from ..ipc.errors import MachineError, ModelError, PenstockError
from ..ipc.messages import ItemOutput, ItemResult, ModelSpec
from ..ipc.regions import create_memfd
from ..ipc.tensors import elements, numpy_dtype, serialize_bytes
from .account import Account
from .backends.base import Tensor, Work
from .classification import Labels, classify
from .devices.host import scatter
from .inputs import Job, Packed
from .packing import Span, aligned, merge
from .placements import PlacementCache, Prepared, too_small
from .ragged import Shape
from .region_table import Octets, RegionTable


class Share(NamedTuple):
    """One output, divided among the jobs: per job its shape, where its bytes begin, and how many there are."""

    shapes: list[list[int]]
    starts: list[int]
    sizes: list[int]
    packed: Octets


NO_CONTENT: Octets = np.empty(0, np.uint8)
"""The `packed` of an output that has not to be touched here."""


class OutputWriter:
    """Checks and delivers the results of one execution."""

    def __init__(self, spec: ModelSpec, regions: RegionTable, placements: PlacementCache, labels: Labels) -> None:
        self._spec = spec
        self._regions = regions
        self._placements = placements
        self._labels = labels

    def __repr__(self) -> str:
        return f"<OutputWriter of '{self._spec.name}'>"

    def checked(self, work: Work, results: Sequence[Tensor | None]) -> list[Tensor]:
        """The results, complete and of the right datatype and shape. Raises ModelError."""
        if len(results) != len(work.wanted):
            raise ModelError(f"returned {len(results)} outputs, {len(work.wanted)} were asked for")
        return [
            result if result is not None and result is place else self._checked(output, result, work)
            for output, result, place in zip(work.wanted, results, work.places, strict=True)
        ]

    def deliver(self, jobs: Sequence[Job], packed: Packed, results: Sequence[Tensor], account: Account) -> None:
        """Writes every job's outputs to its slots, unplaced ones to a memfd; leaves each job its error or its result."""
        work, in_place = packed
        is_promised = all(job.prepared.is_complete for job in jobs)
        shares: dict[int, Share] = {}
        for output, result, place in zip(work.wanted, results, work.places, strict=True):
            is_there = result is place and output in in_place
            if is_there and is_promised:
                continue
            share = shares[output] = self._share(output, jobs, result)
            if not is_promised:
                self.check_room(output, jobs, share)
            if not is_there:
                self.write(output, jobs, share, account)
        if not is_promised:
            for at, job in enumerate(jobs):
                self.finish(at, job, shares, account)

    def as_promised(self, prepared: Prepared) -> ItemResult:
        """The result of a request that got just what its placement says."""
        outputs: list[ItemOutput] = []
        for output, target in prepared.targets.items():
            assert target.span is not None and target.needed is not None, "promised only when complete"
            outputs.append(ItemOutput(output, list(target.shape), target.needed, target.span.offset))
        return ItemResult(outputs=outputs)

    def _checked(self, output: int, result: Tensor | None, work: Work) -> Tensor:
        tensor = self._spec.outputs[output]
        if result is None:
            raise ModelError(f"returned nothing for output '{tensor.name}'")
        if tensor.shaped_as:
            result = result.reshape(-1)
        expected = self._placements.shapes.produced(output, sum(work.rows_of), work.inputs)
        dtype = numpy_dtype(tensor.datatype)
        fits = result.dtype == dtype or (dtype.kind == "O" and result.dtype.kind in "SU")
        if (
            not fits
            or result.ndim != len(expected)
            or any(want not in (-1, dim) for want, dim in zip(expected, result.shape, strict=True))
        ):
            raise ModelError(
                f"returned output '{tensor.name}' as {result.dtype} {list(result.shape)}, "
                f"its configuration says {tensor.datatype} {list(expected)}"
            )
        return result

    def _share(self, output: int, jobs: Sequence[Job], result: Tensor) -> Share:
        if self._spec.outputs[output].datatype != "BYTES":
            share = self.divided(output, jobs, result.shape, result.itemsize)
            return share._replace(packed=np.ascontiguousarray(result).reshape(-1).view(np.uint8))
        shapes = self._shapes(output, jobs, result.shape)
        values = iter(result.ravel().tolist())
        texts = [serialize_bytes(islice(values, elements(shape))) for shape in shapes]
        sizes = [len(text) for text in texts]
        return Share(shapes, _starts(sizes), sizes, np.frombuffer(b"".join(texts), np.uint8))

    def divided(self, output: int, jobs: Sequence[Job], shape: Shape, item_bytes: int) -> Share:
        """The shares of an output that was computed in `shape`, but for its content."""
        shapes = self._shapes(output, jobs, shape)
        if len(jobs) == 1 or output in self._placements.shapes.sources:
            sizes = [item_bytes * elements(each) for each in shapes]
        else:
            row_bytes = item_bytes * elements(shape[1:])
            sizes = [job.prepared.rows * row_bytes for job in jobs]
        return Share(shapes, _starts(sizes), sizes, NO_CONTENT)

    def _shapes(self, output: int, jobs: Sequence[Job], shape: Shape) -> list[list[int]]:
        """The shape that each job gets of an output that was computed in `shape`."""
        known = self._placements.shapes
        if output in known.sources:
            return [list(known.replied(output, job.prepared.rows, job.prepared.shapes)) for job in jobs]
        given = list(known.given(output, shape))
        return [given] if len(jobs) == 1 else [[job.prepared.rows, *given[1:]] for job in jobs]

    def check_room(self, output: int, jobs: Sequence[Job], share: Share) -> None:
        """Fails the jobs whose places are too small for what came."""
        for job, size in zip(jobs, share.sizes, strict=True):
            target = job.prepared.targets.get(output)
            if target is not None and target.span is not None and size > target.capacity and job.error is None:
                job.error = too_small(self._spec, output, size, target.capacity)

    def write(self, output: int, jobs: Sequence[Job], share: Share, account: Account) -> None:
        """Copies what belongs into slots, one copy per run."""
        writers: list[Job] = []
        spans: list[Span] = []
        starts: list[int] = []
        for job, start, size in zip(jobs, share.starts, share.sizes, strict=True):
            target = job.prepared.targets.get(output)
            if target is not None and target.span is not None and job.error is None:
                writers.append(job)
                spans.append(target.span if target.needed is not None else target.span._replace(byte_size=size))
                starts.append(start)
        runs = merge(spans, self._regions.isolated, starts)
        for first, error in scatter(self._regions, runs, share.packed).items():
            writers[first].error = error
        account.copied("scatter", len(runs), sum(run.byte_size for run in runs))

    def finish(self, at: int, job: Job, shares: dict[int, Share], account: Account) -> None:
        """Leaves a job its result, with a memfd of its unplaced outputs, or its error. `at`: its position in the shares."""
        if job.error is not None:
            return
        try:
            self._describe(at, job, shares, account)
        except PenstockError as error:
            job.error = error
        except OSError as error:  # whatever else the machine refuses costs this request, and not the descriptors of others
            job.error = MachineError(f"no memory for unplaced outputs: {error}")

    def _describe(self, at: int, job: Job, shares: dict[int, Share], account: Account) -> None:
        """Sets the job's result, and writes its unplaced outputs to a memfd of exactly their size."""
        outputs: list[ItemOutput] = []
        unplaced: list[tuple[int, Octets]] = []
        total = 0
        for output, target in job.prepared.targets.items():
            shapes, starts, sizes, packed = shares[output]
            shape, size = shapes[at], sizes[at]
            if target.span is not None:
                offset = target.span.offset
            else:
                content = packed[starts[at] : starts[at] + size]
                if target.classes:
                    shape, content = self._classified(output, shape, content, target.classes)
                    size = content.size
                offset = aligned(total)
                total = offset + size
                unplaced.append((offset, content))
            outputs.append(ItemOutput(output, shape, size, offset))
        if unplaced:
            job.fd = self._memfd(total, unplaced)
            account.copied("scatter", len(unplaced), sum(content.size for _, content in unplaced))
        job.item = ItemResult(outputs=outputs, fds=len(unplaced[:1]))

    def _classified(self, output: int, shape: list[int], content: Octets, classes: int) -> tuple[list[int], Octets]:
        """An output's classes, as the BYTES tensor that stands for it: its shape and its content."""
        batch = shape[:1] if self._spec.max_batch_size else []
        values = content.view(numpy_dtype(self._spec.outputs[output].datatype))
        rows = values.reshape(batch[0] if batch else 1, elements(shape[len(batch) :]))
        found = classify(rows, classes, self._labels.get(output, ()))
        return [*batch, min(classes, rows.shape[1])], np.frombuffer(serialize_bytes(found), np.uint8)

    def _memfd(self, byte_size: int, contents: Sequence[tuple[int, Octets]]) -> int:
        fd = create_memfd(f"penstock-{self._spec.name}", max(byte_size, 1))
        try:
            for offset, content in contents:
                _write_all(fd, content, offset)
        except OSError:
            os.close(fd)
            raise
        return fd


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes[:-1])]


def failure(error: PenstockError) -> ItemResult:
    """The result of a request that failed alone."""
    return ItemResult(error.code.value, error.message, error.fault)


def _write_all(fd: int, content: Octets, offset: int) -> None:
    written = 0
    while written < content.size:
        written += os.pwrite(fd, content[written:].data, offset + written)
