# SPDX-License-Identifier: Apache-2.0
"""The warm-up samples of a model's configuration: executed before the first request, and in the way of requests.

A sample of batch size N is N requests of one row that are executed together (Triton: GenerateWarmupData and WarmUp in
core/src/backend_model_instance.cc). Their inputs lie in a region of this process, and their outputs are thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from msgspec import Raw

from ..ipc.codec import encode
from ..ipc.errors import Code, ModelError, PenstockError, invalid
from ..ipc.messages import (
    Batch,
    BatchDone,
    InputSlice,
    MapRegion,
    ModelSpec,
    OutputSlice,
    Placement,
    Start,
    WarmupInput,
    WarmupSample,
)
from ..ipc.regions import create_memfd
from ..ipc.tensors import byte_size, deserialize_bytes, elements, numpy_dtype, serialize_bytes
from .batches import Runner
from .packing import aligned
from .region_table import RegionTable

REGION = 0
"""The number of the samples' own region; the broker's begin at 1."""
SEED = 0
"""Random data are the same at each start, so that a sample that fails can be tried again."""


def run_samples(start: Start, runner: Runner, regions: RegionTable, directory: str, lane: int = 0) -> None:
    """Executes every sample of `start` in a lane, in order. Raises ModelError that names the first that failed, and why.

    `directory` is the version's; files are in the directory `warmup` beside it.
    """
    folder = os.path.join(os.path.dirname(directory), "warmup")
    for sample in start.samples:
        try:
            contents = {given.name: contents_of(given, sample.batch_size, folder) for given in sample.inputs}
            with _placed(sample, contents, start.spec, runner, regions) as placements:
                for _ in range(sample.count):
                    _run(Batch(0, placements, lane), runner)
        except PenstockError as error:
            raise ModelError(f"failed to run warmup sample '{sample.name}': {error.message}", Code.INVALID_ARG) from error


def contents_of(given: WarmupInput, requests: int, folder: str) -> list[bytes]:
    """The bytes of an input for each request in turn, or only once where all requests get the same."""
    if given.data == "file":
        return _read(given, requests, folder)
    size = byte_size(given.datatype, given.dims)
    if size is None:  # Triton too makes random text empty
        return [serialize_bytes([b""] * elements(given.dims))]
    return [bytes(size) if given.data == "zero" else _random(given).tobytes()]


def _random(given: WarmupInput) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Any value of an integer datatype; of a floating one those from 0 up to 1, as clients' random tensors have."""
    random, dtype, count = np.random.default_rng(SEED), numpy_dtype(given.datatype), elements(given.dims)
    if given.datatype == "BOOL":
        return random.integers(0, 2, count).astype(dtype)
    if given.datatype == "BF16":  # the upper half of the bits of an FP32
        return (random.random(count, np.float32).view(np.uint32) >> 16).astype(dtype)
    if dtype.kind == "f":
        return random.random(count, np.float32).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, count, dtype, endpoint=True)


def _read(given: WarmupInput, requests: int, folder: str) -> list[bytes]:
    """A file's content: that of one request, for all of them as in Triton, or that of all, one after the other."""
    try:
        with open(os.path.join(folder, given.file), "rb") as file:
            content = file.read()
    except OSError as error:
        raise invalid(f"input '{given.name}': file '{given.file}' cannot be read: {error.strerror}") from error
    size = byte_size(given.datatype, given.dims)
    if size is None:
        return _read_text(given, requests, content)
    if len(content) not in (size, size * requests):
        all_of_them = f" (or {size * requests} for all {requests} requests)" if requests > 1 else ""
        raise invalid(
            f"input '{given.name}': warmup setting expects {size} bytes{all_of_them}, but the data provided from "
            f"'{given.file}' has {len(content)} bytes"
        )
    return [content[begin : begin + size] for begin in range(0, len(content), max(size, 1))] or [b""]


def _read_text(given: WarmupInput, requests: int, content: bytes) -> list[bytes]:
    """BYTES have no size to go by: their number says whether they are those of one request."""
    count = elements(given.dims)
    try:
        deserialize_bytes(content, [count], given.name)
    except PenstockError:
        values = deserialize_bytes(content, [requests, count], given.name)
        return [serialize_bytes(row.tolist()) for row in values]
    return [content]


@contextmanager
def _placed(
    sample: WarmupSample, contents: dict[str, list[bytes]], spec: ModelSpec, runner: Runner, regions: RegionTable
) -> Iterator[list[Raw]]:
    """The sample as encoded placements of requests, whose region is mapped within the block."""
    total = sum(aligned(len(content)) for pieces in contents.values() for content in pieces)
    regions.map(MapRegion(REGION, max(total, 1)), create_memfd("penstock-warmup", max(total, 1)))
    try:
        begin = 0
        offsets: dict[str, list[int]] = {}
        for name, pieces in contents.items():
            for content in pieces:
                regions[REGION].write(begin, np.frombuffer(content, np.uint8))
                offsets.setdefault(name, []).append(begin)
                begin += aligned(len(content))
        batch = [1] if spec.max_batch_size else []
        shapes = {given.name: batch + given.dims for given in sample.inputs}

        def input_of(name: str, request: int) -> InputSlice:
            if name not in offsets:
                return InputSlice(-1, 0, 0, [])  # an optional input that the sample leaves out
            at = request % len(offsets[name])
            return InputSlice(REGION, offsets[name][at], len(contents[name][at]), shapes[name])

        outputs = [OutputSlice(output, -1, 0, 0) for output in range(len(spec.outputs))]
        placements = [
            Placement(1, [input_of(tensor.name, request) for tensor in spec.inputs], outputs)
            for request in range(sample.batch_size)
        ]
        yield [Raw(encode(placement)) for placement in placements]
    finally:
        runner.forget_region(REGION)
        regions.unmap(REGION)


def _run(batch: Batch, runner: Runner) -> None:
    """One execution. Raises what its requests failed of, each reason once."""
    report, fds = runner.run(batch)
    for fd in fds:
        os.close(fd)
    reasons = _reasons(report)
    if reasons:
        raise invalid("; ".join(dict.fromkeys(reasons)))


def _reasons(report: BatchDone) -> Sequence[str]:
    return [report.message] if report.message else [item.message for item in report.items if item.code]
