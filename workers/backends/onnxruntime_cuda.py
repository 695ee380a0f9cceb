# SPDX-License-Identifier: Apache-2.0
"""ONNX models through onnxruntime on a GPU, bound to device memory, in the lane's stream.

A session computes in one stream, so each lane has a session, weights included. Outputs of unknown shape are onnxruntime's own
memory, held until the slot is used again. CUDA graphs are onnxruntime's (`enable_cuda_graph` of the cuda accelerator): one for
each slot and set of shapes, for work that lies in the slot; anything else runs without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ipc.errors import Code, ModelError
from ...ipc.messages import LoadModel, ModelSpec, Signature, TensorSpec
from ...ipc.tensors import ITEM_BYTES, elements, numpy_dtype
from ..shapes import Shapes
from .device_zeros import fill_inputs, largest, own, zero_work
from .execution_providers import CPU, CUDA, Provider, captures_graphs, gpu_providers
from .on_device import DeviceBackend, DeviceTensor, DeviceWork, Lane, Slot
from .onnx_sessions import ONNX_TYPES, check_names, open_session, ort, outputs_apart, signature_of

if TYPE_CHECKING:
    from ..devices.cuda import Device

NO_GRAPH = "-1"
"""onnxruntime's annotation of a run that is neither captured nor replayed."""


class _InLane(NamedTuple):
    """A lane's session, on the lane's stream."""

    session: Any
    has_graphs: bool


class _InSlot:
    """What is bound for a slot, so that the same work again costs one call."""

    def __init__(self, slot: Slot, binding: Any) -> None:
        self.slot = slot
        self.binding = binding
        #: (inputs, wanted outputs, places) of what is bound
        self.bound: tuple[Any, ...] = ()
        #: onnxruntime's own memory with outputs of the slot's last batch
        self.held: Sequence[Any] = ()


class OnnxRuntimeCuda(DeviceBackend):
    """One session per lane. `memory`: what onnxruntime calls the device's memory."""

    def __init__(self, memory: str = "cuda") -> None:
        self._memory = memory
        self._ordinal = 0
        self._order: LoadModel | None = None
        self._spec: ModelSpec | None = None
        self._shapes: Shapes | None = None
        #: between load and warm_up
        self._first: Any = None
        self._lanes: dict[int, _InLane] = {}
        self._slots: dict[tuple[int, int], _InSlot] = {}
        self._apart: frozenset[int] = frozenset()
        #: nobody waits for the stream
        self._plain = _run_options(NO_GRAPH)
        #: (lane, slot, shapes, wanted) -> the options of runs of its graph
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._graph_count = 0

    def __repr__(self) -> str:
        state = "closed" if self._order is None else "loaded" if self._spec is None else self._spec.name
        return f"<OnnxRuntimeCuda {state}, {len(self._lanes)} lanes, {len(self._graphs)} graphs>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a slot has no lane, or there are more graphs than annotations."""
        assert len(self._graphs) <= self._graph_count, repr(self)
        assert all(lane in self._lanes for lane, _ in self._slots), repr(self)

    def load(self, order: LoadModel, device: Device) -> Signature:
        """Reads DIRECTORY/FILENAME (model.onnx). Raises ModelError with the file's name and the reason.

        What is loaded here only tells the signature, and that the device can be used: sessions need their lane's stream.
        TensorRT, which may build for minutes, has no part in it.
        """
        self._ordinal = device.ordinal
        self._order = order
        providers = [each for each in self._providers(order.spec, 0) if each.name in (CUDA, CPU)]
        self._first = open_session(order, providers)
        return signature_of(self._first, order)

    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:
        """Makes the lanes' sessions, then executes one row and the largest batch of zeros in every slot."""
        assert self._order is not None, "warm_up before load"
        for tensor in [*spec.inputs, *spec.outputs]:
            if tensor.datatype == "BYTES":
                raise ModelError(
                    f"model '{spec.name}': tensor '{tensor.name}' is BYTES, which no device memory holds", Code.UNSUPPORTED
                )
        self._first = None  # its memory is wanted
        self._spec, self._shapes = spec, Shapes(spec)
        self._slots = {}
        for slot in slots:
            if slot.lane.index not in self._lanes:
                self._lanes[slot.lane.index] = self._open(spec, slot.lane)
            self._in_slot(slot)
        session = self._lanes[slots[0].lane.index].session
        check_names(session, spec, self._shapes)
        self._apart = outputs_apart(session, spec, self._shapes)
        for slot in slots:
            if not samples_follow or self._lanes[slot.lane.index].has_graphs:
                self._execute_zeros(slot)

    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Raises what onnxruntime raises."""
        lane = self._lanes[work.slot.lane.index]
        in_slot = self._in_slot(work.slot)
        in_slot.held = ()
        self._bind(in_slot, work)
        lane.session.run_with_iobinding(in_slot.binding, self._options(lane, work))
        if all(place is not None for place in work.places) and not self._apart:
            return work.places
        values = in_slot.held = in_slot.binding.get_outputs()
        return [
            place if place is not None and output not in self._apart else self._own(output, value)
            for output, place, value in zip(work.wanted, work.places, values, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """The version of onnxruntime, and the providers that are at work."""
        providers = [lane.session.get_providers() for lane in self._lanes.values()]
        return {"onnxruntime": ort.__version__, "providers": providers[0] if providers else []}

    def close(self) -> None:
        """Frees the sessions."""
        self._slots.clear()
        self._lanes.clear()
        self._graphs.clear()
        self._first = self._order = None

    def _providers(self, spec: ModelSpec, stream: int) -> list[Provider]:
        return gpu_providers(spec, self._ordinal, stream)

    def _open(self, spec: ModelSpec, lane: Lane) -> _InLane:
        assert self._order is not None
        providers = self._providers(spec, lane.stream.address)
        return _InLane(open_session(self._order, providers), captures_graphs(providers))

    def _in_slot(self, slot: Slot) -> _InSlot:
        """A slot that has outgrown its memory is another: what was bound for it lies where it no longer is."""
        key = (slot.lane.index, slot.index)
        found = self._slots.get(key)
        if found is None or (found.slot is not slot and found.slot != slot):
            self._graphs = {graph: options for graph, options in self._graphs.items() if graph[:2] != key}
            found = self._slots[key] = _InSlot(slot, self._lanes[slot.lane.index].session.io_binding())
        return found

    def _bind(self, in_slot: _InSlot, work: DeviceWork) -> None:
        assert self._spec is not None and self._shapes is not None
        bound = (tuple(work.inputs), work.wanted, tuple(work.places))
        if bound == in_slot.bound and not self._owns_memory(work):
            return
        binding = in_slot.binding
        in_slot.bound = ()
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for tensor, content in zip(self._shapes.model_inputs, work.inputs, strict=True):
            if content is not None:
                where = (content.shape, content.address)
                binding.bind_input(tensor.name, self._memory, self._ordinal, _element_type(tensor), *where)
        for output, place in zip(work.wanted, work.places, strict=True):
            tensor = self._spec.outputs[output]
            if place is None or output in self._apart:
                binding.bind_output(tensor.name, self._memory, self._ordinal)
            else:
                where = (place.shape, place.address)
                binding.bind_output(tensor.name, self._memory, self._ordinal, _element_type(tensor), *where)
        in_slot.bound = bound

    def _owns_memory(self, work: DeviceWork) -> bool:
        """Whether onnxruntime allocates an output: bound as it is, it would write the next one over the last."""
        return bool(self._apart) or any(place is None for place in work.places)

    def _options(self, lane: _InLane, work: DeviceWork) -> Any:
        """Which graph it is, where there are any."""
        if not lane.has_graphs or not own(work):
            return self._plain
        shapes = tuple(tensor and tensor.shape for tensor in work.inputs)
        key = (work.slot.lane.index, work.slot.index, shapes, work.wanted)
        if key not in self._graphs:
            self._graph_count += 1
            self._graphs[key] = _run_options(str(self._graph_count))
        return self._graphs[key]

    def _own(self, output: int, value: Any) -> DeviceTensor:
        assert self._spec is not None
        datatype, shape = self._spec.outputs[output].datatype, tuple(value.shape())
        return DeviceTensor(value.data_ptr(), datatype, shape, ITEM_BYTES[datatype] * elements(shape))

    def _execute_zeros(self, slot: Slot) -> None:
        assert self._spec is not None and self._shapes is not None
        fill_inputs(slot)
        for rows in sorted({1, largest(self._spec)}):
            work = zero_work(self._spec, self._shapes, slot, rows)
            if work is not None:
                self.enqueue(work)
        slot.lane.stream.synchronize()


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


def _element_type(tensor: TensorSpec) -> Any:
    """As onnxruntime takes it: numpy's type, or ONNX's number of what numpy does not have."""
    return ONNX_TYPES["BF16"][1] if tensor.datatype == "BF16" else numpy_dtype(tensor.datatype).type
