# SPDX-License-Identifier: Apache-2.0
"""Execution contexts: the members that all versions share, and what the real ones punish.

- An address that is no multiple of 256, the default stream, a shape outside of the profile, shapes, addresses or memory that
  were not given: the call says False, and the reason is in the log only.
- The binding raises where a profile cannot be set and where shapes cannot be inferred; other setters return False.
- Shapes of inputs that do not go together are taken, and what follows from them has a length of -1.
- What is enqueued runs when the stream comes to it, with the shapes and addresses of the moment at which it was enqueued.
- A context that computes writes into its device memory, so that two that share it at the same time harm each other.
- A replayed graph of a plan with `reads_shapes_from_context` sees the shapes that its context has by then; if they are others,
  it writes rubbish.
- Data-dependent shapes, loops and streamed weights wait for the stream within the enqueue, which no capture survives.
"""

from __future__ import annotations

import contextlib
import ctypes
import traceback
from collections.abc import Iterable
from typing import Any

import numpy as np
from cuda import simulation
from cuda.bindings import runtime as cudart

from .basics import Dims, no_dims, sizes
from .engines import item_bytes
from .logs import SPEAKER
from .networks import DTYPES, Array, Shape, is_within, output_shapes

RUBBISH = 0x5A


class CommonContext:
    def __init__(self, engine: Any, is_without_memory: bool) -> None:
        self.engine = engine
        self._profile = -1
        self._shapes: dict[str, Shape] = {
            name: sizes(shape) for name, (_, shape) in engine._plan.inputs.items() if -1 not in shape
        }
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._memory = 0 if is_without_memory else -1  # -1: the context's own

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        exists = 0 <= profile_index < self.engine.num_optimization_profiles
        if not exists:
            SPEAKER.error(f"IExecutionContext::setOptimizationProfileAsync: invalid profile index {profile_index}")
        if not exists or not self.engine._claim(self, profile_index):
            raise RuntimeError("Error in set optimization profile async.")
        self._shapes = {name: shape for name, shape in self._shapes.items() if -1 not in self.engine._plan.inputs[name][1]}
        return True

    def set_input_shape(self, name: str, shape: Iterable[int]) -> bool:
        plan, given = self.engine._plan, sizes(shape)
        if name not in plan.inputs:
            SPEAKER.error(f"IExecutionContext::setInputShape: '{name}' is no input")
            return False
        bounds = [sizes(each) for each in self.engine.get_tensor_profile_shape(name, max(self._profile, 0))]
        if self._profile < 0 or not is_within(given, bounds):
            SPEAKER.error(f"IExecutionContext::setInputShape: Error Code 3: {name} {given} is not within the profile {bounds}")
            return False
        self._shapes[name] = given
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        plan = self.engine._plan
        if name in plan.inputs:
            return Dims(self._shapes.get(name, sizes(plan.inputs[name][1])))
        if self._missing():
            return Dims(plan.outputs[name][1])
        made = self._made(self._host_values())
        return no_dims() if made is None else Dims(made[name])

    def infer_shapes(self) -> list[str]:
        missing = self._missing()
        if not missing and self._made(self._host_values()) is None:
            raise RuntimeError("infer_shapes error code: -1")
        return missing

    def _missing(self) -> list[str]:
        plan = self.engine._plan
        missing = [name for name in plan.inputs if name not in self._shapes]
        return missing + [name for name in plan.host_inputs if not self._addresses.get(name)]

    def _made(self, host_values: dict[str, Array]) -> dict[str, Shape] | None:
        """Shapes of the outputs; None, and a line in the log, where there can be none."""
        try:
            return output_shapes(self.engine._plan, self._shapes, host_values)
        except ValueError as error:
            SPEAKER.error(f"IExecutionContext::inferShapes: Error Code 7: Internal Error ({error})")
            return None

    @property
    def all_binding_shapes_specified(self) -> bool:
        return all(name in self._shapes for name in self.engine._plan.inputs)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % 256:
            SPEAKER.error(f"IExecutionContext::setTensorAddress: {name} at {memory:#x} is not aligned to 256 bytes")
            return False
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        if not getattr(output_allocator, "_is_initialised", False):
            raise TypeError("tensorrt.IOutputAllocator.__init__() must be called when overriding __init__")
        self._allocators[name] = output_allocator
        return True

    def get_output_allocator(self, name: str) -> Any:
        return self._allocators.get(name)

    def get_max_output_size(self, name: str) -> int:
        return -1

    def _set_device_memory(self, address: int) -> None:
        self._memory = address

    device_memory = property(None, _set_device_memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        refusal = self._refusal(stream_handle)
        if refusal:
            SPEAKER.error(f"IExecutionContext::enqueueV3: Error Code 3: {refusal}")
            return False
        plan, host_values = self.engine._plan, self._host_values()
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        made = self._made(host_values)
        if made is None:
            return False
        if plan.has_loops or self._streams_weights or any(-1 in shape for shape in made.values()):
            error = cudart.cudaStreamSynchronize(stream_handle)[0]
            if error:
                SPEAKER.error(f"IExecutionContext::enqueueV3: Cuda Runtime ({error.name}) while waiting for the stream")
                return False
        if not self._allocate(made, shapes, addresses, host_values):
            return False
        is_captured = _is_captured(stream_handle)

        def compute() -> None:
            self._compute(shapes, addresses, host_values, is_captured)

        simulation.enqueue(stream_handle, compute, self._touched(shapes, addresses, made))
        return True

    @property
    def _streams_weights(self) -> bool:
        return bool(self.engine._plan.streamed_weights)

    def _refusal(self, stream_handle: int) -> str:
        plan = self.engine._plan
        if plan.is_implicit:
            return "an engine with an implicit batch dimension"
        if stream_handle in (0, 1, 2):
            return "Using default stream in enqueueV3() may lead to performance issues"
        if self._profile < 0 and self.engine._is_dynamic:
            return "no optimization profile was set"
        missing = self._missing()
        if missing:
            return f"shapes or values of {', '.join(missing)} are not set"
        lacking = [name for name in self.engine._tensors if not self._addresses.get(name) and name not in self._allocators]
        if lacking:
            return f"Address is not set for tensor {lacking[0]}"
        if plan.activation_bytes and not self._memory:
            return "device memory is not set"
        return ""

    def _allocate(
        self, made: dict[str, Shape], shapes: dict[str, Shape], addresses: dict[str, int], host_values: dict[str, Array]
    ) -> bool:
        """Asks allocators for memory, and tells them shapes. What they raise is printed and forgotten, as by pybind11."""
        results = self._results(shapes, addresses, host_values) if any(-1 in shape for shape in made.values()) else {}
        for name, allocator in self._allocators.items():
            shape = results[name].shape if name in results else made[name]
            size = max(int(np.prod(shape)) * item_bytes(self.engine._plan.outputs[name][0]), 1)
            given = 0
            with printed():
                given = self._ask(allocator, name, addresses.get(name, 0), size) or 0
            if not given:
                SPEAKER.error(f"IExecutionContext::enqueueV3: Error Code 2: no memory for output {name}")
                return False
            addresses[name] = int(given)
            with printed():
                allocator.notify_shape(name, Dims(shape))
        return True

    def _ask(self, allocator: Any, name: str, memory: int, size: int) -> Any:
        return allocator.reallocate_output(name, memory, size, 256)

    def _host_values(self) -> dict[str, Array]:
        plan, values = self.engine._plan, {}
        for name in plan.host_inputs:
            kind, shape = plan.inputs[name]
            address = self._addresses.get(name, 0)
            if address:
                raw = ctypes.string_at(address, int(np.prod(shape)) * item_bytes(kind))
                values[name] = np.frombuffer(raw, DTYPES[kind]).reshape(shape)
        return values

    def _results(self, shapes: dict[str, Shape], addresses: dict[str, int], host_values: dict[str, Array]) -> dict[str, Array]:
        plan, inputs = self.engine._plan, {}
        for name, (kind, _) in plan.inputs.items():
            if name in host_values:
                inputs[name] = host_values[name]
                continue
            size = int(np.prod(shapes[name])) * item_bytes(kind)
            inputs[name] = simulation.view(addresses[name], size).view(DTYPES[kind]).reshape(shapes[name]).copy()
        return plan.evaluate(inputs)

    def _compute(
        self, shapes: dict[str, Shape], addresses: dict[str, int], host_values: dict[str, Array], is_captured: bool
    ) -> None:
        plan = self.engine._plan
        is_stale = is_captured and plan.reads_shapes_from_context and shapes != self._shapes
        if self._memory > 0:
            simulation.view(self._memory, plan.activation_bytes)[:] = RUBBISH
        results = self._results(shapes, addresses, host_values)
        for name, (kind, _) in plan.outputs.items():
            content = np.ascontiguousarray(results[name].astype(DTYPES[kind])).reshape(-1).view(np.uint8)
            target = simulation.view(addresses[name], content.size)
            target[:] = RUBBISH if is_stale else content

    def _touched(self, shapes: dict[str, Shape], addresses: dict[str, int], made: dict[str, Shape]) -> list[tuple[int, int]]:
        plan, touched = self.engine._plan, []
        for name, (kind, _) in self.engine._tensors.items():
            shape = shapes.get(name) or made.get(name) or ()
            if name not in plan.host_inputs and -1 not in shape:
                touched.append((addresses[name], int(np.prod(shape)) * item_bytes(kind)))
        return touched + ([(self._memory, plan.activation_bytes)] if self._memory > 0 else [])


def _is_captured(stream_handle: int) -> bool:
    return bool(cudart.cudaStreamIsCapturing(stream_handle)[1])


@contextlib.contextmanager
def printed() -> Any:
    """What a callback raises."""
    try:
        yield
    except Exception:  # noqa: BLE001 - as the binding
        traceback.print_exc()
