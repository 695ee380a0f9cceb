# SPDX-License-Identifier: Apache-2.0
"""What an engine may be besides the usual, and what may be wrong with a plan; over the simulated packages of 8.5 and 11."""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from plan_rig import PlanRig, affine_onnx, graphs_off, spec_of
from simulated.tensorrt_packages import SimulatedTensorRT

from penstock.ipc import cuda
from penstock.ipc.errors import CallerError, MachineError, ModelError, PenstockError
from penstock.ipc.messages import ModelSpec, TensorSpec
from penstock.workers.backends.plans.library import library

ROWS = {"x": [[1, 4], [4, 4], [8, 4]]}
X, Y = {"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}
SPEC = spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])})
DOUBLE: list[dict[str, Any]] = [{"op": "scale", "in": ["x"], "out": "y", "value": 2.0}]


@pytest.fixture
def rigs(simulated_tensorrt: SimulatedTensorRT) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def rig_of(rigs: ExitStack, plan: bytes, directory: Path, filename: str = "model.plan", **gpu: Any) -> PlanRig:
    rig = PlanRig(plan, directory, filename, **gpu)
    rigs.callback(rig.close)
    return rig


def rows_of(count: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random((count, 4), np.float32)


# --- graphs ------------------------------------------------------------------------------------------------------------------


def test_a_batch_in_its_slot_is_one_graph_launch_without_a_call_of_tensorrt(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path).warm_up(SPEC)
    context = simulated_tensorrt.trt.IExecutionContext
    for name in ("execute_async_v3", "set_input_shape", "set_tensor_address", "get_tensor_shape"):
        monkeypatch.setattr(context, name, lambda *_: pytest.fail("TensorRT was called"))
    for rows in range(1, 9):
        assert np.allclose(rig.run(rows_of(rows))[0], 2 * rows_of(rows))


def test_rows_behind_a_batch_are_zeros_for_its_graph(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    """Given a full batch before it; when three rows are served by the graph of four; then the fourth row is zeros."""
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path).warm_up(SPEC)
    rig.run(rows_of(8))
    rig.run(rows_of(3))
    home = rig.slots[0].inputs[0]
    assert home is not None
    content = rig.read(home)
    assert np.array_equal(content[:3], rows_of(3)) and not content[3].any()
    assert np.array_equal(content[4:], rows_of(8)[4:]), "what no graph of this batch reads is left alone"


def test_zeros_are_written_only_where_something_may_lie(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path).warm_up(SPEC)
    rig.run(rows_of(3))
    filled: list[int] = []
    monkeypatch.setattr("penstock.workers.backends.plans.stations.fill_zero", lambda _, size, __: filled.append(size))
    rig.run(rows_of(3))
    assert filled == []
    rig.run(rows_of(4))
    rig.run(rows_of(3))
    assert filled == [16]


def test_a_model_whose_rows_know_each_other_has_graphs_for_full_batches_only(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ops = [{"op": "batch_mean", "in": ["x"], "out": "y"}]
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, ops, [ROWS]), tmp_path).warm_up(SPEC, slots=1)
    assert "the CUDA graph of batch 4 is used for full batches only; for batch 3, output 'y'" in capsys.readouterr().err
    assert [rows for rows in range(1, 9) if rig.backend.replays(rows)] == [1, 2, 4, 8]
    for rows in range(1, 9):
        x = rows_of(rows)
        assert np.allclose(rig.run(x)[0], x - x.mean(axis=0), atol=1e-5)


def test_graphs_that_a_later_capture_spoilt_are_not_used(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given an engine whose graphs read shapes from their context. Since 8.6 each has its own, and all are right; 8.5 allows no
    second context on a profile, so all share one, and only the last is right; the others are noticed. What is served is right.
    """
    plan = simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS], reads_shapes_from_context=True)
    rig = rig_of(rigs, plan, tmp_path).warm_up(SPEC, slots=2)
    said = capsys.readouterr().err
    assert ("the CUDA graph of batch 4 is not used" in said) == simulated_tensorrt.is_old
    assert rig.backend.replays(4) != simulated_tensorrt.is_old
    assert rig.backend.replays(8), "the last that is captured, in either slot"
    for turn, rows in enumerate([8, 3, 1, 5, 8, 2]):
        for elsewhere in (True, False):
            assert np.allclose(rig.run(rows_of(rows), slot=turn % 2, elsewhere=elsewhere)[0], 2 * rows_of(rows))


@pytest.mark.parametrize(
    ("ops", "more", "reason"),
    [
        ([{"op": "loop", "in": ["x"], "out": "y"}], {}, "capture of batch 1 failed: TensorRT could not execute the model"),
        ([{"op": "identity", "in": ["x"], "out": "y"}], {"streamed_weights": 100}, "weights are streamed|capture of batch 1 failed"),
    ],
    ids=["loop", "weights"],
)  # fmt: skip
def test_what_cannot_be_captured_is_executed_without_graphs(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    ops: list[dict[str, Any]], more: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, ops, [ROWS], **more), tmp_path).warm_up(SPEC)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model ")]
    assert len(said) == 1 and said[0].startswith("model 'm': no CUDA graphs: ")
    assert any(part in said[0] for part in reason.split("|"))
    assert not rig.backend.replays(4)
    for rows in (8, 3):
        assert np.allclose(rig.run(rows_of(rows))[0], rows_of(rows))


def test_a_lost_context_is_no_reason_to_go_on_without_graphs(simulated_tensorrt: SimulatedTensorRT, tmp_path: Path) -> None:
    rig = PlanRig(simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path)
    simulated_tensorrt.cuda.simulation.fail("cudaStreamEndCapture", "cudaErrorIllegalAddress")
    simulated_tensorrt.cuda.forgive()
    with pytest.raises(cuda.CudaError, match="cudaErrorIllegalAddress"):
        rig.warm_up(SPEC)


# --- engines -----------------------------------------------------------------------------------------------------------------


def test_outputs_that_the_configuration_leaves_out_are_computed_aside(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    ops = [*DOUBLE, {"op": "row_sum", "in": ["x"], "out": "z"}]
    plan = simulated_tensorrt.plan(X, {"z": ("FLOAT", [-1, 1]), **Y}, ops, [ROWS])
    rig = rig_of(rigs, plan, tmp_path).warm_up(SPEC)
    for elsewhere in (False, True):
        assert np.allclose(rig.run(rows_of(5), elsewhere=elsewhere)[0], 2 * rows_of(5))


def test_inputs_are_matched_by_name(simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path) -> None:
    """Given a configuration with the inputs in another order than the plan's, and other datatypes for each."""
    inputs = {"a": ("FLOAT", [-1, 4]), "b": ("INT32", [-1, 4])}
    ops = [{"op": "cast", "in": ["b"], "out": "c", "to": "FLOAT"}, {"op": "add", "in": ["a", "c"], "out": "y"}]
    bounds = [[1, 4], [4, 4], [8, 4]]
    plan = simulated_tensorrt.plan(inputs, Y, ops, [{"a": bounds, "b": bounds}])
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"b": ("INT32", [4]), "a": ("FP32", [4])}, {"y": ("FP32", [4])}))
    a, b = rows_of(3), np.arange(12, dtype=np.int32).reshape(3, 4)
    assert np.allclose(rig.run(b, a)[0], a + b)


def test_an_output_that_does_not_fit_its_place_lands_in_memory_of_its_own(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    """Given a configuration that promises narrower rows than the plan gives; then no memory of others is written, and the true
    shape is told, which the worker refuses."""
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path)
    rig.warm_up(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [2])}))
    result = rig.enqueue(rig.slots[0], rig.fill(rig.slots[0], rows_of(8)))[0]
    home = rig.slots[0].outputs[0]
    assert home is not None and result.shape == (8, 4) and result.address != home.address
    rig.streams[0].synchronize()
    assert np.allclose(rig.read(result), 2 * rows_of(8))


def test_a_shape_tensor_is_read_on_the_host(simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path) -> None:
    plan = simulated_tensorrt.plan(
        {"size": ("INT32", [2])}, {"y": ("FLOAT", [-1, -1])}, [{"op": "fill", "in": ["size"], "out": "y", "value": 7}],
        host_inputs=["size"],
    )  # fmt: skip
    rig = rig_of(rigs, plan, tmp_path)
    assert rig.load().inputs == [TensorSpec("size", "INT32", [2], shape_tensor=True)]
    rig.warm_up(spec_of({"size": ("INT32", [2])}, {"y": ("FP32", [-1, -1])}, max_batch_size=0))
    for size in ([2, 3], [4, 5], [2, 3]):
        assert np.array_equal(rig.run(np.array(size, np.int32))[0], np.full(size, 7, np.float32))


def test_an_input_that_is_no_shape_tensor_must_not_be_called_one(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path)
    marked = structs.replace(SPEC, inputs=[TensorSpec("x", "FP32", [4], shape_tensor=True)])
    with pytest.raises(CallerError, match="input 'x' is no shape tensor of the plan; remove is_shape_tensor"):
        rig.warm_up(marked)


def test_a_shape_tensor_for_a_whole_batch_is_refused(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    inputs = {**X, "size": ("INT32", [2])}
    plan = simulated_tensorrt.plan(inputs, Y, DOUBLE, [ROWS], host_inputs=["size"])
    rig = rig_of(rigs, plan, tmp_path)
    with pytest.raises(ModelError, match="input 'size' is a shape tensor.*write max_batch_size: 0"):
        rig.warm_up(spec_of({"x": ("FP32", [4]), "size": ("INT32", [2])}, {"y": ("FP32", [4])}))


@pytest.mark.parametrize("sizes", [(1, 40, 3), (48, 48)])
def test_memory_for_unknown_shapes_grows_within_the_execution(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    plan = simulated_tensorrt.plan(
        {"x": ("FLOAT", [100])}, {"y": ("INT32", [-1, 1])}, [{"op": "nonzero", "in": ["x"], "out": "y"}]
    )
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"x": ("FP32", [100])}, {"y": ("INT32", [-1, 1])}, max_batch_size=0))
    for size in sizes:
        x = np.zeros(100, np.float32)
        x[:size] = 1
        assert rig.run(x)[0].ravel().tolist() == list(range(size))


def test_no_memory_for_an_unknown_shape_is_said_as_such(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    """What a callback of TensorRT raises is printed and forgotten by the binding; here it is the error of the batch."""
    plan = simulated_tensorrt.plan(
        {"x": ("FLOAT", [100])}, {"y": ("INT32", [-1, 1])}, [{"op": "nonzero", "in": ["x"], "out": "y"}]
    )
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"x": ("FP32", [100])}, {"y": ("INT32", [-1, 1])}, max_batch_size=0))
    filled = rig.fill(rig.slots[0], np.ones(100, np.float32))
    simulated_tensorrt.cuda.simulation.fail("cudaMalloc", "cudaErrorMemoryAllocation")
    with pytest.raises(MachineError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        rig.enqueue(rig.slots[0], filled)
    assert rig.run(np.ones(100, np.float32))[0].shape == (100, 1), "and the next batch is served"


# --- what is wrong with a plan -----------------------------------------------------------------------------------------------


def broken(simulated_tensorrt: SimulatedTensorRT, **more: Any) -> bytes:
    inputs, outputs = more.pop("inputs", X), more.pop("outputs", Y)
    return simulated_tensorrt.plan(inputs, outputs, DOUBLE, [ROWS], **more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"version": "10.3.0.26"}, "Version tag does not match.*Serialized Engine Version: 10.3.0.26.*build it again"),
        ({"gpu": "8.6"}, "incompatible device, expecting compute 8.6"),
        ({"formats": {"x": "CHW32"}}, "input 'x' has the format CHW32.*only linear tensors are served"),
        ({"host_outputs": ["y"]}, "output 'y' is a shape tensor in host memory"),
    ],
)
def test_a_plan_that_cannot_be_served_says_why(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ModelError, match=rf"'net.plan'.*{expected}"):
        rig_of(rigs, broken(simulated_tensorrt, **more), tmp_path, "net.plan").load()


def test_what_only_one_version_has_is_told_as_well(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    if simulated_tensorrt.is_old:
        plan, expected = broken(simulated_tensorrt, is_implicit=True), "implicit batch dimension"
    else:
        plan, expected = broken(simulated_tensorrt, inputs={"x": ("FP8", [-1, 4])}), "input 'x' is a FP8, which no datatype"
    with pytest.raises(ModelError, match=expected):
        rig_of(rigs, plan, tmp_path).load()


def test_garbage_is_refused_with_the_reason_of_the_log(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="'model.plan' cannot be deserialized by TensorRT .*magic tag does not match"):
        rig_of(rigs, b"\xff" * 100, tmp_path).load()


def test_an_onnx_model_in_place_of_a_plan_is_told(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="'model.plan' is an ONNX model, not a plan"):
        rig_of(rigs, affine_onnx().SerializeToString(), tmp_path).load()


def test_host_code_runs_only_where_it_is_allowed(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    rig = rig_of(rigs, broken(simulated_tensorrt, has_host_code=True, version="10.0.1"), tmp_path)
    with pytest.raises(ModelError, match="contains host code"):
        rig.load()
    allowed = ModelSpec("m", 1, "tensorrt", 0, [], [], {"engine_host_code_allowed": "true"})
    if simulated_tensorrt.is_old:
        with pytest.raises(CallerError, match="'engine_host_code_allowed': TensorRT 8.5.3.1 knows no plans with host code"):
            rig.load(allowed)
    else:
        assert rig.load(allowed).inputs == [TensorSpec("x", "FP32", [-1, 4])]
    with pytest.raises(CallerError, match="'engine_host_code_allowed' must be true or false, got 'perhaps'"):
        rig.load(ModelSpec("m", 1, "tensorrt", 0, [], [], {"engine_host_code_allowed": "perhaps"}))


def test_plugins_come_from_the_libraries_of_the_configuration(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path
) -> None:
    name = f"Triple{simulated_tensorrt.version.replace('.', '')}"
    ops = [{"op": "plugin", "name": name, "in": ["x"], "out": "y", "value": 3.0}]
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, ops, [ROWS]), tmp_path)
    with pytest.raises(ModelError, match=f"could not find plugin: {name}"):
        rig.load(SPEC)
    missing = str(tmp_path / "nowhere.so")
    with pytest.raises(ModelError, match=rf"plugin library '{missing}' cannot be loaded"):
        rig.load(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])}, op_libraries=[missing]))
    some_library = ctypes.util.find_library("m")
    assert some_library is not None
    path = tmp_path / f"lib{name}.so"
    shutil.copy(ctypes.CDLL(some_library)._name if Path(some_library).is_absolute() else _path_of(some_library), path)
    rig.warm_up(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])}, op_libraries=[str(path)]))
    assert np.allclose(rig.run(rows_of(3))[0], 3 * rows_of(3))
    rig.load(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])}, op_libraries=[str(path)]))


def _path_of(soname: str) -> str:
    """Of a library that this process has loaded."""
    ctypes.CDLL(soname)
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if line.endswith(soname))


def test_without_a_gpu_the_runtime_says_so(simulated_tensorrt: SimulatedTensorRT, tmp_path: Path) -> None:
    simulated_tensorrt.cuda.simulation.fail("cudaGetDeviceCount", "cudaErrorNoDevice")
    with pytest.raises(MachineError, match="TensorRT .* cannot start: CUDA initialization failure with error: 100"):
        library().make_runtime()


@pytest.mark.parametrize("optimization", [None, graphs_off()], ids=["graphs", "no graphs"])
def test_what_tensorrt_refuses_in_an_execution_is_the_error_of_the_batch(
    simulated_tensorrt: SimulatedTensorRT, rigs: ExitStack, tmp_path: Path, optimization: Any
) -> None:
    more = {} if optimization is None else {"optimization": optimization}
    rig = rig_of(rigs, simulated_tensorrt.plan(X, Y, DOUBLE, [ROWS]), tmp_path)
    rig.warm_up(spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])}, **more))
    slot = rig.slots[0]
    inputs = rig.fill(slot, rows_of(3), elsewhere=True)
    with pytest.raises(PenstockError, match="TensorRT refuses address .* not aligned to 256 bytes"):
        rig.enqueue(slot, [inputs[0]._replace(address=inputs[0].address + 4)])
    assert np.allclose(rig.run(rows_of(3))[0], 2 * rows_of(3))
