# SPDX-License-Identifier: Apache-2.0
"""Runtime and engines: the members that all versions share."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

from .basics import Dims, TensorIOMode, TensorLocation
from .logs import SPEAKER, Severity, require_gpu
from .networks import DTYPES, Plan


def is_plugin_present(name: str) -> bool:
    """A plugin is registered by a library of its name being loaded: libNAME.so."""
    return re.search(rf"/lib{name}\.so\b", Path("/proc/self/maps").read_text()) is not None


class CommonRuntime:
    _trt: Any
    _severity_of_no_gpu = Severity.ERROR

    def __init__(self, logger: Any) -> None:
        SPEAKER.take(logger)
        require_gpu(self._severity_of_no_gpu)
        self.logger = logger
        self.max_threads = 1

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        plan = Plan.from_bytes(bytes(serialized_engine))
        refusal = self._refusal(plan)
        if refusal or plan is None:
            SPEAKER.error(refusal)
            return None
        return self._trt.ICudaEngine(plan)

    def _refusal(self, plan: Plan | None) -> str:
        if plan is None:
            return "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
        missing = [op["name"] for op in plan.ops if op["op"] == "plugin" and not is_plugin_present(op["name"])]
        if missing:
            return f"IPluginRegistry::getPluginCreator: could not find plugin: {missing[0]} version: 1"
        if plan.has_host_code and not getattr(self, "engine_host_code_allowed", False):
            return "IRuntime::deserializeCudaEngine: the plan contains host code, which engine_host_code_allowed forbids"
        if plan.version != self._trt.__version__ and not plan.has_host_code:
            return (
                f"Version tag does not match. Note: Current Version: {self._trt.__version__}, "
                f"Serialized Engine Version: {plan.version}"
            )
        if plan.gpu != "Simulated GPU":
            return (
                f"The engine plan file is generated on an incompatible device, expecting compute {plan.gpu} got Simulated GPU"
            )
        return ""


class CommonEngine:
    _trt: Any
    #: whether several contexts may be on one profile of an engine whose shapes vary
    _shares_profiles = True

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        #: profile -> the context on it, where profiles are not shared
        self._users: dict[int, weakref.ref[Any]] = {}
        self._tensors = {**plan.inputs, **plan.outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._tensors:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._plan.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name][1])

    def get_tensor_format(self, name: str) -> Any:
        return self._trt.TensorFormat[self._plan.formats.get(name, "LINEAR")]

    def get_tensor_format_desc(self, name: str) -> str:
        return f"{self._plan.formats.get(name, 'Row major linear')} FP32 format (kLINEAR)"

    def get_tensor_location(self, name: str) -> TensorLocation:
        is_host = name in self._plan.host_inputs or name in self._plan.host_outputs
        return TensorLocation.HOST if is_host else TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self._plan.host_inputs

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if name not in self._plan.inputs:
            raise RuntimeError(f"{name} is no input")
        fixed = self._plan.inputs[name][1]
        profiles = self._plan.profiles[profile_index] if self._plan.profiles else {}
        return [Dims(each) for each in profiles.get(name, [fixed] * 3)]

    @property
    def num_optimization_profiles(self) -> int:
        return max(len(self._plan.profiles), 1)

    @property
    def num_layers(self) -> int:
        return len(self._plan.ops)

    @property
    def name(self) -> str:
        return "simulated"

    def serialize(self) -> Any:
        return self._trt.IHostMemory(self._plan.to_bytes())

    @property
    def _is_dynamic(self) -> bool:
        return any(-1 in shape for _, shape in self._plan.inputs.values())

    def _new_context(self, is_without_memory: bool) -> Any:
        """A context, which is on profile 0 if it can be."""
        context = self._trt.IExecutionContext(self, is_without_memory)
        if not self._claim(context, 0):
            SPEAKER.say(
                Severity.WARNING,
                "Could not set default profile 0 for execution context. Profile index must be set explicitly.",
            )
        return context

    def _claim(self, context: Any, profile: int) -> bool:
        """Puts a context on a profile, where that can be."""
        user = self._users.get(profile)
        taken = user() if user is not None else None
        if self._is_dynamic and not self._shares_profiles and taken not in (None, context):
            SPEAKER.error(
                f"IExecutionContext::setOptimizationProfileAsync: Profile {profile} has been chosen by another "
                "IExecutionContext. Use another profileIndex or destroy the IExecutionContext that use this profile."
            )
            return False
        for number in [number for number, user in self._users.items() if user() is context]:
            del self._users[number]
        self._users[profile] = weakref.ref(context)
        context._profile = profile
        return True


def item_bytes(kind: str) -> int:
    import numpy as np

    return np.dtype(DTYPES[kind]).itemsize
