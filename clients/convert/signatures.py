# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of a model that is being converted. Pure.

`dims` are those of config.pbtxt everywhere: without the batch dimension, unless max_batch_size is 0; -1 is a variable one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...ipc.errors import CallerError, Code, invalid
from ...ipc.tensors import DATATYPES, datatype_of
from ..models import Array, TensorInfo

Arrays = Mapping[str, Array]
"""A request or its answer: tensor -> array, batch dimension included."""

DEFAULT_MAX_BATCH_SIZE = 8
"""Of a source that can take batches, when nobody says."""


class Signature(NamedTuple):
    """What a model takes and gives."""

    max_batch_size: int  # 0: no batch dimension
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def parse_tensor(text: str) -> TensorInfo:
    """NAME:DTYPE:DIMS, e.g. image:FP32:3,224,224; split at the last two colons: names may contain one. Raises CallerError."""
    name, datatype, dims = ("", "", "") if text.count(":") < 2 else text.rsplit(":", 2)
    datatype = {"STRING": "BYTES"}.get(datatype.upper().removeprefix("TYPE_"), datatype.upper().removeprefix("TYPE_"))
    words = [word.strip() for word in dims.split(",")] if dims.strip() else []
    if not name or not all(word == "-1" or (word.isdecimal() and int(word)) for word in words):
        raise invalid(f"{text!r} is not NAME:DTYPE:DIMS, e.g. image:FP32:3,224,224; a dim is -1 (variable) or at least 1")
    if datatype not in DATATYPES:
        raise invalid(f"{text!r}: unknown datatype '{datatype}'; known are {', '.join(sorted(DATATYPES))}")
    return TensorInfo(name, datatype, tuple(map(int, words)))


def without_batch(kind: str, tensor: TensorInfo, max_batch_size: int) -> TensorInfo:
    """A tensor given by its complete dims, as the configuration has it. Raises CallerError where no batch dimension is."""
    if not max_batch_size:
        return tensor
    if not tensor.dims or tensor.dims[0] != -1:
        raise CallerError(
            f"a dynamic batch is not possible: {kind} '{tensor.name}' has dims {list(tensor.dims)}, which do not begin with a "
            "variable one; export it with a dynamic batch axis, or say --max-batch-size 0",
            Code.UNSUPPORTED,
        )
    return tensor._replace(dims=tensor.dims[1:])


def batches(tensors: Sequence[TensorInfo]) -> bool:
    """Whether tensors given by their complete dims all begin with a variable one, which then is taken for the batch."""
    return all(tensor.dims and tensor.dims[0] == -1 for tensor in tensors)


def batch_sizes(max_batch_size: int) -> tuple[int, ...]:
    """The batches that are tried: one row, the most, and one between."""
    return tuple(sorted({1, (1 + max_batch_size) // 2, max_batch_size})) if max_batch_size else ()


def outputs_of(inputs: Sequence[TensorInfo], answers: Sequence[Arrays], rows: Sequence[int]) -> tuple[TensorInfo, ...]:
    """What the outputs are, from answers to requests of so many rows (0: no batch dimension).

    Dims that differ between answers are variable, and so are all where inputs have variable dims, which may decide them.
    Raises CallerError for an output without a row per row of input.
    """
    found = []
    for name, first in answers[0].items():
        for answer, count in zip(answers, rows, strict=True):
            shape = answer[name].shape
            if count and shape[:1] != (count,):
                raise CallerError(
                    f"a dynamic batch is not possible: output '{name}' has shape {list(shape)} for a batch of {count}; "
                    "say --max-batch-size 0",
                    Code.UNSUPPORTED,
                )
        lead = 1 if rows[0] else 0
        shapes = {answer[name].shape[lead:] for answer in answers}
        if len({len(shape) for shape in shapes}) > 1:
            raise CallerError(f"output '{name}' has a different number of dims for each request", Code.UNSUPPORTED)
        is_open = any(-1 in tensor.dims for tensor in inputs)
        dims = tuple(-1 if is_open or len(set(sizes)) > 1 else sizes[0] for sizes in zip(*shapes, strict=True))
        found.append(TensorInfo(name, datatype_of(first), dims))
    return tuple(found)
