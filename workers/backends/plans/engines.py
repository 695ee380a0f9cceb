# SPDX-License-Identifier: Apache-2.0
"""A plan in memory: what it says of its inputs, outputs and profiles, and the execution contexts that are made of it.

Where TensorRT can, all contexts share one engine, and so its weights. Up to 8.5, and with plans of 8.6 that were built without
PROFILE_SHARING_0806, no two contexts of an engine with dynamic shapes may use one profile: it is deserialized again then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ....ipc.errors import Code, ModelError, PenstockError, invalid
from .datatypes import datatype_of
from .library import Library
from .profiles import Profile, Range, Shape

if TYPE_CHECKING:
    from ...devices.cuda import Stream


class EngineTensor(NamedTuple):
    """An input or output of an engine. `dims` is complete, -1 where only an execution tells."""

    name: str
    datatype: str
    dims: Shape
    is_on_host: bool  # an input whose values decide about shapes: TensorRT reads them on the host

    @property
    def is_dynamic(self) -> bool:
        """Whether its shape must be set before an execution."""
        return -1 in self.dims

    @property
    def needs_profile(self) -> bool:
        """Whether executions differ in its shape, or in the shapes that its values are."""
        return self.is_dynamic or self.is_on_host


class Engines:
    """One plan, deserialized once or as often as its contexts need. `read` gives the file's content again."""

    def __init__(self, library: Library, filename: str, read: Callable[[], bytes], host_code_allowed: bool) -> None:
        self._library = library
        self._filename = filename
        self._read = read
        self._host_code_allowed = host_code_allowed
        self._runtime: Any = None
        #: all of the same plan; the first is there from `open` on
        self._engines: list[Any] = []
        #: contexts that were made
        self.contexts = 0
        self.inputs: list[EngineTensor] = []
        self.outputs: list[EngineTensor] = []

    def __repr__(self) -> str:
        return f"<Engines '{self._filename}', {len(self._engines)} deserialized, {self.contexts} contexts>"

    def check_invariants(self) -> None:
        """Raises AssertionError when contexts exist without an engine."""
        assert not self.contexts or self._engines, repr(self)

    def open(self, content: bytes) -> None:
        """Deserializes the plan and reads what it says. Raises ModelError that names the file and TensorRT's reason."""
        self._runtime = self._library.make_runtime()
        if hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = self._host_code_allowed
        elif self._host_code_allowed:
            raise invalid(
                f"parameter 'engine_host_code_allowed': TensorRT {self._library.version} knows no plans with host code"
            )
        engine = self._deserialized(content)
        if getattr(engine, "has_implicit_batch_dimension", False):
            raise ModelError(
                f"model file '{self._filename}' has an implicit batch dimension, which the API by tensor names cannot execute; "
                "build the plan from ONNX, or from a network with EXPLICIT_BATCH",
                Code.UNSUPPORTED,
            )
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = self._library.trt.TensorIOMode.INPUT
        self.inputs = [self._tensor(engine, "input", name) for name in names if engine.get_tensor_mode(name) == is_input]
        self.outputs = [self._tensor(engine, "output", name) for name in names if engine.get_tensor_mode(name) != is_input]

    def close(self) -> None:
        """Forgets engines and runtime, after the contexts were. Idempotent."""
        self._engines.clear()
        self._runtime = None
        self.contexts = 0

    # --- what the plan says ----------------------------------------------------------------------------------------------

    def order_inputs(self, names: Sequence[str]) -> None:
        """Puts the inputs into the order of these names, which are all of them."""
        self.inputs.sort(key=lambda tensor: names.index(tensor.name))

    def profiles(self, chosen: Sequence[str]) -> list[Profile]:
        """The profiles of these indices, or profile 0. Raises INVALID_ARG for one that the plan does not have."""
        count = self._engines[0].num_optimization_profiles
        for text in chosen:
            if not text.isdecimal() or int(text) >= count:
                raise invalid(
                    f"instance_group.profile '{text}': model file '{self._filename}' has {count} optimization profiles; "
                    f"write an index from 0 to {count - 1}"
                )
        return [self._profile(int(text)) for text in dict.fromkeys(chosen or ["0"])]

    @property
    def activation_bytes(self) -> int:
        """Device memory that a context needs while it executes, on any profile."""
        engine = self._engines[0]
        size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
        return int(size)

    def describe(self) -> dict[str, Any]:
        """The plan and its engines; see DeviceBackend."""
        if not self._engines:
            return {}
        engine = self._engines[0]
        return {
            "tensorrt": self._library.version,
            "plan": self._filename,
            "engines": len(self._engines),
            "contexts": self.contexts,
            "layers": engine.num_layers,
            "activation_bytes": self.activation_bytes,
        }

    def _tensor(self, engine: Any, kind: str, name: str) -> EngineTensor:
        trt = self._library.trt
        datatype = datatype_of(engine.get_tensor_dtype(name).name, kind, name, self._filename)
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise ModelError(
                f"model file '{self._filename}': {kind} '{name}' has the format {engine.get_tensor_format_desc(name)}; only "
                "linear tensors are served (is_non_linear_format_io is not implemented): build the plan with linear "
                "inputs and outputs",
                Code.UNSUPPORTED,
            )
        is_on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        if is_on_host and kind == "output":
            raise ModelError(
                f"model file '{self._filename}': output '{name}' is a shape tensor in host memory, which is not implemented; "
                "mark it as an execution output when the plan is built",
                Code.UNSUPPORTED,
            )
        return EngineTensor(name, datatype, tuple(engine.get_tensor_shape(name)), is_on_host)

    def _profile(self, index: int) -> Profile:
        engine = self._engines[0]
        ranges = []
        for tensor in self.inputs:
            shapes = engine.get_tensor_profile_shape(tensor.name, index) if tensor.is_dynamic else [tensor.dims] * 3
            ranges.append(Range(*(tuple(shape) for shape in shapes)))
        return Profile(index, tuple(ranges))

    # --- contexts --------------------------------------------------------------------------------------------------------

    def context(self, profile: int, stream: Stream, memory: tuple[int, int]) -> Any:
        """An execution context on a profile. Its engine is shared with others if that can be.

        It computes in `memory` (address, byte size), where nothing else may execute at the same time. Raises ModelError.
        """
        context = self.another_context(profile, stream, memory)
        if context is None:
            context = self._context_of(self._deserialized(self._read()), profile, stream, memory)
        if context is None:
            raise ModelError(
                f"optimization profile {profile} of '{self._filename}' cannot be used: {self._library.log.reason()}"
            )
        return context

    def another_context(self, profile: int, stream: Stream, memory: tuple[int, int]) -> Any | None:
        """As `context`, or None where the plan would have to be deserialized again for it."""
        for engine in self._engines:
            context = self._context_of(engine, profile, stream, memory)
            if context is not None:
                return context
        return None

    def _context_of(self, engine: Any, profile: int, stream: Stream, memory: tuple[int, int]) -> Any | None:
        trt, log = self._library.trt, self._library.log
        log.forget()
        with log.quietly():  # 8.5 tries profile 0 on its own for each context, and says so where another one has it
            if hasattr(trt, "ExecutionContextAllocationStrategy"):
                context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            else:
                context = engine.create_execution_context_without_device_memory()
            if context is None:
                raise ModelError(f"no execution context for '{self._filename}': {log.reason()}")
            if any(tensor.needs_profile for tensor in self.inputs):
                try:
                    context.set_optimization_profile_async(profile, stream.address)
                except RuntimeError:  # the binding's word for no, where other setters return False
                    return None
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(*memory)
        else:
            context.device_memory = memory[0]
        self.contexts += 1
        return context

    def _deserialized(self, content: bytes) -> Any:
        log = self._library.log
        with self._library.loading:
            log.forget()
            try:
                engine = self._runtime.deserialize_cuda_engine(content)
            except (RuntimeError, TypeError) as error:
                raise self._refused(log.reason(str(error))) from error
        if engine is None:
            raise self._refused(log.reason())
        self._engines.append(engine)
        return engine

    def _refused(self, reason: str) -> PenstockError:
        return ModelError(
            f"model file '{self._filename}' cannot be deserialized by TensorRT {self._library.version}: {reason}. A plan works "
            "with the version of TensorRT and the kind of GPU that it was built with; build it again here from its ONNX model "
            "(penstock convert)"
        )
