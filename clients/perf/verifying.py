# SPDX-License-Identifier: Apache-2.0
"""Comparing every answer with what it must be, for models that give back what they get.

Whether a model does so is for those to know who ask: no platform that a server names ("identity", "python") says it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...ipc.errors import CallerError, Code, ModelError
from ..device_arrays import DeviceArray
from ..models import Array, ModelInfo
from ..results import InferResult
from ..slots import Slot

Check = Callable[[Slot, InferResult], None]
"""Looks at a result, after its request has been timed. Raises what is wrong with it."""
POISON = 0xFF
"""What an output's bytes are before the next request, so that an answer that was never written is seen."""


class IdentityCheck:
    """The rule of the identity backend: a row of output k is what the same row of input k begins with.

    Raises CallerError for a model that cannot keep it: one with an output whose input is missing or of another type.
    """

    def __init__(self, model: ModelInfo, inputs: Mapping[Slot, Mapping[str, Array]]) -> None:
        given, found = ([spec.datatype for spec in specs] for specs in (model.inputs, model.outputs))
        if not found or found != given[: len(found)]:
            raise CallerError(
                f"model '{model.name}' has inputs {given} and outputs {found}: --verify is for models that give back what they "
                "get, output 0 what input 0 begins with, output 1 what input 1 does, ...",
                Code.UNSUPPORTED,
            )
        self._model = model
        self._inputs = inputs

    def __repr__(self) -> str:
        return f"<IdentityCheck of '{self._model.name}'>"

    def check_invariants(self) -> None:
        """Every output has its input."""
        assert 0 < len(self._model.outputs) <= len(self._model.inputs), self

    def __call__(self, slot: Slot, result: InferResult) -> None:
        """Raises ModelError for a wrong answer; poisons a right one, where the next request will write."""
        self.compare(self._inputs[slot], result)

    def compare(self, inputs: Mapping[str, Array], result: InferResult) -> None:
        """The same for a request with these inputs."""
        for source, output in zip(self._model.inputs, self._model.outputs, strict=False):
            placed, given = result.outputs.get(output.name), inputs[source.name]
            found = placed.read() if isinstance(placed, DeviceArray) else placed
            if found is None or not _begins(given, found, self._model.max_batch_size > 0):
                raise ModelError(
                    f"model '{self._model.name}': output '{output.name}' is not what input '{source.name}' of the same request "
                    "begins with, which --verify compares it with"
                )
            if isinstance(placed, DeviceArray):
                placed.reshape((placed.size,)).view(np.uint8).write(np.full(placed.nbytes, POISON, np.uint8))
            elif found.dtype.kind != "O" and found.flags.writeable:
                found.reshape(-1).view(np.uint8)[...] = POISON


def _begins(given: Array, found: Array, has_rows: bool) -> bool:
    """Whether each row of what was given begins with that row of what came, and that is not nothing. Bits count: NaN is NaN."""
    if found.dtype != given.dtype or (has_rows and found.shape[:1] != given.shape[:1]):
        return False
    rows = len(given) if has_rows else 1
    whole, part = given.reshape(rows, -1), found.reshape(rows, -1)
    begin = whole[:, : part.shape[1]]
    if part.shape != begin.shape or (whole.size and not part.size):
        return False
    return np.array_equal(begin, part) if part.dtype.kind == "O" else begin.tobytes() == part.tobytes()
