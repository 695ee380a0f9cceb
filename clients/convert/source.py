# SPDX-License-Identifier: Apache-2.0
"""What every source can do: answer requests, and write itself in a format."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from ...ipc.errors import ModelError
from ..models import Array, TensorInfo
from . import engines
from .engine_orders import Order, profiles_of
from .entry_config import FORMS, Form
from .samples import Samples, UsedShapes
from .signatures import Arrays, Signature, outputs_of, without_batch
from .tolerances import Precision

Run = Callable[[Arrays], Mapping[str, Array]]
Say = Callable[[str], None]


class Asked(Struct, frozen=True, kw_only=True):
    """What is to be converted, and into what, as far as all formats have it in common."""

    source: str  # module:function, or the path of an ONNX file
    config: Path | None = None
    checkpoint: Path | None = None
    words: tuple[str, ...] = ()  # the function's own options
    inputs: tuple[TensorInfo, ...] = ()
    output_names: tuple[str, ...] = ()
    max_batch_size: int | None = None
    shapes: UsedShapes = {}
    device: str | None = None
    opset: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    workspace_bytes: int = 0
    timing_cache: Path | None = None


class Written(NamedTuple):
    """A file that was written: what it takes and gives, and how it is run in this process (None: it cannot be)."""

    signature: Signature
    run: Run | None


class Source(ABC):
    """Opened, then asked, then written, as often as need be."""

    #: what it can be converted to
    forms: tuple[Form, ...] = FORMS

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.max_batch_size = 0
        self.inputs: tuple[TensorInfo, ...] = ()
        #: where the source itself says; else they are found out by asking
        self.outputs: tuple[TensorInfo, ...] = ()
        self._samples: Samples | None = None

    def check_invariants(self) -> None:
        """One that has been asked knows what it takes and gives."""
        assert self._samples is None or (self.inputs and self.outputs), self

    @abstractmethod
    def open(self) -> None:
        """Reads it. Raises PenstockError that says what is wrong with it."""

    @abstractmethod
    def answer(self, arrays: Arrays) -> Mapping[str, Array]:
        """What it says. Raises ModelError."""

    @abstractmethod
    def write(self, form: Form, precision: Precision, path: Path, say: Say) -> Written:
        """Writes it to `path`, whose directory holds nothing else. Raises PenstockError that names what cannot be."""

    def ask(self, samples: Samples) -> tuple[Arrays, ...]:
        """What it says to every sample. Raises ModelError naming the request."""
        answers = []
        for request, arrays in enumerate(samples.requests):
            try:
                answers.append(self.answer(arrays))
            except ModelError as error:
                raise ModelError(f"the source cannot answer request {request}: {error.message}", error.code) from error
        self.outputs = self.outputs or outputs_of(self.inputs, answers, samples.rows)
        self._samples = samples
        return tuple(answers)

    @property
    def signature(self) -> Signature:
        """Of what has been asked."""
        return Signature(self.max_batch_size, self.inputs, self.outputs)

    @property
    def example(self) -> Arrays:
        """What a conversion is traced with."""
        assert self._samples is not None, "the source has not been asked"
        return self._samples.example

    @property
    def used_shapes(self) -> UsedShapes:
        """The dims, without the batch, that each input is used with: as was said, or else the smallest and the largest."""
        assert self._samples is not None, "the source has not been asked"
        found: dict[str, Sequence[tuple[int, ...]]] = {}
        for tensor in self.inputs:
            shapes = [request[tensor.name].shape[1 if self.max_batch_size else 0 :] for request in self._samples.requests]
            least, most = (tuple(pick(sizes) for sizes in zip(*shapes, strict=True)) for pick in (min, max))
            found[tensor.name] = self.asked.shapes.get(tensor.name) or ([least, most] if least != most else [most])
        return found

    def _build_engine(self, onnx: Path, halves: bool, path: Path, say: Say) -> Signature:
        """A plan of an ONNX file."""
        asked = self.asked
        report = engines.build(
            Order(
                onnx=str(onnx.absolute()), plan=str(path.absolute()), halves=halves,
                profiles=profiles_of(self.inputs, self.max_batch_size, asked.preferred_batch_sizes, self.used_shapes),
                workspace_bytes=asked.workspace_bytes,
                timing_cache=str(asked.timing_cache.absolute()) if asked.timing_cache else "",
            ),
            say,
        )  # fmt: skip
        return self._of_file(report.inputs, report.outputs)

    def _of_file(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> Signature:
        """The signature of a file that says its complete dims; an input keeps the dims that were asked for it."""
        asked = {tensor.name: tensor.dims for tensor in self.inputs}
        found = [without_batch("input", tensor, self.max_batch_size) for tensor in inputs]
        return Signature(
            self.max_batch_size,
            tuple(tensor._replace(dims=asked.get(tensor.name, tensor.dims)) for tensor in found),
            tuple(without_batch("output", tensor, self.max_batch_size) for tensor in outputs),
        )


def remove_all_but(path: Path) -> None:
    """What an engine was built from is no part of the version."""
    for each in path.parent.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each != path:
            each.unlink()
