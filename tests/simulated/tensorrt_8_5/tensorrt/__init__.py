# SPDX-License-Identifier: Apache-2.0
"""TensorRT 8.5.3, simulated: its members, or fewer, and what only it does. See simulated_tensorrt."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

_SHARED = str(Path(__file__).parents[2] / "tensorrt_shared")
if _SHARED not in sys.path:
    sys.path.append(_SHARED)

from simulated_tensorrt.basics import (
    Dims,
    ErrorCode,
    IHostMemory,
    TensorIOMode,
    TensorLocation,
)
from simulated_tensorrt.building import (
    CommonBuilder,
    CommonConfig,
    CommonNetwork,
    CommonParser,
    CommonParserError,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
)
from simulated_tensorrt.contexts import CommonContext
from simulated_tensorrt.engines import CommonEngine, CommonRuntime
from simulated_tensorrt.logs import SPEAKER, ILogger, Logger

__version__ = "8.5.3.1"
_trt = sys.modules[__name__]

DataType = IntEnum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"], start=0)
TensorFormat = IntEnum(
    "TensorFormat",
    ["LINEAR", "CHW2", "HWC8", "CHW4", "CHW16", "CHW32", "DHWC8", "CDHW32", "HWC", "DLA_LINEAR", "DLA_HWC4", "HWC16"],
    start=0,
)
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM", "DLA_GLOBAL_DRAM"], start=0)
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["EXPLICIT_BATCH", "EXPLICIT_PRECISION"], start=0)
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"], start=0)
PreviewFeature = IntEnum(
    "PreviewFeature", ["FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"], start=0
)
BuilderFlag = IntEnum(
    "BuilderFlag",
    [
        "FP16", "INT8", "DEBUG", "GPU_FALLBACK", "STRICT_TYPES", "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS",
        "SAFETY_SCOPE", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "DIRECT_IO", "REJECT_EMPTY_ALGORITHMS",
        "ENABLE_TACTIC_HEURISTIC",
    ],
    start=0,
)  # fmt: skip


class IOutputAllocator:
    def __init__(self) -> None:
        self._is_initialised = True

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        raise NotImplementedError("Tried to call pure virtual function IOutputAllocator::reallocateOutput")

    def notify_shape(self, tensor_name: str, shape: Dims) -> None:
        raise NotImplementedError("Tried to call pure virtual function IOutputAllocator::notifyShape")


class IExecutionContext(CommonContext):
    """Its members are those of all versions, as far as they are used."""


class ICudaEngine(CommonEngine):
    _trt = _trt
    _shares_profiles = False

    @property
    def has_implicit_batch_dimension(self) -> bool:
        return self._plan.is_implicit

    @property
    def device_memory_size(self) -> int:
        return self._plan.activation_bytes

    def create_execution_context(self) -> IExecutionContext:
        return self._new_context(is_without_memory=False)

    def create_execution_context_without_device_memory(self) -> IExecutionContext:
        return self._new_context(is_without_memory=True)


class Runtime(CommonRuntime):
    """Only warns of a missing driver."""

    _trt = _trt
    _severity_of_no_gpu = ILogger.WARNING


class INetworkDefinition(CommonNetwork):
    @property
    def has_implicit_batch_dimension(self) -> bool:
        return not self._flags & 1


class IBuilderConfig(CommonConfig):
    """8.5 has no optimization level, and no progress monitor."""


class Builder(CommonBuilder):
    _trt = _trt
    _severity_of_no_gpu = ILogger.WARNING

    platform_has_fast_fp16 = True
    platform_has_tf32 = True


class ParserError(CommonParserError):
    def __init__(self, text: str, node: int, name: str, operator: str) -> None:
        super().__init__(text, node)


class OnnxParser(CommonParser):
    _trt = _trt
    _narrows = True
    _needs_explicit_batch = True


class IPluginRegistry:
    """8.5 registers what a library registers when it is loaded, and nothing else."""


_REGISTRY = IPluginRegistry()


def get_plugin_registry() -> IPluginRegistry:
    return _REGISTRY


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    SPEAKER.take(logger)
    return True


def nptype(trt_type: DataType) -> Any:
    """As the real one with numpy 1.24 and later."""
    raise AttributeError("module 'numpy' has no attribute 'bool'")


__all__ = [
    "Builder", "BuilderFlag", "DataType", "Dims", "ErrorCode", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IOutputAllocator",
    "IPluginRegistry", "ITensor", "ITimingCache", "Logger", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "PreviewFeature", "ProfilingVerbosity", "Runtime",
    "TensorFormat", "TensorIOMode", "TensorLocation", "get_plugin_registry", "init_libnvinfer_plugins", "nptype",
]  # fmt: skip
