# SPDX-License-Identifier: Apache-2.0
"""Builder, network, configuration and the ONNX parser: what is needed to make a plan of an ONNX model."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from .basics import ErrorCode, IHostMemory, sizes
from .logs import SPEAKER, Severity, require_gpu
from .networks import Plan

ONNX_KINDS = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "uint8": "UINT8",
    "float64": "FLOAT",
}  # fmt: skip
BY_DATA = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress"})


class ITensor:
    def __init__(self, name: str, dtype: Any, shape: Sequence[int]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = tuple(shape)


class CommonNetwork:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self.name = ""
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._ops: list[dict[str, Any]] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._ops)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        given = [list(sizes(each)) for each in (min, opt, max)]
        if len({len(each) for each in given}) != 1:
            raise RuntimeError(f"the dimensions of profile shapes of {input} differ in number")
        self._shapes[input] = given

    def get_shape(self, input: str) -> list[Any]:
        return [tuple(each) for each in self._shapes.get(input, [])]


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._timed: list[str] = json.loads(content) if content else []

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps(self._timed).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._timed += input_cache._timed
        return True

    def reset(self) -> bool:
        self._timed.clear()
        return True


class CommonConfig:
    def __init__(self) -> None:
        self._set: set[int] = set()
        self._limits: dict[int, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self.profiling_verbosity = 0
        self.avg_timing_iterations = 1

    def set_flag(self, flag: int) -> None:
        self._set.add(int(flag))

    def clear_flag(self, flag: int) -> None:
        self._set.discard(int(flag))

    def get_flag(self, flag: int) -> bool:
        return int(flag) in self._set

    def set_memory_pool_limit(self, pool: int, pool_size: int) -> None:
        self._limits[int(pool)] = pool_size

    def get_memory_pool_limit(self, pool: int) -> int:
        return self._limits.get(int(pool), 1 << 34)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        try:
            return ITimingCache(bytes(serialized_timing_cache))
        except ValueError:
            SPEAKER.error("IBuilderConfig::createTimingCache: the serialized timing cache is corrupt")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)


class CommonBuilder:
    _trt: Any
    _severity_of_no_gpu = Severity.ERROR

    def __init__(self, logger: Any) -> None:
        SPEAKER.take(logger)
        require_gpu(self._severity_of_no_gpu)
        self.logger = logger
        self.max_threads = 1

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def is_network_supported(self, network: CommonNetwork, config: CommonConfig) -> bool:
        return not self._refusal(network, config)

    def reset(self) -> None:
        """Forgets what was built."""

    def build_serialized_network(self, network: Any, config: Any) -> IHostMemory | None:
        refusal = self._refusal(network, config)
        if refusal:
            SPEAKER.error(f"IBuilder::buildSerializedNetwork: Error Code 4: {refusal}")
            return None
        if not self._watch(config, network):
            SPEAKER.error("IBuilder::buildSerializedNetwork: the build was cancelled")
            return None
        if config._cache is not None:
            config._cache._timed += [op["op"] for op in network._ops]
        tensors = [
            {each.name: (each.dtype.name, list(each.shape)) for each in side} for side in (network._inputs, network._outputs)
        ]
        profiles = [profile._shapes for profile in config._profiles]
        return IHostMemory(Plan(self._trt.__version__, *tensors, network._ops, profiles).to_bytes())

    def _watch(self, config: Any, network: Any) -> bool:
        """Reports progress where the version can; False when it was told to stop."""
        monitor = getattr(config, "progress_monitor", None)
        if monitor is None:
            return True
        steps = max(len(network._ops), 1)
        monitor.phase_start("Building Engine", None, steps)
        goes_on = all(monitor.step_complete("Building Engine", step) for step in range(steps))
        monitor.phase_finish("Building Engine")
        return goes_on

    def _refusal(self, network: CommonNetwork, config: CommonConfig) -> str:
        if not network._outputs:
            return "Network must have at least one output"
        for tensor in network._inputs:
            if -1 not in tensor.shape:
                continue
            if not config._profiles:
                return f"Network has dynamic or shape inputs, but no optimization profile has been defined: {tensor.name}"
            for number, profile in enumerate(config._profiles):
                shapes = profile._shapes.get(tensor.name)
                if shapes is None:
                    return f"optimization profile {number} has no shapes for {tensor.name}"
                if not all(_is_range(*bounds) for bounds in zip(tensor.shape, *shapes, strict=True)):
                    return f"optimization profile {number}: {shapes} does not fit {tensor.name} {tensor.shape}"
        return ""


def _is_range(want: int, low: int, best: int, high: int) -> bool:
    return 0 < low <= best <= high and (want == -1 or low == high == want)


class CommonParserError:
    def __init__(self, text: str, node: int) -> None:
        self._text = text
        self._node = node

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node

    def file(self) -> str:
        return "simulated"

    def func(self) -> str:
        return "parse"

    def line(self) -> int:
        return 1


class CommonParser:
    _trt: Any
    #: INT64 becomes INT32
    _narrows = False
    _needs_explicit_batch = False

    def __init__(self, network: Any, logger: Any) -> None:
        SPEAKER.take(logger)
        self._network = network
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        import onnx

        return onnx.defs.has(op_name)

    def parse_from_file(self, model: str) -> bool:
        import onnx

        try:
            return self._parse(onnx.load(model))
        except Exception as error:  # noqa: BLE001 - whatever onnx raises is this model's fault
            return self._fail(f"Failed to parse ONNX model from file: {model}: {error}", -1)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx

        try:
            return self._parse(onnx.load_from_string(bytes(model)))
        except Exception as error:  # noqa: BLE001 - see parse_from_file
            return self._fail(f"ModelImporter: failed to parse the model: {error}", -1)

    def _fail(self, text: str, node: int, name: str = "", operator: str = "") -> bool:
        self._errors.append(self._trt.ParserError(text, node, name, operator))
        SPEAKER.error(text)
        return False

    def _parse(self, model: Any) -> bool:
        if self._needs_explicit_batch and not self._network._flags & 1:
            return self._fail("ModelImporter: This version of the ONNX parser only supports networks with EXPLICIT_BATCH", -1)
        for index, node in enumerate(model.graph.node):
            if not self.supports_operator(node.op_type):
                text = f"No importer registered for op: {node.op_type}. Attempting to import as plugin. Plugin not found"
                return self._fail(text, index, node.name, node.op_type)
        initial = {each.name for each in model.graph.initializer}
        depends = any(node.op_type in BY_DATA for node in model.graph.node)
        self._network._inputs += [self._tensor(each) for each in model.graph.input if each.name not in initial]
        outputs = [self._tensor(each) for each in model.graph.output]
        self._network._outputs += outputs
        encoded = base64.b64encode(model.SerializeToString()).decode()
        kinds = [tensor.dtype.name for tensor in outputs]
        self._network._ops.append({"op": "onnx", "model": encoded, "kinds": kinds, "depends_on_data": depends})
        return True

    def _tensor(self, value: Any) -> ITensor:
        import onnx

        kind = value.type.tensor_type
        name = ONNX_KINDS[str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))]
        if name == "INT64" and self._narrows:
            SPEAKER.say(
                Severity.WARNING,
                "Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support INT64. "
                "Attempting to cast down to INT32.",
            )
            name = "INT32"
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        return ITensor(value.name, self._trt.DataType[name], dims)
