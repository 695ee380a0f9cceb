# SPDX-License-Identifier: Apache-2.0
"""What a configuration adds to a backend: execution accelerators, and libraries of custom operators."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from ...ipc.messages import Accelerator, Optimization
from .problem import Problem, leaves_directory
from .schema import Proto

WITH_OPERATORS = ("onnxruntime", "pytorch", "tensorrt")
"""Backends that load libraries of custom operators (of plugins, TensorRT says)."""


def with_accelerators(optimization: Optimization, config: Proto) -> Optimization:
    """The settings, with the accelerators of the configuration in its order."""
    listed = config.optimization.execution_accelerators
    return replace(
        optimization,
        gpu_accelerators=_accelerators(listed.gpu_execution_accelerator),
        cpu_accelerators=_accelerators(listed.cpu_execution_accelerator),
    )


def _accelerators(listed: Iterable[Proto]) -> list[Accelerator]:
    return [Accelerator(each.name, dict(each.parameters)) for each in listed]


def accelerator_problems(config: Proto) -> Iterator[Problem]:
    """Accelerators of a backend that has none. Which there are, and their parameters, onnxruntime's worker knows."""
    listed = config.optimization.execution_accelerators
    for kind in ("gpu_execution_accelerator", "cpu_execution_accelerator"):
        for index, each in enumerate(getattr(listed, kind)):
            if config.backend != "onnxruntime":
                path = f"optimization.execution_accelerators.{kind}[{index}]"
                yield Problem(
                    path, f"{kind} '{each.name}': backend '{config.backend}' has none, only onnxruntime has, for {config.name}"
                )


def library_problems(config: Proto) -> Iterator[Problem]:
    """Libraries for a backend that loads none, and names that lead out of the model's directory without saying where."""
    for index, name in enumerate(config.model_operations.op_library_filename):
        path = f"model_operations.op_library_filename[{index}]"
        if config.backend not in WITH_OPERATORS:
            known = ", ".join(WITH_OPERATORS)
            yield Problem(
                path, f"op_library_filename '{name}': backend '{config.backend}' loads none, only {known} do, for {config.name}"
            )
        elif not name or (leaves_directory(name) and not os.path.isabs(name)):
            yield Problem(
                path, f"op_library_filename '{name}' must stay within the model's directory, or be absolute, for {config.name}"
            )


def absolute_libraries(config: Proto) -> list[str]:
    """Libraries that are named by an absolute path."""
    return [name for name in config.model_operations.op_library_filename if os.path.isabs(name)]


def library_paths(names: Sequence[str], version_directory: str) -> list[str]:
    """Where the libraries are: relative names count from the model's directory, in which that of the version lies."""
    return [os.path.join(os.path.dirname(version_directory), name) for name in names]
