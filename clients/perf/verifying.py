# SPDX-License-Identifier: Apache-2.0
"""Comparing every answer with what it must be, for models that give back what they get."""

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
    """The rule of the identity backend: a row of output k is what the same row of input k begins with."""

    def __init__(self, model: ModelInfo, inputs: Mapping[Slot, Mapping[str, Array]]) -> None:
        if model.platform != "identity":
            raise CallerError(
                f"model '{model.name}' ({model.platform}): --verify knows the answers of the identity backend only",
                Code.UNSUPPORTED,
            )
        self._model = model
        self._inputs = inputs

    def __repr__(self) -> str:
        return f"<IdentityCheck of '{self._model.name}'>"

    def check_invariants(self) -> None:
        """Every output has its input."""
        assert len(self._model.outputs) <= len(self._model.inputs), self

    def __call__(self, slot: Slot, result: InferResult) -> None:
        """Raises ModelError for a wrong answer; poisons a right one, where the next request will write."""
        self.compare(self._inputs[slot], result)

    def compare(self, inputs: Mapping[str, Array], result: InferResult) -> None:
        """The same for a request with these inputs."""
        for source, output in zip(self._model.inputs, self._model.outputs, strict=False):
            placed = result.outputs[output.name]
            found = placed.read() if isinstance(placed, DeviceArray) else placed
            rows = len(found) if self._model.max_batch_size else 1
            given = inputs[source.name].reshape(rows, -1)
            flat = found.reshape(rows, -1)
            if not np.array_equal(flat, given[:, : flat.shape[1]]):
                raise ModelError(
                    f"model '{self._model.name}': output '{output.name}' is not input '{source.name}' of the same request"
                )
            if isinstance(placed, DeviceArray):
                placed.reshape((placed.size,)).view(np.uint8).write(np.full(placed.nbytes, POISON, np.uint8))
            elif found.dtype.kind != "O" and found.flags.writeable:
                flat.view(np.uint8)[...] = POISON
