# SPDX-License-Identifier: Apache-2.0
"""TensorRT plans (Triton's platform tensorrt_plan), with TensorRT 8.5 to 11.

    plans/library      the package tensorrt, its log, plugin libraries    plans/plan_file   the file, or what is taken for one
    plans/engines      what a plan says; its execution contexts           plans/profiles    which profile takes a batch
    plans/executions   a context: shapes, addresses, enqueue              plans/memory      outputs without a place
    plans/stations     a slot: its graphs, and how a batch is executed    plans/buckets     for which shapes there are graphs
    plans/capturing    makes graphs at load and compares each with plain execution (plans/verification)

A batch whose tensors lie in its slot is one graph launch: no call of TensorRT. Any other is executed where its tensors lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...ipc.errors import Code, ModelError, PenstockError, invalid
from ...ipc.messages import LoadModel, ModelSpec, Signature, TensorSpec
from ...ipc.tensors import byte_size
from ..devices.cuda import fill_zero
from ..shapes import Shapes as ModelShapes
from .on_device import DeviceBackend, DeviceTensor, DeviceWork, Slot
from .plans.buckets import buckets
from .plans.capturing import Capturing
from .plans.engines import Engines, EngineTensor
from .plans.executions import LaneExecutions
from .plans.library import library
from .plans.plan_file import read_plan
from .plans.profiles import Profiles
from .plans.stations import Station

if TYPE_CHECKING:
    from ..devices.cuda import Device

DEFAULT_FILENAME = "model.plan"
HOST_CODE = "engine_host_code_allowed"
"""The parameter by which a plan may run the host code that it brings: TensorRT's VERSION_COMPATIBLE embeds a runtime in it."""
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


class TensorRT(DeviceBackend):
    """One plan, on one GPU, for all lanes of a worker."""

    def __init__(self) -> None:
        self._engines: Engines | None = None
        self._chosen_profiles: Sequence[str] = ()
        self._spec: ModelSpec | None = None
        self._profiles: Profiles | None = None
        #: lane -> its execution contexts
        self._executions: dict[int, LaneExecutions] = {}
        #: (lane, slot) -> the slot as TensorRT uses it
        self._stations: dict[tuple[int, int], Station] = {}
        #: rows of the batches for which every slot has a graph
        self._replayed: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        state = "closed" if self._engines is None else "loaded" if self._spec is None else self._spec.name
        return f"<TensorRT {state}, {self._profiles!r}, {list(self._stations.values())}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a slot has no contexts, or a part contradicts itself."""
        assert {lane for lane, _ in self._stations} <= set(self._executions), repr(self)
        for part in (self._engines, self._profiles, *self._executions.values(), *self._stations.values()):
            if part is not None:
                part.check_invariants()

    def load(self, order: LoadModel, device: Device) -> Signature:
        """Deserializes DIRECTORY/FILENAME (model.plan). Raises PenstockError with the file's name and TensorRT's reason."""
        filename = order.filename or DEFAULT_FILENAME
        read = partial(read_plan, order.directory, filename)
        device.use()
        content = read()  # first: a file that is no plan is told where TensorRT is not installed, too
        trt = library()
        trt.load_plugins(order.spec.op_libraries)
        self._engines = engines = Engines(trt, filename, read, _flag(order.spec, HOST_CODE))
        engines.open(content)
        self._chosen_profiles = order.gpu.profiles if order.gpu is not None else ()
        names = [tensor.name for tensor in engines.inputs]
        self._profiles = Profiles(names, engines.profiles(self._chosen_profiles))
        return Signature(_specs(engines.inputs), _specs(engines.outputs), self._max_batch_size())

    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:
        """Makes the contexts of each lane and the graphs of each slot."""
        engines = self._engines
        assert engines is not None, "warm_up before load"
        shapes = ModelShapes(spec)
        self._check(spec, shapes.model_inputs, engines)
        engines.order_inputs([tensor.name for tensor in shapes.model_inputs])
        names = [tensor.name for tensor in engines.inputs]
        self._profiles = profiles = Profiles(names, engines.profiles(self._chosen_profiles))
        wanted = [] if spec.optimization.cuda_graphs is False else buckets(spec, shapes.model_inputs)
        known = [tensor.name for tensor in spec.outputs]
        positions = [known.index(tensor.name) if tensor.name in known else -1 for tensor in engines.outputs]
        for lane in {slot.lane.index: slot.lane for slot in slots}.values():
            executions = self._executions[lane.index] = LaneExecutions(library(), engines, lane)
            for profile in profiles.all:
                executions.on(profile)
            stations = [Station(slot, engines.inputs, engines.outputs, positions) for slot in slots if slot.lane == lane]
            self._stations.update({(lane.index, station.slot.index): station for station in stations})
            Capturing(spec, engines.inputs, engines.outputs, positions, profiles, executions).furnish(stations, wanted)
            if not samples_follow:
                self._try_out(stations, spec, shapes)
            lane.stream.synchronize()
        self._replayed = frozenset.intersection(*(station.replayed_rows() for station in self._stations.values()))
        self._spec = spec

    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """By a graph where there is one, else by TensorRT. Raises CallerError for shapes that no profile takes."""
        slot = work.slot
        station = self._stations[slot.lane.index, slot.index]
        shapes = tuple([() if tensor is None else tensor.shape for tensor in work.inputs])
        route = station.routes.get(shapes)
        if route is not None and station.holds(work):
            return station.replay(route, work)
        assert self._profiles is not None, "enqueue before warm_up"
        profile = self._profiles.choose(shapes)
        return station.execute(self._executions[slot.lane.index].on(profile), shapes, work)

    def close(self) -> None:
        """Frees graphs, contexts and engines, in this order."""
        for station in self._stations.values():
            station.close()
        for executions in self._executions.values():
            executions.close()
        self._stations.clear()
        self._executions.clear()
        self._replayed = frozenset()
        if self._engines is not None:
            self._engines.close()
            self._engines = None

    def largest(self, name: str) -> int | None:
        """Of an input: what its profiles allow. Of an output only an execution tells."""
        assert self._engines is not None and self._profiles is not None, "asked before load"
        for number, tensor in enumerate(self._engines.inputs):
            if tensor.name == name:
                return max(byte_size(tensor.datatype, profile.ranges[number].maximum) or 0 for profile in self._profiles.all)
        return None

    def replays(self, rows: int) -> bool:
        return rows in self._replayed

    def describe(self) -> dict[str, Any]:
        """The version of TensorRT, the plan, its profiles, and how many graphs each slot has."""
        if self._engines is None or self._profiles is None:
            return {}
        graphs = [len({id(route.graph) for route in station.routes.values()}) for station in self._stations.values()]
        return {**self._engines.describe(), "profiles": self._profiles.described(), "graphs_per_slot": max(graphs, default=0)}

    def _max_batch_size(self) -> int:
        """What the profiles take, where every tensor begins with a dimension that varies."""
        assert self._engines is not None and self._profiles is not None, "asked before load"
        tensors = [*self._engines.inputs, *self._engines.outputs]
        return self._profiles.max_rows if all(tensor.dims[:1] == (-1,) for tensor in tensors) else 0

    def _check(self, spec: ModelSpec, model_inputs: Sequence[TensorSpec], engines: Engines) -> None:
        """Raises PenstockError for a configuration that this plan cannot serve."""
        for tensors, own, kind in ((model_inputs, engines.inputs, "input"), (spec.outputs, engines.outputs, "output")):
            known = [tensor.name for tensor in own]
            for tensor in tensors:
                if tensor.name not in known:
                    raise invalid(f"model '{spec.name}' has no {kind} '{tensor.name}'; it has {', '.join(known)}")
        given = {tensor.name: tensor for tensor in model_inputs if not tensor.optional}
        for needed in engines.inputs:
            if needed.name not in given:
                raise invalid(f"model '{spec.name}': input '{needed.name}' cannot be left out: a plan has no value for it")
            if given[needed.name].shape_tensor and not needed.is_on_host:
                raise invalid(
                    f"model '{spec.name}': input '{needed.name}' is no shape tensor of the plan; remove is_shape_tensor"
                )
            if needed.is_on_host and spec.max_batch_size:
                raise ModelError(
                    f"model '{spec.name}': input '{needed.name}' is a shape tensor, which a whole batch would have to share "
                    "(is_shape_tensor is not implemented); write max_batch_size: 0",
                    Code.UNSUPPORTED,
                )
        most = self._max_batch_size()
        if most and spec.max_batch_size > most:
            raise invalid(
                f"model '{spec.name}': configuration specified max-batch {spec.max_batch_size} but TensorRT engine only "
                f"supports max-batch {most}"
            )

    def _try_out(self, stations: Sequence[Station], spec: ModelSpec, shapes: ModelShapes) -> None:
        """Executes zeros in the largest batch without a graph, where all sizes are known: what is made is made now."""
        assert self._profiles is not None, "tried before load"
        dims = [tensor.dims if tensor.reshape is None else tensor.reshape for tensor in shapes.model_inputs]
        full = tuple(shapes.full(spec.max_batch_size, each) for each in dims)
        profile = self._profiles.best(full)
        if profile is None:
            return
        for station in stations:
            slot = station.slot
            inputs = [tensor for tensor, shape in zip(slot.inputs, full, strict=True) if tensor and tensor.shape == shape]
            if len(inputs) == len(full):
                for tensor in inputs:
                    fill_zero(tensor.address, tensor.byte_size, slot.lane.stream)
                wanted = tuple(range(len(spec.outputs)))
                work = DeviceWork([max(spec.max_batch_size, 1)], inputs, wanted, [None] * len(wanted), slot)
                station.execute(self._executions[slot.lane.index].on(profile), full, work)


def _specs(tensors: Sequence[EngineTensor]) -> list[TensorSpec]:
    return [TensorSpec(each.name, each.datatype, list(each.dims), shape_tensor=each.is_on_host) for each in tensors]


def _flag(spec: ModelSpec, key: str) -> bool:
    text = spec.parameters.get(key, "")
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise _no_flag(key, text) from None


def _no_flag(key: str, text: str) -> PenstockError:
    return invalid(f"parameter '{key}' must be true or false, got '{text}'")
