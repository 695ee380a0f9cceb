# SPDX-License-Identifier: Apache-2.0
"""The pytorch backend for devices, with torch on the CPU in the place of the GPU: placing, holding, lending, graphs' bookkeeping.

What it does on a GPU is told by tests/gpu/test_models_of_torch.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_on_host import HostDevice, HostGpu, HostMemory, ServedOnHost, read, slots_of, work_on
from msgspec.structs import replace
from torch_files import Prefix, Same, torch, write_exported, write_script
from worker_rig import spec_of

from penstock.ipc.errors import Code, MachineError, ModelError
from penstock.ipc.messages import GraphSpec, LoadModel, ModelSpec, Optimization
from penstock.workers.backends.on_device import DeviceTensor, DeviceWork
from penstock.workers.backends.pytorch_cuda import TorchCuda

SPEC = spec_of("pytorch", {"x": ("FP32", [6])}, {"y": ("FP32", [4])}, 8)
GRAPHS = Optimization(cuda_graphs=True)


class Doubling(torch.nn.Module):
    """y = 2 x, and x is changed by it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


class Served(ServedOnHost):
    def __init__(self, spec: ModelSpec, directory: Path, lanes: int = 1, refuses_capture: str = "") -> None:
        def opened(ordinal: int) -> Any:
            self.gpu = HostGpu(ordinal)
            self.gpu.refuses_capture = refuses_capture
            return self.gpu

        self.backend = TorchCuda(opened)
        super().__init__(self.backend, spec, directory, lanes)
        assert self.device.synchronized == 1  # weights are there before a lane's stream reads them


def rows(count: int, seed: int = 0, width: int = 6) -> Any:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize(
    "write", [lambda path: write_script(path, Prefix()), lambda path: write_exported(path, Prefix(), torch.ones(2, 6))]
)
def test_outputs_are_computed_into_their_places_in_every_slot_and_lane(tmp_path: Path, write: Any) -> None:
    with Served(SPEC, write(tmp_path), lanes=2) as served:
        for slot in range(4):
            x = rows(3, slot)
            work = served.work(slot, x)
            assert served.backend.enqueue(work) is work.places
            assert served.gpu.used[-1] == served.slots[slot].lane.stream.address
            np.testing.assert_array_equal(read(work.places[0]), x[:, :4])


def test_outputs_without_a_place_are_held_until_the_slot_is_used_again(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, 8)
    with Served(spec, write_script(tmp_path, Prefix())) as served:
        first, second = rows(2, 1), rows(3, 2)
        (held,) = served.backend.enqueue(served.work(0, first))
        (other,) = served.backend.enqueue(served.work(1, second))
        assert held is not None and other is not None
        assert held == DeviceTensor(held.address, "FP32", (2, 4), 32)
        np.testing.assert_array_equal(read(held), first[:, :4])
        np.testing.assert_array_equal(read(other), second[:, :4])
        in_slots = served.backend._in_slots
        assert [len(each.held) for each in in_slots.values()] == [1, 1]
        served.backend.enqueue(served.work(0, second))
        assert [len(each.held) for each in in_slots.values()] == [1, 1]


def test_a_client_s_memory_is_lent_only_to_programs_that_leave_it_alone(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [4])}, {"y": ("FP32", [4])}, 8)
    with Served(spec, write_script(tmp_path, Doubling())) as served:
        region, x = HostMemory(), rows(2, width=4)
        work = served.work(0, x)
        lent = DeviceWork((2,), [region.put(x, "FP32")], (0,), work.places, work.slot)
        served.backend.enqueue(lent)
        np.testing.assert_array_equal(read(work.places[0]), x * 2)
        np.testing.assert_array_equal(read(lent.inputs[0]), x)


def test_an_output_of_another_shape_than_configured_is_the_models_fault(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"returned output 'y' as \[1, 6\], its configuration says \[1, 4\]"):
        Served(SPEC, write_script(tmp_path, Same()))


# --- graphs ----------------------------------------------------------------------------------------------------------------


def test_without_being_asked_for_there_are_no_graphs(tmp_path: Path) -> None:
    with Served(SPEC, write_script(tmp_path, Prefix())) as served:
        assert (served.gpu.graphs, served.backend.replays(1)) == ([], False)


def test_each_slot_has_graphs_of_tritons_batch_sizes_and_the_largest(tmp_path: Path) -> None:
    spec = replace(SPEC, max_batch_size=7, optimization=GRAPHS)
    with Served(spec, write_script(tmp_path, Prefix())) as served:
        assert served.backend.describe()["graphs"] == [1, 2, 3, 4, 6, 7]
        assert len(served.gpu.graphs) == 2 * 6
        assert [served.backend.replays(rows) for rows in (4, 5, 7)] == [True, False, True]
        for graph in served.gpu.graphs:
            graph.replays = 0
        x = rows(3)
        work = served.work(1, x)
        assert served.backend.enqueue(work) is work.places
        np.testing.assert_array_equal(read(work.places[0]), x[:, :4])
        assert [graph.replays for graph in served.gpu.graphs].count(1) == 1
        served.backend.enqueue(served.work(1, rows(5)))  # a batch of which there is no graph
        assert sum(graph.replays for graph in served.gpu.graphs) == 1


def test_work_that_lies_elsewhere_than_its_graph_looks_is_executed_plainly(tmp_path: Path) -> None:
    with Served(replace(SPEC, optimization=GRAPHS), write_script(tmp_path, Prefix())) as served:
        x, region = rows(3), HostMemory()
        for graph in served.gpu.graphs:
            graph.replays = 0
        work = served.work(0, np.zeros_like(x))
        elsewhere = DeviceWork((3,), [region.put(x, "FP32")], (0,), work.places, work.slot)
        served.backend.enqueue(elsewhere)
        np.testing.assert_array_equal(read(work.places[0]), x[:, :4])
        target = HostMemory()
        into = DeviceWork((3,), served.work(0, x).inputs, (0,), [target.tensor("FP32", (3, 4))], work.slot)
        served.backend.enqueue(into)
        np.testing.assert_array_equal(read(target.tensor("FP32", (3, 4))), x[:, :4])
        assert sum(graph.replays for graph in served.gpu.graphs) == 0


def test_a_graph_with_a_lower_bound_serves_smaller_batches_with_zeros_behind_them(tmp_path: Path) -> None:
    asked = Optimization(cuda_graphs=True, graph_specs=[GraphSpec(8, lower_batch_size=5), GraphSpec(2)])
    with Served(replace(SPEC, optimization=asked), write_script(tmp_path, Prefix())) as served:
        assert [served.backend.replays(rows) for rows in (1, 2, 4, 5, 7, 8)] == [False, True, False, True, True, True]
        served.backend.enqueue(served.work(0, rows(8, 1)))
        x = rows(6, 2)
        work = served.work(0, x)
        served.backend.enqueue(work)
        np.testing.assert_array_equal(read(work.places[0]), x[:, :4])
        room = served.slots[0].inputs[0]
        assert room is not None
        assert not read(room)[6:].any()


def test_what_cannot_be_captured_is_executed_plainly_with_one_line_that_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = replace(SPEC, optimization=GRAPHS)
    with Served(
        spec, write_script(tmp_path, Prefix()), refuses_capture="operation not permitted when stream is capturing"
    ) as served:
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(
            "m_0_0: no CUDA graphs, batches are executed plainly: a batch of 1 cannot be captured: operation not perm"
        )
        x = rows(2)
        work = served.work(0, x)
        served.backend.enqueue(work)
        np.testing.assert_array_equal(read(work.places[0]), x[:, :4])


def test_a_graph_that_computes_something_else_is_not_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_on_host.HostGraph.replay", lambda _self: None)
    with Served(replace(SPEC, optimization=GRAPHS), write_script(tmp_path, Prefix())) as served:
        assert "output 'y' differs from that of plain execution" in capfd.readouterr().err
        assert not served.backend.replays(1)


def test_a_model_with_variable_dims_has_no_graphs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, 8)
    with Served(replace(spec, optimization=GRAPHS), write_script(tmp_path, Prefix())):
        assert "an input or output has variable dims" in capfd.readouterr().err


def test_a_slot_that_outgrew_its_memory_has_no_graphs(tmp_path: Path) -> None:
    with Served(replace(SPEC, optimization=GRAPHS), write_script(tmp_path, Prefix())) as served:
        moved, memories = slots_of(SPEC)
        x = rows(2)
        work = work_on(moved[0], [x], SPEC)
        served.backend.enqueue(work)
        np.testing.assert_array_equal(read(work.places[0]), x[:, :4])
        assert not served.backend.replays(2)
        assert memories


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_a_torch_that_cannot_use_a_gpu_says_why(tmp_path: Path) -> None:
    device: Any = HostDevice()
    with pytest.raises(MachineError, match=r"torch .* cannot use the GPU: it was built .*; install a build that can") as caught:
        TorchCuda().load(LoadModel(SPEC, "m_0_0", str(write_script(tmp_path, Prefix()))), device)
    assert caught.value.code is Code.UNSUPPORTED
