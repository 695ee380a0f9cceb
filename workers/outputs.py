# SPDX-License-Identifier: Apache-2.0
"""From what a backend computed to where it is wanted: nothing to do for slots it filled, else slots or a memfd per request."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..ipc.errors import MachineError, ModelError, PenstockError
from ..ipc.messages import ItemOutput, ItemResult, ModelSpec
from ..ipc.regions import create_memfd
from ..ipc.tensors import ITEM_BYTES, elements, numpy_dtype, serialize_bytes
from .account import Account
from .backends.base import Tensor, Work
from .devices.host import scatter
from .inputs import Job, Packed
from .packing import Span, aligned, merge
from .placements import PlacementCache, Target, too_small
from .region_table import Octets, RegionTable

Outcome = tuple[ItemResult, int | None]
"""A request's result, and the descriptor of its unplaced outputs, which whoever receives it closes."""


class Piece(NamedTuple):
    """One request's share of one output: bytes `start` to `end` of the packed tensor."""

    target: Target
    shape: list[int]
    start: int
    end: int
    packed: Octets


class OutputWriter:
    """Checks and delivers the results of one execution."""

    def __init__(self, spec: ModelSpec, regions: RegionTable, placements: PlacementCache) -> None:
        self._spec = spec
        self._regions = regions
        self._placements = placements

    def __repr__(self) -> str:
        return f"<OutputWriter of '{self._spec.name}'>"

    def checked(self, work: Work, results: Sequence[Tensor | None]) -> list[Tensor]:
        """The results, complete and of the right datatype and shape. Raises ModelError."""
        if len(results) != len(work.wanted):
            raise ModelError(f"returned {len(results)} outputs, {len(work.wanted)} were asked for")
        rows = sum(work.rows_of)
        return [
            result if result is not None and result is place else self._checked(output, result, rows)
            for output, result, place in zip(work.wanted, results, work.places, strict=True)
        ]

    def deliver(self, jobs: Sequence[Job], packed: Packed, results: Sequence[Tensor], account: Account) -> list[Outcome]:
        """Writes every job's outputs to its slots, unplaced ones to a memfd; the outcomes in the order of `jobs`."""
        work, in_place = packed
        pieces: list[dict[int, Piece]] = [{} for _ in jobs]
        for output, result, place in zip(work.wanted, results, work.places, strict=True):
            self._share(output, jobs, result, pieces)
            if result is not place or output not in in_place:
                self._write(output, jobs, pieces, account)
        return [self._finish(job, share, account) for job, share in zip(jobs, pieces, strict=True)]

    def _checked(self, output: int, result: Tensor | None, rows: int) -> Tensor:
        tensor = self._spec.outputs[output]
        if result is None:
            raise ModelError(f"returned nothing for output '{tensor.name}'")
        expected, dtype = self._placements.full_shape(rows, tensor), numpy_dtype(tensor.datatype)
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

    def _share(self, output: int, jobs: Sequence[Job], result: Tensor, pieces: list[dict[int, Piece]]) -> None:
        """Gives every job that wants the output its piece, or its error where the piece does not fit."""
        shapes, sizes, packed = self._bytes(output, jobs, result)
        start = 0
        for job, shape, size, share in zip(jobs, shapes, sizes, pieces, strict=True):
            target = job.prepared.targets.get(output)
            if target is not None:
                if target.span is not None and size > target.capacity:
                    job.error = job.error or too_small(self._spec, output, size, target.capacity)
                else:
                    share[output] = Piece(target, shape, start, start + size, packed)
            start += size

    def _bytes(self, output: int, jobs: Sequence[Job], result: Tensor) -> tuple[list[list[int]], list[int], Octets]:
        """Per job the shape and the size of its rows, and all of them as bytes."""
        shape = list(result.shape)
        shapes = [shape] if len(jobs) == 1 else [[job.prepared.rows, *shape[1:]] for job in jobs]
        datatype = self._spec.outputs[output].datatype
        if datatype != "BYTES":
            packed = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
            return shapes, [ITEM_BYTES[datatype] * elements(shape) for shape in shapes], packed
        values = iter(result.ravel().tolist())
        texts = [serialize_bytes(islice(values, elements(shape))) for shape in shapes]
        return shapes, [len(text) for text in texts], np.frombuffer(b"".join(texts), np.uint8)

    def _write(self, output: int, jobs: Sequence[Job], pieces: list[dict[int, Piece]], account: Account) -> None:
        """Copies what belongs into slots, one copy per run."""
        writers: list[Job] = []
        spans: list[Span] = []
        starts: list[int] = []
        packed = None
        for job, share in zip(jobs, pieces, strict=True):
            piece = share.get(output)
            if piece is not None and piece.target.span is not None and job.error is None:
                packed = piece.packed
                writers.append(job)
                spans.append(piece.target.span._replace(byte_size=piece.end - piece.start))
                starts.append(piece.start)
        if packed is None:
            return
        runs = merge(spans, self._regions.isolated, starts)
        for first, error in scatter(self._regions, runs, packed).items():
            writers[first].error = error
        account.copied("scatter", len(runs), sum(run.byte_size for run in runs))

    def _finish(self, job: Job, share: dict[int, Piece], account: Account) -> Outcome:
        if job.error is None:
            try:
                return self._outcome(job, share, account)
            except PenstockError as error:
                job.error = error
            except OSError as error:  # whatever else the machine refuses costs this request, and not the descriptors of others
                job.error = MachineError(f"no memory for unplaced outputs: {error}")
        return failure(job.error), None

    def _outcome(self, job: Job, share: dict[int, Piece], account: Account) -> Outcome:
        outputs: list[ItemOutput] = []
        unplaced: list[tuple[int, Piece]] = []
        size = 0
        for output in job.prepared.targets:
            piece = share[output]
            if piece.target.span is not None:
                offset = piece.target.span.offset
            else:
                offset = aligned(size)
                size = offset + piece.end - piece.start
                unplaced.append((offset, piece))
            outputs.append(ItemOutput(output, piece.shape, piece.end - piece.start, offset))
        if not unplaced:
            return ItemResult(outputs=outputs), None
        fd = create_memfd(f"penstock-{self._spec.name}", max(size, 1))
        try:
            for offset, piece in unplaced:
                _write_all(fd, piece.packed[piece.start : piece.end], offset)
        except OSError:
            os.close(fd)
            raise
        account.copied("scatter", len(unplaced), sum(piece.end - piece.start for _, piece in unplaced))
        return ItemResult(outputs=outputs, fds=1), fd


def failure(error: PenstockError) -> ItemResult:
    """The result of a request that failed alone."""
    return ItemResult(error.code.value, error.message, error.fault)


def _write_all(fd: int, content: Octets, offset: int) -> None:
    written = 0
    while written < content.size:
        written += os.pwrite(fd, content[written:].data, offset + written)
