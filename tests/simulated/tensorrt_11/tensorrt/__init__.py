# SPDX-License-Identifier: Apache-2.0
"""TensorRT 11.4, simulated: its members, or fewer, and what only it does. See simulated_tensorrt."""

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

__version__ = "11.4.0.1"
_trt = sys.modules[__name__]

DataType = IntEnum(
    "DataType",
    ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4", "FP4", "E8M0"],
    start=0,
)
TensorFormat = IntEnum(
    "TensorFormat",
    [
        "LINEAR", "CHW2", "HWC8", "CHW4", "CHW16", "CHW32", "DHWC8", "CDHW32", "HWC", "DLA_LINEAR", "DLA_HWC4", "HWC16", "DHWC",
    ],
    start=0,
)  # fmt: skip
MemoryPoolType = IntEnum(
    "MemoryPoolType",
    ["WORKSPACE", "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM", "DLA_GLOBAL_DRAM", "TACTIC_DRAM", "TACTIC_SHARED_MEMORY"],
    start=0,
)
NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag", ["STRONGLY_TYPED", "PREFER_JIT_PYTHON_PLUGINS", "PREFER_AOT_PYTHON_PLUGINS"]
)
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"], start=0)
PreviewFeature = IntEnum("PreviewFeature", ["ALIASED_PLUGIN_IO_10_03", "RUNTIME_ACTIVATION_RESIZE_10_10"])
HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"], start=0)
ExecutionContextAllocationStrategy = IntEnum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"], start=0
)
BuilderFlag = IntEnum(
    "BuilderFlag",
    [
        "DEBUG", "GPU_FALLBACK", "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS", "SAFETY_SCOPE", "DIRECT_IO",
        "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "ERROR_ON_TIMING_CACHE_MISS", "DISABLE_COMPILATION_CACHE", "STRIP_PLAN",
        "REFIT_IDENTICAL", "WEIGHT_STREAMING", "REFIT_INDIVIDUAL", "STRICT_NANS", "MONITOR_MEMORY", "EDITABLE_TIMING_CACHE",
        "DISTRIBUTIVE_INDEPENDENCE",
    ],
)  # fmt: skip


class IOutputAllocator:
    """Its callbacks are virtual functions of the library only: what a subclass does not have cannot be called."""

    def __init__(self) -> None:
        self._is_initialised = True


class IExecutionContext(CommonContext):
    def set_device_memory(self, memory: int, size: int) -> None:
        if size < self.engine._plan.activation_bytes or memory % 256:
            SPEAKER.error(f"IExecutionContext::setDeviceMemoryV2: {size} bytes at {memory:#x} do not suffice")
            return
        self._memory = memory

    def _ask(self, allocator: Any, name: str, memory: int, size: int) -> Any:
        if hasattr(allocator, "reallocate_output_async"):
            return allocator.reallocate_output_async(name, memory, size, 256, 0)
        return super()._ask(allocator, name, memory, size)

    @property
    def _streams_weights(self) -> bool:
        return self.engine.weight_streaming_budget_v2 < self.engine.streamable_weights_size


class ICudaEngine(CommonEngine):
    _trt = _trt

    def __init__(self, plan: Any) -> None:
        super().__init__(plan)
        self._budget = 0

    @property
    def device_memory_size_v2(self) -> int:
        return self._plan.activation_bytes

    @property
    def streamable_weights_size(self) -> int:
        return self._plan.streamed_weights

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        self._budget = budget

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        return self._new_context(strategy == ExecutionContextAllocationStrategy.USER_MANAGED)


class Runtime(CommonRuntime):
    _trt = _trt

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self.engine_host_code_allowed = False


class INetworkDefinition(CommonNetwork):
    def get_flag(self, flag: int) -> bool:
        return bool(self._flags & 1 << int(flag))


class IProgressMonitor:
    def __init__(self) -> None:
        self._is_initialised = True


class IBuilderConfig(CommonConfig):
    def __init__(self) -> None:
        super().__init__()
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: Any = None


class Builder(CommonBuilder):
    _trt = _trt


class ParserError(CommonParserError):
    def __init__(self, text: str, node: int, name: str, operator: str) -> None:
        super().__init__(text, node)
        self._name = name
        self._operator = operator

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class OnnxParser(CommonParser):
    _trt = _trt


class IPluginRegistry:
    def __init__(self) -> None:
        self._libraries: list[str] = []

    def load_library(self, plugin_path: str) -> str | None:
        if plugin_path in self._libraries:
            SPEAKER.error(f"IPluginRegistry::loadLibrary: a plugin of {plugin_path} is registered already")
            return None
        self._libraries.append(plugin_path)
        return plugin_path


_REGISTRY = IPluginRegistry()


def get_plugin_registry() -> IPluginRegistry:
    return _REGISTRY


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    SPEAKER.take(logger)
    return True


__all__ = [
    "Builder", "BuilderFlag", "DataType", "Dims", "ErrorCode", "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger",
    "INetworkDefinition", "IOptimizationProfile", "IOutputAllocator", "IPluginRegistry", "IProgressMonitor", "ITensor",
    "ITimingCache", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "ParserError", "PreviewFeature", "ProfilingVerbosity", "Runtime", "TensorFormat", "TensorIOMode", "TensorLocation",
    "get_plugin_registry", "init_libnvinfer_plugins",
]  # fmt: skip
