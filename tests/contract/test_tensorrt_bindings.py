# SPDX-License-Identifier: Apache-2.0
"""Where the Python bindings of TensorRT answer otherwise than one expects; over the simulated packages of 8.5 and 11.

Each was seen in the real bindings, of 8.5.3 to 11.4, as far as they go without a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from plan_rig import PlanRig, graphs_off, spec_of
from simulated.tensorrt_packages import SimulatedTensorRT

from penstock.ipc.errors import MachineError, ModelError
from penstock.workers.backends.plans.library import library

ROWS = {"x": [[1, 4], [4, 4], [8, 4]]}
X, Y = {"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}
SPEC = spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])})
DOUBLE: list[dict[str, Any]] = [{"op": "scale", "in": ["x"], "out": "y", "value": 2.0}]


@pytest.fixture
def rigs(simulated_tensorrt: SimulatedTensorRT) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def rig_of(rigs: ExitStack, plan: bytes, directory: Path, **gpu: Any) -> PlanRig:
    rig = PlanRig(plan, directory, **gpu)
    rigs.callback(rig.close)
    return rig


def rows_of(count: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random((count, 4), np.float32)


def test_a_profile_that_another_context_has_is_told_by_an_exception(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given two lanes; then 8.5 has the plan once for each and once more for its graphs, later versions have it once; and of
    what TensorRT tried in vain nothing is in the log."""
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path).warm_up(SPEC, lanes=2)
    assert rig.backend.describe()["engines"] == (4 if simulated_tensorrt.is_old else 1)
    assert capsys.readouterr().err == ""
    for slot in range(4):
        for elsewhere in (False, True):
            assert np.allclose(rig.run(rows_of(5, slot), slot=slot, elsewhere=elsewhere)[0], 2 * rows_of(5, slot))


def test_without_a_gpu_the_reason_may_be_a_warning_only(simulated_tensorrt: SimulatedTensorRT) -> None:
    simulated_tensorrt.cuda.simulation.fail("cudaGetDeviceCount", "cudaErrorNoDevice")
    with pytest.raises(MachineError, match="TensorRT .* cannot start: CUDA initialization failure with error: 100"):
        library().make_runtime()


def test_shapes_that_do_not_go_together_fail_their_batch_with_the_reason_of_the_log(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    """Given two inputs of any width, which are added; each is within its profile, and what follows from them has no shape."""
    bounds = [[1, 1], [4, 4], [8, 8]]
    inputs = {name: ("FLOAT", [-1, -1]) for name in "ab"}
    ops = [{"op": "add", "in": ["a", "b"], "out": "y"}]
    plan = simulated_tensorrt.plan(inputs, {"y": ("FLOAT", [-1, -1])}, ops, [{"a": bounds, "b": bounds}])
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"a": ("FP32", [-1]), "b": ("FP32", [-1])}, {"y": ("FP32", [-1])}))
    with pytest.raises(ModelError, match=r"cannot infer the shapes that follow from a \[2, 4\], b \[2, 5\]: .*Error Code 7"):
        rig.run(np.ones((2, 4), np.float32), np.ones((2, 5), np.float32))
    assert np.array_equal(rig.run(np.ones((2, 5), np.float32), np.ones((2, 5), np.float32))[0], np.full((2, 5), 2, np.float32))


def test_values_of_a_shape_tensor_that_are_no_shape_fail_their_batch(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    plan = simulated_tensorrt.plan(
        {"size": ("INT32", [2])}, {"y": ("FLOAT", [-1, -1])}, [{"op": "fill", "in": ["size"], "out": "y", "value": 7}],
        host_inputs=["size"],
    )  # fmt: skip
    rig = rig_of(rigs, plan, tmp_path)
    rig.warm_up(spec_of({"size": ("INT32", [2])}, {"y": ("FP32", [-1, -1])}, max_batch_size=0))
    with pytest.raises(ModelError, match=r"cannot infer the shapes that follow from size \[2\]: .*Error Code 7"):
        rig.run(np.array([2, -3], np.int32))
    assert rig.run(np.array([2, 3], np.int32))[0].shape == (2, 3)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
def test_an_output_that_is_left_out_need_not_have_rows(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, graphs: bool
) -> None:
    """Given an output of its own size, larger than a row; when it is left out; then no comparison of graphs reads or writes
    beyond it, which the simulated device would punish."""
    ops = [*DOUBLE, {"op": "constant", "out": "z", "shape": [2, 5000], "value": 1}]
    plan = simulated_tensorrt.plan(X, {"z": ("FLOAT", [2, 5000]), **Y}, ops, [ROWS])
    more = {} if graphs else {"optimization": graphs_off()}
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])}, **more))
    assert rig.backend.replays(3) == graphs
    for rows in (8, 3):
        assert np.allclose(rig.run(rows_of(rows))[0], 2 * rows_of(rows))


def test_without_memory_for_the_contexts_of_graphs_a_model_is_served_without_them(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Given an engine that can have three contexts; then those of graphs are given back, and batches are executed plainly."""
    engine = simulated_tensorrt.trt.ICudaEngine
    made, make = [], engine._new_context

    def no_more_than_three(self: Any, is_without_memory: bool) -> Any:
        made.append(self)
        return make(self, is_without_memory) if len(made) <= 3 else None

    monkeypatch.setattr(engine, "_new_context", no_more_than_three)
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path)
    rig.warm_up(SPEC)
    if not simulated_tensorrt.is_old:  # whose graphs share a context
        assert "no CUDA graphs: there is no context for that of batch 4: no execution context" in capsys.readouterr().err
        assert len(rig.backend._executions[0]._all()) == 1
        assert not rig.backend.replays(1)
    assert np.allclose(rig.run(rows_of(3))[0], 2 * rows_of(3))


def test_what_is_left_of_a_package_is_told(simulated_tensorrt: SimulatedTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without modules is imported all the same."""
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(MachineError, match="TensorRT of unknown version is too old or incomplete: 8.5 is the first"):
        library()


def test_what_cannot_be_captured_keeps_no_contexts_for_graphs(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the log has one line of ours, and none of TensorRT's."""
    ops = [{"op": "loop", "in": ["x"], "out": "y"}]
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, ops, [ROWS]), tmp_path).warm_up(SPEC)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("model 'm': no CUDA graphs: capture of batch 1 failed: TensorRT could not execute the model: ")
    executions = rig.backend._executions[0]
    assert len(executions._all()) == 1
