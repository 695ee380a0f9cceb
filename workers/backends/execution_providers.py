# SPDX-License-Identifier: Apache-2.0
"""From the configuration's execution accelerators to onnxruntime's execution providers and their options. Pure.

Names and rules are those of Triton's onnxruntime backend (README, "ONNX Runtime with TensorRT optimization" and after it);
the options are described in onnxruntime's pages on each provider. What onnxruntime does not know it refuses itself, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ...ipc.errors import Code, MachineError, ModelError, PenstockError, invalid
from ...ipc.messages import ModelSpec

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"

_PACKAGES = {CUDA: "onnxruntime-gpu", TENSORRT: "onnxruntime-gpu", OPENVINO: "onnxruntime-openvino"}
"""Provider -> the package that has it; only one of onnxruntime's packages can be installed at a time."""

_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS = {"FP32": "", "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
_CUDA_CHOICES = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
"""Options that Triton takes as the number of a choice."""
_CUDA_PARAMETERS = (*_CUDA_CHOICES, "gpu_mem_limit", "do_copy_in_default_stream")
"""Options that Triton also takes from the model's `parameters`, where an accelerator does not say otherwise."""
_OURS = frozenset({"device_id", "user_compute_stream", "has_user_compute_stream"})
_TRUTH = {"true": "1", "false": "0"}


class Provider(NamedTuple):
    """An execution provider, with options as onnxruntime takes them."""

    name: str
    options: Mapping[str, str] = MappingProxyType({})


def cpu_providers(spec: ModelSpec) -> list[Provider]:
    """For an instance on the CPU. Raises INVALID_ARG."""
    found = []
    for accelerator in spec.optimization.cpu_accelerators:
        if accelerator.name != "openvino":
            raise _unknown(spec, "cpu_execution_accelerator", accelerator.name, "openvino")
        found.append(Provider(OPENVINO, {"device_type": "CPU", **accelerator.parameters}))
    return [*found, Provider(CPU)]


def gpu_providers(spec: ModelSpec, ordinal: int, stream: int = 0) -> list[Provider]:
    """For an instance on a GPU, which computes in the stream at that address; 0: in one of onnxruntime's own.

    Raises INVALID_ARG.
    """
    place = {"device_id": str(ordinal)}
    if stream:
        place["user_compute_stream"] = str(stream)
    tensorrt, cuda = [], {key: spec.parameters[key] for key in _CUDA_PARAMETERS if spec.parameters.get(key)}
    for accelerator in spec.optimization.gpu_accelerators:
        if accelerator.name == "tensorrt":
            tensorrt = [Provider(TENSORRT, {**_tensorrt_options(spec.name, accelerator.parameters), **place})]
        elif accelerator.name == "cuda":
            cuda.update(accelerator.parameters)
        else:
            raise _unknown(spec, "gpu_execution_accelerator", accelerator.name, "tensorrt and cuda")
    return [*tensorrt, Provider(CUDA, {**_cuda_options(spec.name, cuda), **place}), Provider(CPU)]


def captures_graphs(providers: Sequence[Provider]) -> bool:
    """Whether a provider was told to capture CUDA graphs."""
    keys = ("enable_cuda_graph", "trt_cuda_graph_enable")
    return any(provider.options.get(key, "0") not in ("0", "False") for provider in providers for key in keys)


def refuse_missing(providers: Sequence[Provider], available: Sequence[str], version: str) -> None:
    """Raises MachineError for a provider that the installed onnxruntime does not have, with what to install."""
    for provider in providers:
        if provider.name not in available:
            package = _PACKAGES[provider.name]
            raise MachineError(
                f"the installed onnxruntime {version} has no {provider.name} (it has {', '.join(available)}): "
                f"pip uninstall onnxruntime, then pip install {package}",
                Code.UNSUPPORTED,
            )


def refuse_inactive(filename: str, providers: Sequence[Provider], active: Sequence[str]) -> None:
    """Raises ModelError for a provider that a session was to have and has not: onnxruntime says so in its log at most."""
    for provider in providers:
        if provider.name not in active:
            raise ModelError(
                f"model file '{filename}': onnxruntime could not use {provider.name} and fell back to {', '.join(active)}; "
                "its libraries (CUDA, cuDNN, TensorRT) may be missing, or of another version than it needs"
            )


def _tensorrt_options(model: str, parameters: Mapping[str, str]) -> dict[str, str]:
    options = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _PRECISIONS:
                raise invalid(
                    f"model '{model}': unsupported precision mode '{value}' is requested; known are FP32, FP16, BF16, INT8"
                )
            if _PRECISIONS[value]:
                options[_PRECISIONS[value]] = "1"
        elif key in _TENSORRT_NAMES or key.startswith("trt_"):
            options[_TENSORRT_NAMES.get(key, key)] = _TRUTH.get(value.lower(), value)
        else:
            known = ", ".join(["precision_mode", *_TENSORRT_NAMES])
            raise invalid(
                f"model '{model}': unknown parameter '{key}' is provided for TensorRT Execution Accelerator; known are {known} "
                "and onnxruntime's own, which begin with trt_"
            )
    return options


def _cuda_options(model: str, parameters: Mapping[str, str]) -> dict[str, str]:
    options = {}
    for key, value in parameters.items():
        if key in _OURS:
            raise invalid(f"model '{model}': parameter '{key}' of the cuda accelerator is the worker's to set; remove it")
        choices = _CUDA_CHOICES.get(key, ())
        if value.isdecimal() and choices:
            if int(value) >= len(choices):
                numbered = ", ".join(f"{number} ({choice})" for number, choice in enumerate(choices))
                raise invalid(f"model '{model}': unsupported {key} value '{value}' is requested; known are {numbered}")
            value = choices[int(value)]  # noqa: PLW2901 - the same choice by its name
        options[key] = _TRUTH.get(value.lower(), value)
    return options


def _unknown(spec: ModelSpec, key: str, name: str, known: str) -> PenstockError:
    return invalid(
        f"model '{spec.name}': unknown Execution Accelerator '{name}' is requested in {key}; onnxruntime has {known}"
    )
