# SPDX-License-Identifier: Apache-2.0
"""The onnxruntime backend for devices, bound to host memory on the CPU provider: binding, holding, lanes, graphs' bookkeeping.

What it does on a GPU is told by tests/gpu/test_models_of_onnx.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_on_host import HostDevice, HostMemory, ServedOnHost, read
from onnx import helper
from worker_rig import spec_of, write_onnx, write_prefix_model

from penstock.ipc.errors import CallerError, MachineError, ModelError
from penstock.ipc.messages import Gpu, LoadModel, ModelSpec, TensorSpec
from penstock.workers.backends.execution_providers import CPU, Provider
from penstock.workers.backends.on_device import DeviceTensor, DeviceWork
from penstock.workers.backends.onnxruntime_cuda import OnnxRuntimeCuda
from penstock.workers.backends.onnxruntime_onnx import OnnxRuntime
from penstock.workers.instances import HostInstance, make_instance

SPEC = spec_of("onnxruntime", {"x": ("FP32", [6])}, {"y": ("FP32", [4])}, 8)


class OnHost(OnnxRuntimeCuda):
    """The same, with the CPU's provider and memory."""

    def __init__(self) -> None:
        super().__init__(memory="cpu")
        self.streams: list[int] = []

    def _providers(self, spec: ModelSpec, stream: int) -> list[Provider]:
        self.streams.append(stream)
        return [Provider(CPU)]


class Served(ServedOnHost):
    def __init__(self, spec: ModelSpec, directory: Path, lanes: int = 1) -> None:
        self.backend = OnHost()
        super().__init__(self.backend, spec, directory, lanes)


def rows(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def test_outputs_are_computed_into_their_places_in_every_slot_and_lane(tmp_path: Path) -> None:
    with Served(SPEC, write_prefix_model(tmp_path), lanes=2) as served:
        assert served.signature.inputs == [TensorSpec("x", "FP32", [-1, 6])]
        for slot in (0, 1, 2, 3, 0):
            x = rows(3, slot)
            work = served.work(slot, x)
            assert served.backend.enqueue(work) is work.places
            np.testing.assert_array_equal(read(work.places[0]), x[:, :4])
        # one session to look at the model, then one in the stream of each lane
        assert served.backend.streams == [0, 4096, 8192]


def test_the_same_work_again_is_bound_already_and_sees_the_new_content(tmp_path: Path) -> None:
    with Served(SPEC, write_prefix_model(tmp_path)) as served:
        first = served.work(0, rows(2, 1))
        served.backend.enqueue(first)
        bound = served.backend._slots[0, 0].bound
        x = rows(2, 2)
        served.backend.enqueue(served.work(0, x))
        assert served.backend._slots[0, 0].bound is bound
        np.testing.assert_array_equal(read(first.places[0]), x[:, :4])


def test_a_client_s_memory_is_bound_where_it_lies(tmp_path: Path) -> None:
    with Served(SPEC, write_prefix_model(tmp_path)) as served:
        x, region, target = rows(2), HostMemory(), HostMemory()
        place = target.tensor("FP32", (2, 4))
        work = DeviceWork((2,), [region.put(x, "FP32")], (0,), [place], served.slots[1])
        served.backend.enqueue(work)
        np.testing.assert_array_equal(read(place), x[:, :4])


def test_outputs_without_a_place_are_held_until_the_slot_is_used_again(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    directory = write_onnx(tmp_path, [node], {"x": ("FP32", ["n", "m"])}, {"y": ("FP32", ["n", "m"])})
    spec = spec_of("onnxruntime", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, 8)
    with Served(spec, directory) as served:
        first, second = rows(2, 1), rows(3, 2)
        (held,) = served.backend.enqueue(served.work(0, first))
        (other,) = served.backend.enqueue(served.work(1, second))
        assert isinstance(held, DeviceTensor)
        assert (held.shape, held.byte_size, held.datatype) == ((2, 6), 48, "FP32")
        np.testing.assert_array_equal(read(held), first)
        np.testing.assert_array_equal(read(other), second)
        (again,) = served.backend.enqueue(served.work(0, second))
        np.testing.assert_array_equal(read(again), second)


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP16", np.float16), ("BF16", np.uint16), ("BOOL", np.bool_), ("INT64", np.int64)]
)
def test_datatypes_pass_unchanged(tmp_path: Path, datatype: str, dtype: Any) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    directory = write_onnx(tmp_path, [node], {"x": (datatype, ["n", 6])}, {"y": (datatype, ["n", 6])})
    with Served(spec_of("onnxruntime", {"x": (datatype, [6])}, {"y": (datatype, [6])}, 8), directory) as served:
        x = np.arange(12).reshape(2, 6).astype(dtype)
        work = served.work(0, x)
        served.backend.enqueue(work)
        np.testing.assert_array_equal(read(work.places[0]), x)


def test_each_slot_and_shape_is_a_graph_of_its_own_where_graphs_are_asked_for(tmp_path: Path) -> None:
    with Served(SPEC, write_prefix_model(tmp_path)) as served:
        backend = served.backend
        (lane,) = backend._lanes.values()
        lane = lane._replace(has_graphs=True)
        options = [backend._options(lane, served.work(slot, rows(count))) for slot, count in ((0, 1), (1, 1), (0, 2), (0, 1))]
        names = [each.get_run_config_entry("gpu_graph_id") for each in options]
        assert names == ["1", "2", "3", "1"]
        region = HostMemory()
        work = served.work(0, rows(1))
        elsewhere = DeviceWork((1,), [region.put(rows(1), "FP32")], (0,), work.places, work.slot)
        assert backend._options(lane, elsewhere).get_run_config_entry("gpu_graph_id") == "-1"


def test_text_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    directory = write_onnx(tmp_path, [node], {"x": ("BYTES", ["n", 6])}, {"y": ("BYTES", ["n", 6])})
    with pytest.raises(ModelError, match="tensor 'x' is BYTES, which no device memory holds"):
        Served(spec_of("onnxruntime", {"x": ("BYTES", [6])}, {"y": ("BYTES", [6])}), directory)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime_onnx"])
def test_a_model_with_text_takes_it_from_host_memory_on_a_gpu_too(name: str) -> None:
    spec = spec_of(name, {"x": ("FP32", [6])}, {"y": ("BYTES", [4])})
    instance = make_instance(LoadModel(spec, "m_0_0", "", gpu=Gpu("GPU-1")))
    assert isinstance(instance, HostInstance)
    instance.close()


def test_a_tensor_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    spec = spec_of("onnxruntime", {"x": ("FP32", [6])}, {"z": ("FP32", [4])})
    with pytest.raises(CallerError, match="no output 'z'; it has y"):
        Served(spec, write_prefix_model(tmp_path))


def _has_cuda() -> bool:
    import onnxruntime

    providers: Sequence[str] = onnxruntime.get_available_providers()
    return "CUDAExecutionProvider" in providers


@pytest.mark.skipif(_has_cuda(), reason="the installed onnxruntime is that for GPUs")
@pytest.mark.parametrize("backend", [OnnxRuntimeCuda(), OnnxRuntime()])
def test_an_onnxruntime_without_cuda_says_what_to_install(tmp_path: Path, backend: Any) -> None:
    order = LoadModel(SPEC, "m_0_0", str(write_prefix_model(tmp_path)), threads=1, gpu=Gpu("GPU-1"))
    arguments = (order, HostDevice()) if isinstance(backend, OnnxRuntimeCuda) else (order,)
    with pytest.raises(MachineError, match="has no CUDAExecutionProvider .*pip install onnxruntime-gpu"):
        backend.load(*arguments)
