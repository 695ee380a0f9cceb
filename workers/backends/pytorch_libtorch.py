# SPDX-License-Identifier: Apache-2.0
"""TorchScript modules and exported programs of torch, on the CPU.

Inputs are looked at where they lie; work that comes again keeps its tensors. Outputs are torch's own memory, which the worker
copies once: torch's `out=` does not reach into a module.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ipc.messages import LoadModel, ModelSpec, Signature
from .base import Backend, Tensor, Work
from .torch_forward import Forward, signature_of
from .torch_models import DTYPES, Program, load_program, torch
from .torch_settings import TorchSettings, read_settings
from .zeros import execute_zeros

WARM_UP_EXECUTIONS = 3
"""TorchScript's profiling executor watches the first execution and optimises in the second; the third is like those to come."""


class LibTorch(Backend):
    """One program, run by one thread, which torch's own help."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._settings: TorchSettings | None = None
        self._forward: Forward | None = None

    def __repr__(self) -> str:
        return f"<LibTorch {self._forward or self._program or 'closed'!r}>"

    def load(self, order: LoadModel) -> Signature | None:
        """Reads DIRECTORY/FILENAME (model.pt). Raises ModelError with the file's name and the reason."""
        self._settings = read_settings(order.spec.parameters)
        self._settings.apply(order.threads or len(os.sched_getaffinity(0)))
        self._program = load_program(order, "cpu")
        return signature_of(self._program, order.spec)

    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:
        """Checks names, then executes zeros, and the largest batch where that is cheap.

        With `samples_follow`, only the former.
        """
        assert self._program is not None and self._settings is not None, "warm_up before load"
        self._forward = Forward(self._program, spec, self._settings)
        if not samples_follow:
            execute_zeros(spec, self._forward.shapes, self.execute, WARM_UP_EXECUTIONS)

    def execute(self, work: Work) -> Sequence[Tensor | None]:
        """Runs the program. Raises what forward raises."""
        forward = self._forward
        assert forward is not None, "execute before warm_up"
        tensors = work.prepared
        if tensors is None:
            kinds = forward.shapes.model_inputs
            tensors = [
                None if content is None else tensor_on(content, kind.datatype)
                for content, kind in zip(work.inputs, kinds, strict=True)
            ]
            if work.is_kept and all(content is None or content.flags.aligned for content in work.inputs):
                work.prepared = tensors
        return [array_of(result) for result in forward.compute(tensors, work.wanted, is_lent=True)]

    def close(self) -> None:
        """Frees the program."""
        self._forward = None
        self._program = None


def tensor_on(content: Tensor, datatype: str) -> torch.Tensor:
    """The array's memory as a tensor, which the array must outlive.

    Elements at odd addresses are copied: kernels need not be able to read them there. Read-only memory is taken as well,
    without torch's warning: Forward sees to it that nobody writes.
    """
    if not content.flags.aligned:
        content = content.copy()
    raw = content
    if not content.flags.writeable:
        memory: Any = (ctypes.c_char * content.nbytes).from_address(content.ctypes.data)
        raw = np.frombuffer(memory, content.dtype).reshape(content.shape)
    if datatype == "BF16":  # numpy has no such type: its raw bits are in there
        return torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16)
    tensor: torch.Tensor = torch.from_numpy(raw)
    assert tensor.dtype == DTYPES[datatype], f"{tensor.dtype} came for {datatype}"
    return tensor


def array_of(tensor: torch.Tensor) -> Tensor:
    """The tensor's memory as an array, which keeps it alive; BF16 as raw bits."""
    if tensor.dtype == torch.bfloat16:
        bits: Tensor = tensor.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: Tensor = tensor.numpy()
    return array
