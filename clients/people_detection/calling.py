# SPDX-License-Identifier: Apache-2.0
"""Several callers of one detector: a thread each, with tensors of its own, that set off together and make one call.

    region:  | image 0 | image 1 | ... | coverage 0 | coverage 1 | ... | boxes 0 | boxes 1 | ...

The same tensor of successive callers lies side by side, so that a worker need not gather the images of a batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.messages import Explanation
from ..buffers import DEVICE_ALIGNMENT
from ..client import Client
from ..models import ModelInfo
from ..regions import Region
from .layout import BOXES_SHAPE, COVERAGE_SHAPE, IMAGE_SHAPE, DetectorTensors

Floats = npt.NDArray[np.float32]


class Call(NamedTuple):
    """One call and what came of it."""

    began_ns: int  # of time.perf_counter_ns
    ended_ns: int
    explanation: Explanation

    @property
    def latency_ns(self) -> int:
        """From sending to having the answer."""
        return self.ended_ns - self.began_ns


class Answer(NamedTuple):
    """What the detector said of the image, as copies."""

    coverage: Floats  # COVERAGE_SHAPE
    boxes: Floats  # BOXES_SHAPE


class Round(NamedTuple):
    """One call of each caller, in the callers' order."""

    calls: list[Call]
    answers: list[Answer]

    @property
    def total_ns(self) -> int:
        """From the first call's beginning to the last one's end."""
        return max(call.ended_ns for call in self.calls) - min(call.began_ns for call in self.calls)


class Callers:
    """`count` callers of a detector whose tensors lie in a registered region of at least `bytes_for(count)`."""

    def __init__(self, client: Client, model: ModelInfo, tensors: DetectorTensors, region: Region, count: int) -> None:
        self._client = client
        self._model = model
        self._tensors = tensors
        self._region = region
        self._count = count
        self._rows = (1,) if model.max_batch_size else ()

    def __repr__(self) -> str:
        return f"<{self._count} Callers of model '{self._model.name}', tensors in {self._region!r}>"

    def check_invariants(self) -> None:
        """Every tensor of every caller has its place."""
        assert bytes_for(self._count) <= self._region.byte_size, self

    def show(self, image: Floats) -> None:
        """Writes the image, IMAGE_SHAPE, into the memory of every caller."""
        for number in range(self._count):
            self._view(0, number)[...] = image

    def call(self) -> Round:
        """Every caller calls, at the same moment. Raises what the first of those that failed was answered."""
        self._spoil()
        meeting = threading.Barrier(self._count)
        futures = [self._start(number, meeting) for number in range(self._count)]
        calls = [future.result() for future in futures]
        return Round(calls, [Answer(self._read(1, number), self._read(2, number)) for number in range(self._count)])

    def _spoil(self) -> None:
        """So that an answer that is never written is not taken for one."""
        for tensor in (1, 2):
            for number in range(self._count):
                self._view(tensor, number)[...] = np.full(_SHAPES[tensor], np.nan, np.float32)

    def _start(self, number: int, meeting: threading.Barrier) -> Future[Call]:
        """In a daemon: an interrupted command does not wait for a model."""
        future: Future[Call] = Future()

        def run() -> None:
            try:
                future.set_result(self._call_once(number, meeting))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)

        threading.Thread(target=run, name=f"caller {number}", daemon=True).start()
        return future

    def _call_once(self, number: int, meeting: threading.Barrier) -> Call:
        image, coverage, boxes = (
            self._region.tensor("FP32", self._rows + shape, _offset(tensor, number, self._count))
            for tensor, shape in enumerate(_SHAPES)
        )
        inputs, outputs = {self._tensors.image: image}, {self._tensors.coverage: coverage, self._tensors.boxes: boxes}
        meeting.wait()
        began_ns = time.perf_counter_ns()
        result = self._client.infer(self._model.name, inputs, outputs, explain=True)
        ended_ns = time.perf_counter_ns()
        assert result.explain is not None, result
        return Call(began_ns, ended_ns, result.explain)

    def _view(self, tensor: int, number: int) -> Any:
        """A caller's tensor, as numpy's array or a DeviceArray."""
        return self._region.view("FP32", _SHAPES[tensor], _offset(tensor, number, self._count))

    def _read(self, tensor: int, number: int) -> Floats:
        found = self._view(tensor, number)
        copied: Floats = found.copy() if isinstance(found, np.ndarray) else found.read()
        return copied


_SHAPES = (IMAGE_SHAPE, COVERAGE_SHAPE, BOXES_SHAPE)


def bytes_for(count: int) -> int:
    """What `count` callers need."""
    return _offset(len(_SHAPES), 0, count)


def _offset(tensor: int, number: int, count: int) -> int:
    sizes = [-(-prod(shape) * 4 // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT for shape in _SHAPES]
    return count * sum(sizes[:tensor]) + (number * sizes[tensor] if number else 0)


def largest_difference(answers: Sequence[Answer]) -> float:
    """Of any value of any answer from the first answer's; infinite where one is not a number, or was not written."""
    if not all(np.isfinite(array).all() for answer in answers for array in answer):
        return float("inf")
    pairs = [pair for answer in answers for pair in zip(answer, answers[0], strict=True)]
    return max(float(np.abs(array - first).max()) for array, first in pairs)
