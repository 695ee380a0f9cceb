# SPDX-License-Identifier: Apache-2.0
"""The requests that source and converted model both answer: given in files, or random."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...ipc.errors import CallerError, invalid, not_found
from ...ipc.tensors import datatype_of, numpy_dtype
from ..models import Array, ModelInfo, TensorInfo
from ..perf.inputs import make_inputs
from ..perf.plan import Plan, input_shapes
from .signatures import Arrays, batch_sizes

RANDOM_REQUESTS = 3
"""Of a model without a batch dimension, whose requests are all of one size."""
STRING_LENGTH = 16


UsedShapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Input -> the dims, without the batch dimension, that it is used with where it has variable ones."""


class Samples(NamedTuple):
    """Requests, and how many rows each has (0: the model has no batch dimension)."""

    requests: tuple[Arrays, ...]
    rows: tuple[int, ...]

    @property
    def example(self) -> Arrays:
        """What a conversion is traced with: more than one row if there is such a request, for one row hides the batch."""
        return self.requests[self.rows.index(min((count for count in self.rows if count > 1), default=self.rows[0]))]


def random_samples(inputs: Sequence[TensorInfo], max_batch_size: int, shapes: UsedShapes, seed: int) -> Samples:
    """Batches of one row, of the most, and of one between; as many single requests where there is no batch dimension.

    Each of an input's shapes is used in turn. Raises CallerError for variable dims that `shapes` does not name.
    """
    rows = batch_sizes(max_batch_size) or (0,) * RANDOM_REQUESTS
    if len(rows) < RANDOM_REQUESTS:
        rows *= RANDOM_REQUESTS
    model = ModelInfo("the source", -1, 1, (1,), "", max_batch_size, tuple(inputs), ())
    plan = Plan(points=(), memory="none", seed=seed, string_length=STRING_LENGTH)
    requests = []
    for number, count in enumerate(rows):
        of_this = {name: used[number % len(used)] for name, used in shapes.items()}
        requests.append(make_inputs(model, input_shapes(model, count, of_this), plan, number))
    return Samples(tuple(requests), rows)


def given_samples(path: Path, inputs: Sequence[TensorInfo], max_batch_size: int) -> Samples:
    """From FILE.npz or a directory of NAME.npy; rows beyond a batch make more requests. Raises CallerError naming the input."""
    arrays = _read(path, [tensor.name for tensor in inputs])
    fitted = {tensor.name: _fitted(path, tensor, arrays[tensor.name], max_batch_size) for tensor in inputs}
    if not max_batch_size:
        return Samples((fitted,), (0,))
    counts = {name: len(array) for name, array in fitted.items()}
    if len(set(counts.values())) != 1:
        raise invalid(f"{path}: the inputs have different numbers of rows: {counts}")
    slices = list(_slices(next(iter(counts.values())), max_batch_size))
    if not slices:
        raise invalid(f"{path}: there are no rows")
    return Samples(
        tuple({name: np.ascontiguousarray(array[rows]) for name, array in fitted.items()} for rows in slices),
        tuple(rows.stop - rows.start for rows in slices),
    )


def _slices(count: int, max_batch_size: int) -> Iterator[slice]:
    """All rows once, in batches of one, of the most and of one between, over and over; the last takes what is left."""
    sizes = (1, max_batch_size, (1 + max_batch_size) // 2)
    begin = turn = 0
    while begin < count:
        end = min(count, begin + sizes[turn % len(sizes)])
        yield slice(begin, end)
        begin, turn = end, turn + 1


def _read(path: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        found = _read_directory(path, names) if path.is_dir() else _read_archive(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    if sorted(found) != sorted(names):
        raise invalid(f"{path} has {sorted(found)}; the inputs are {list(names)}")
    return found


def _read_directory(path: Path, names: Sequence[str]) -> dict[str, Array]:
    missing = [name for name in names if not (path / f"{name}.npy").is_file()]
    if missing:
        raise not_found(f"{path} has no {missing[0]}.npy; it needs one .npy file per input: {list(names)}")
    load: Callable[..., Array] = np.load  # older releases of numpy give it no types
    return {name: load(path / f"{name}.npy", allow_pickle=False) for name in names}


def _read_archive(path: Path) -> dict[str, Array]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        read: Callable[..., Array] = np.lib.format.read_array
        found = {}
        for member in archive.namelist():
            with archive.open(member) as content:
                found[member.removesuffix(".npy")] = read(content, allow_pickle=False)
        return found


def _fitted(path: Path, tensor: TensorInfo, array: Array, max_batch_size: int) -> Array:
    expected = (-1, *tensor.dims) if max_batch_size else tensor.dims
    if len(array.shape) != len(expected) or any(
        want not in (-1, size) for want, size in zip(expected, array.shape, strict=True)
    ):
        raise invalid(f"{path}: input '{tensor.name}' has shape {list(array.shape)}, expected {list(expected)}")
    if tensor.datatype == "BYTES" and datatype_of(array) == "BYTES":
        return array.astype(object)
    if array.dtype != numpy_dtype(tensor.datatype):
        raise CallerError(
            f"{path}: input '{tensor.name}' is {array.dtype}, expected {numpy_dtype(tensor.datatype)}; nothing is converted"
        )
    return array
