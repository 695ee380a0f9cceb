# SPDX-License-Identifier: Apache-2.0
"""Inputs from files, for `--input-data FILE.json|DIR`: what a request sends is taken from their rows by turns.

A JSON file is perf_analyzer's (`{"data": [{"INPUT0": [...]}, ...]}`): each entry is one row of every input. A directory has a
file for each input, named after it: rows one after the other as raw little-endian bytes, or NAME.npy; of strings, a line each.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...ipc.errors import invalid
from ...ipc.tensors import FLOATING, byte_size, elements, numpy_dtype
from ..models import Array, ModelInfo, Shapes, TensorInfo

KEYS = frozenset({"data", "validation_data"})
"""Of a JSON file. What outputs should be is not compared."""


class InputRows:
    """The rows of every input, without the batch dimension; of a model that has none, whole tensors."""

    def __init__(self, source: str, model: ModelInfo, rows: Mapping[str, Sequence[Array]]) -> None:
        self._source = source
        self._model = model
        self._rows = rows

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in self._rows.items())
        return f"<InputRows of '{self._model.name}' from {self._source}: {counts}>"

    def check_invariants(self) -> None:
        """Every input has some."""
        assert [spec.name for spec in self._model.inputs] == list(self._rows) and all(self._rows.values()), self

    def of_request(self, number: int, batch: int) -> dict[str, Array]:
        """The inputs of request `number`: the rows that follow those of the request before. Raises CallerError."""
        return {spec.name: self._tensor(spec, number, batch) for spec in self._model.inputs}

    def _tensor(self, spec: TensorInfo, number: int, batch: int) -> Array:
        rows = self._rows[spec.name]
        if not self._model.max_batch_size:
            return rows[number % len(rows)]
        places = [(number * batch + row) % len(rows) for row in range(batch)]
        for place in places:
            if rows[place].shape != rows[places[0]].shape:
                raise invalid(
                    f"{self._source}, input '{spec.name}': the rows of one batch have one shape, but entry {places[0]} has "
                    f"{list(rows[places[0]].shape)} and entry {place} {list(rows[place].shape)}"
                )
        return np.stack([rows[place] for place in places])


def read_input_rows(path: str, model: ModelInfo, shapes: Shapes) -> InputRows:
    """What the file or the directory has. `shapes` says the variable dims that it does not. Raises CallerError."""
    place = Path(path)
    try:
        if place.is_dir():
            rows = {spec.name: _rows_of_file(place, spec, shapes) for spec in model.inputs}
        else:
            rows = parse_entries(place.read_bytes(), path, model, shapes)
    except OSError as error:
        raise invalid(f"--input-data {error.filename or path} cannot be read: {error.strerror or error}") from error
    return InputRows(path, model, rows)


# --- perf_analyzer's JSON -------------------------------------------------------------------------------------------------


def parse_entries(document: bytes, source: str, model: ModelInfo, shapes: Shapes) -> dict[str, list[Array]]:
    """The rows of every input in a JSON document. Raises CallerError naming the entry and the input."""
    try:
        found = msgspec.json.decode(document)
    except msgspec.MsgspecError as error:
        raise invalid(f"{source} is no JSON: {error}") from None
    entries = found.get("data") if isinstance(found, dict) and found.keys() <= KEYS else None
    if not (isinstance(entries, list) and entries):
        raise invalid(f'{source}: expected {{"data": [entry, ...]}} with at least one entry')
    names = [spec.name for spec in model.inputs]
    rows: dict[str, list[Array]] = {name: [] for name in names}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise invalid(
                f"{source}, entry {number}: expected an object with inputs {names}, found {_kind(entry)}; sequences (lists of "
                "entries) are not sent"
            )
        if entry.keys() != set(names):
            raise invalid(f"{source}, entry {number}: model '{model.name}' has inputs {names}, found {list(entry)}")
        for spec in model.inputs:
            rows[spec.name].append(_parse(entry[spec.name], f"{source}, entry {number}, input '{spec.name}'", spec, shapes))
    return rows


def _parse(value: Any, where: str, spec: TensorInfo, shapes: Shapes) -> Array:
    """One row of one input: a list, or an object with `content` or `b64`, and perhaps `shape`."""
    given = None
    if isinstance(value, dict):
        given, content = value.get("shape"), value.get("content", value)
        encoded = content.get("b64") if isinstance(content, dict) else None
        dims = _dims(given, where, spec, shapes)
        if isinstance(encoded, str):
            try:
                return _from_bytes(base64.b64decode(encoded, validate=True), where, spec, dims)
            except binascii.Error as error:
                raise invalid(f'{where}: "b64" is no base64: {error}') from None
        value = content
    else:
        dims = _dims(None, where, spec, shapes)
    if not isinstance(value, list):
        forms = 'a list of values, {"content": [...], "shape": [...]} or {"b64": "..."}'
        raise invalid(f"{where}: expected {forms}, found {_kind(value)}")
    flat = list(_flattened(value))
    if len(flat) != elements(dims):
        raise invalid(f"{where}: expected {elements(dims)} values for dims {list(dims)}, found {len(flat)}")
    return _from_values(flat, where, spec.datatype).reshape(dims)


def _dims(given: Any, where: str, spec: TensorInfo, shapes: Shapes) -> tuple[int, ...]:
    """The dims of a row: as it says itself, else --shape, else the model's."""
    if given is not None and not (isinstance(given, list) and all(type(dim) is int and dim >= 0 for dim in given)):
        raise invalid(f'{where}: expected whole numbers as "shape", found {given!r}')
    dims = tuple(shapes.get(spec.name, spec.dims) if given is None else given)
    if len(dims) != len(spec.dims) or any(wanted not in (-1, dim) for wanted, dim in zip(spec.dims, dims, strict=True)):
        raise invalid(f"{where}: the model's dims are {list(spec.dims)}, found shape {list(dims)}")
    if -1 in dims:
        example = ",".join("1" if dim < 0 else str(dim) for dim in dims)
        raise invalid(f'{where}: dims are {list(dims)}: say "shape" beside "content", or --shape {spec.name}:{example}')
    return dims


def _flattened(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flattened(value)
        else:
            yield value


def _from_values(values: Sequence[Any], where: str, datatype: str) -> Array:
    kinds: tuple[type, ...] = (str,) if datatype == "BYTES" else (int, float) if datatype in FLOATING else (int,)
    for place, value in enumerate(values):
        if not isinstance(value, kinds) or (isinstance(value, bool) and datatype != "BOOL"):
            raise invalid(f"{where}: value {place} is {_kind(value)} {value!r:.40}, which is no {datatype}")
    if datatype == "BYTES":
        return as_strings([value.encode() for value in values])
    low, high = _limits(datatype)
    for place, value in enumerate(values):
        if not low <= value <= high:
            raise invalid(f"{where}: value {place} is {value}, {datatype} holds {low} to {high}")
    return as_bfloat16(np.array(values, np.float32)) if datatype == "BF16" else np.array(values, numpy_dtype(datatype))


def _limits(datatype: str) -> tuple[float, float]:
    if datatype == "BOOL":
        return 0, 1
    if datatype not in FLOATING:
        whole = np.iinfo(numpy_dtype(datatype))
        return int(whole.min), int(whole.max)
    fractions = np.finfo(np.float32 if datatype == "BF16" else numpy_dtype(datatype))
    return float(fractions.min), float(fractions.max)


# --- a file for each input ------------------------------------------------------------------------------------------------


def _rows_of_file(folder: Path, spec: TensorInfo, shapes: Shapes) -> list[Array]:
    """All rows that the file of one input has."""
    found = [path for path in (folder / spec.name, folder / f"{spec.name}.npy") if path.is_file()]
    if len(found) != 1:
        there = sorted(path.name for path in folder.iterdir())
        raise invalid(f"{folder}: expected one file '{spec.name}' or '{spec.name}.npy' for input '{spec.name}', found {there}")
    where = f"{found[0]}, input '{spec.name}'"
    if found[0].suffix == ".npy" and found[0].name != spec.name:
        return _rows_of_array(_load(found[0], where), where, spec)
    dims = _dims(None, where, spec, shapes)
    if spec.datatype == "BYTES":
        lines = found[0].read_bytes().splitlines()
        return [as_strings(part).reshape(dims) for part in _cut(lines, elements(dims), where, "strings, one a line,", dims)]
    size = byte_size(spec.datatype, dims) or 0
    return [_from_bytes(part, where, spec, dims) for part in _cut(found[0].read_bytes(), size, where, "bytes", dims)]


def _cut(content: Any, size: int, where: str, unit: str, dims: tuple[int, ...]) -> list[Any]:
    """Pieces of `size`, one for each row."""
    if not size or not len(content) or len(content) % size:
        raise invalid(f"{where}: expected {size} {unit} for each row of dims {list(dims)}, found {len(content)}")
    return [content[place : place + size] for place in range(0, len(content), size)]


def _load(path: Path, where: str) -> Array:
    try:
        found: Array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise invalid(f"{where}: numpy cannot load it: {error}") from None
    return found


def _rows_of_array(found: Array, where: str, spec: TensorInfo) -> list[Array]:
    if spec.datatype == "BYTES" and found.dtype.kind in "SU":
        texts = [text if isinstance(text, bytes) else text.encode() for text in found.ravel().tolist()]
        found = as_strings(texts).reshape(found.shape)
    if found.dtype != numpy_dtype(spec.datatype):
        raise invalid(f"{where}: expected {numpy_dtype(spec.datatype)} for {spec.datatype}, found {found.dtype}")
    one = found.ndim == len(spec.dims)
    dims = found.shape if one else found.shape[1:]
    if len(dims) != len(spec.dims) or any(wanted not in (-1, dim) for wanted, dim in zip(spec.dims, dims, strict=True)):
        raise invalid(f"{where}: expected one row of dims {list(spec.dims)}, or several, found shape {list(found.shape)}")
    if not one and not len(found):
        raise invalid(f"{where}: expected at least one row, found none")
    return [found] if one else list(found)


# --- arrays ---------------------------------------------------------------------------------------------------------------


def _from_bytes(content: bytes, where: str, spec: TensorInfo, dims: tuple[int, ...]) -> Array:
    """Raw little-endian bytes as a row; of BYTES, one string."""
    if spec.datatype == "BYTES":
        if elements(dims) != 1:
            raise invalid(f"{where}: expected {elements(dims)} strings for dims {list(dims)}, found the bytes of one")
        return as_strings([content]).reshape(dims)
    if len(content) != byte_size(spec.datatype, dims):
        raise invalid(f"{where}: expected {byte_size(spec.datatype, dims)} bytes for dims {list(dims)}, found {len(content)}")
    dtype = numpy_dtype(spec.datatype)
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dims)


def as_strings(values: Sequence[bytes]) -> Array:
    """Strings as BYTES arrays hold them."""
    found: Array = np.empty(len(values), object)
    found[:] = values
    return found


def as_bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> Array:
    """The upper halves of float32: BF16 as its raw bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).reshape(values.shape)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a whole number", float: "a fraction"}
    return kinds.get(type(value), "null")
