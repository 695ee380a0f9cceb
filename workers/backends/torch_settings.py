# SPDX-License-Identifier: Apache-2.0
"""The parameters that Triton's PyTorch backend documents, as far as they mean something in a process of one model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from ...ipc.errors import ModelError, invalid
from .torch_models import torch

_TRUE, _FALSE = frozenset({"true", "True", "TRUE", "1"}), frozenset({"false", "False", "FALSE", "0"})


class TorchSettings(NamedTuple):
    """What a configuration says; None: torch's own way. Two more of Triton's parameters are hints, which change nothing here.

    ENABLE_WEIGHT_SHARING: lanes of one worker share weights anyway, processes cannot. ENABLE_NVFUSER: torch has none any more.
    """

    inference_mode: bool
    optimized_execution: bool
    jit_executor: bool | None
    jit_profiling: bool | None
    tensor_fuser: bool | None
    cudnn: bool
    cache_cleaning: bool
    intra_op_threads: int
    inter_op_threads: int

    def guard(self) -> AbstractContextManager[None]:
        """What an execution is to be wrapped in; a fresh one each time."""
        mode: AbstractContextManager[None] = torch.inference_mode() if self.inference_mode else torch.no_grad()
        return mode

    def apply(self, threads: int) -> None:
        """Sets what is a setting of the process. `threads`: those that the instance may use, where the model says none."""
        torch._C._set_graph_executor_optimize(self.optimized_execution)  # noqa: SLF001 - what torch.jit.optimized_execution sets
        for name, value in (
            ("_jit_set_profiling_executor", self.jit_executor),
            ("_jit_set_profiling_mode", self.jit_profiling),
            ("_jit_set_texpr_fuser_enabled", self.tensor_fuser),
        ):
            if value is not None:
                getattr(torch._C, name)(value)  # noqa: SLF001 - Triton sets the same; torch has no public names for them
        torch.backends.cudnn.enabled = self.cudnn
        if self.intra_op_threads or threads:
            torch.set_num_threads(self.intra_op_threads or threads)
        if self.inter_op_threads not in (0, torch.get_num_interop_threads()):
            try:
                torch.set_num_interop_threads(self.inter_op_threads)
            except RuntimeError as error:  # some operator was executed already
                raise ModelError(f"parameter 'INTER_OP_THREAD_COUNT' cannot be set: {error}") from error


def read_settings(parameters: Mapping[str, str]) -> TorchSettings:
    """Reads them. Raises INVALID_ARG that names the parameter."""
    return TorchSettings(
        inference_mode=_flag(parameters, "INFERENCE_MODE") is not False,
        optimized_execution=_flag(parameters, "DISABLE_OPTIMIZED_EXECUTION") is not True,
        jit_executor=_flag(parameters, "ENABLE_JIT_EXECUTOR"),
        jit_profiling=_flag(parameters, "ENABLE_JIT_PROFILING"),
        tensor_fuser=_flag(parameters, "ENABLE_TENSOR_FUSER"),
        cudnn=_flag(parameters, "DISABLE_CUDNN") is not True,
        cache_cleaning=_flag(parameters, "ENABLE_CACHE_CLEANING") is True,
        intra_op_threads=_count(parameters, "INTRA_OP_THREAD_COUNT"),
        inter_op_threads=_count(parameters, "INTER_OP_THREAD_COUNT"),
    )


def _flag(parameters: Mapping[str, str], key: str) -> bool | None:
    text = parameters.get(key, "")
    if text and text not in _TRUE | _FALSE:
        raise invalid(f"parameter '{key}' must be true or false, got '{text}'")
    return text in _TRUE if text else None


def _count(parameters: Mapping[str, str], key: str) -> int:
    text = parameters.get(key, "") or "0"
    if not text.isdecimal():
        raise invalid(f"parameter '{key}' must be a whole number that is not negative, got '{text}'")
    return int(text)
