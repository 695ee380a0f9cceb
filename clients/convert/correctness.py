# SPDX-License-Identifier: Apache-2.0
"""Comparing what a converted model answers with what its source answers, element by element. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.tensors import FLOATING
from ..models import Array, TensorInfo
from .signatures import Arrays
from .tolerances import Precision, Tolerance, Tolerances

Numbers = npt.NDArray[np.float64]


class Worst(NamedTuple):
    """The element that is farthest outside its tolerance, or nearest to its edge."""

    request: int  # counted from 0
    place: tuple[int, ...]  # index of the element
    expected: Any
    found: Any


class Comparison(NamedTuple):
    """One output over all requests. `mismatch`, unless empty, says why values could not be compared."""

    output: str
    tolerance: Tolerance
    max_abs_error: float
    max_rel_error: float
    wrong: int  # elements outside the tolerance
    elements: int
    worst: Worst | None  # None: there are no elements
    mismatch: str = ""

    @property
    def is_right(self) -> bool:
        """Whether every element is within the tolerance."""
        return not self.mismatch and not self.wrong


class _Found(NamedTuple):
    """The same of one request; `excess` of the worst element: its error less what is allowed."""

    max_abs_error: float
    max_rel_error: float
    wrong: int
    excess: float
    worst: Worst | None


def compare(
    outputs: Sequence[TensorInfo],
    expected: Sequence[Arrays],
    found: Sequence[Arrays],
    tolerances: Tolerances,
    precision: Precision,
) -> tuple[Comparison, ...]:
    """A comparison per output, over requests that were answered twice."""
    return tuple(_output(tensor, expected, found, tolerances, precision) for tensor in outputs)


def _output(
    tensor: TensorInfo, expected: Sequence[Arrays], found: Sequence[Arrays], tolerances: Tolerances, precision: Precision
) -> Comparison:
    name = tensor.name
    allowed = tolerances.of(name, tensor.datatype in FLOATING, precision)
    elements = sum(answer[name].size for answer in expected)
    parts: list[_Found] = []
    for request, (wanted, given) in enumerate(zip(expected, found, strict=True)):
        if name not in given:
            return Comparison(name, allowed, 0.0, 0.0, elements, elements, None, f"it is missing; given are {sorted(given)}")
        if wanted[name].shape != given[name].shape:
            shapes = f"request {request}: shape {list(given[name].shape)}, expected {list(wanted[name].shape)}"
            return Comparison(name, allowed, 0.0, 0.0, elements, elements, None, shapes)
        parts.append(_request(request, tensor.datatype, wanted[name], given[name], allowed))
    return Comparison(
        name, allowed, _most(part.max_abs_error for part in parts), _most(part.max_rel_error for part in parts),
        sum(part.wrong for part in parts), elements, max(parts, key=lambda part: part.excess).worst,
    )  # fmt: skip


def _request(request: int, datatype: str, expected: Array, found: Array, allowed: Tolerance) -> _Found:
    if not expected.size:
        return _Found(0.0, 0.0, 0, -np.inf, None)
    if datatype == "BYTES":
        errors = _as_numbers([_bytes(one) != _bytes(other) for one, other in zip(expected.flat, found.flat, strict=True)])
        relative, excess = errors, errors - 0.5
    else:
        same = (expected == found).ravel()
        errors, relative, excess = _errors(_numbers(expected, datatype), _numbers(found, datatype), same, allowed)
    at = int(np.argmax(excess))
    index = tuple(map(int, np.unravel_index(at, expected.shape)))
    worst = Worst(request, index, _plain(expected[index], datatype), _plain(found[index], datatype))
    return _Found(
        float(errors.max()), float(relative.max()), int(np.count_nonzero(excess > 0)), float(excess[at]), worst
    )  # fmt: skip


def _errors(
    expected: Numbers, found: Numbers, same: npt.NDArray[np.bool_], allowed: Tolerance
) -> tuple[Numbers, Numbers, Numbers]:
    """Absolute and relative errors, and the former less what is allowed. NaN is equal to NaN, an infinity to itself."""
    with np.errstate(all="ignore"):
        same = same | (np.isnan(expected) & np.isnan(found))
        absolute = np.where(same, 0.0, np.abs(found - expected))
        absolute[np.isnan(absolute)] = np.inf
        absolute[~same & (absolute == 0)] = 1.0  # whole numbers that double precision cannot tell apart
        size = np.abs(expected)
        relative = np.where(same, 0.0, absolute / size)
        limit = np.where(np.isfinite(size), allowed.atol + allowed.rtol * size, 0.0)
        excess = np.where(same, -limit, absolute - limit)
    relative[np.isnan(relative)] = np.inf
    return absolute, relative, excess


def _numbers(array: Array, datatype: str) -> Numbers:
    """Flat, in double precision."""
    flat = np.ascontiguousarray(array).ravel()
    if datatype == "BF16" and flat.dtype == np.uint16:  # the upper half of a float32
        return (flat.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return flat.astype(np.float64)


def _as_numbers(values: Sequence[bool]) -> Numbers:
    return np.array(values, np.float64)


def _bytes(element: Any) -> bytes:
    return element.encode() if isinstance(element, str) else bytes(element)


def _plain(element: Any, datatype: str) -> Any:
    """As JSON and a table show it."""
    if datatype == "BYTES":
        return _bytes(element).decode("utf-8", "backslashreplace")
    if datatype == "BF16" and isinstance(element, np.uint16):
        return float(_numbers(np.array([element]), datatype)[0])
    return element.item()


def _most(errors: Iterable[float]) -> float:
    return max(errors, default=0.0)
