# SPDX-License-Identifier: Apache-2.0
"""TensorRT plans as a worker executes them: the same stories over simulated packages of 8.5 and 11, and over a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_rig import PlanRig, affine_onnx, build, graphs_off, nonzero_onnx, spec_of
from simulated.tensorrt_packages import installed

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import GraphSpec, Optimization, TensorSpec
from penstock.workers.backends.on_device import DeviceTensor, DeviceWork

PROFILE = {"x": [[1, 4], [4, 4], [8, 4]]}
X, Y = {"x": ("FP32", [4])}, {"y": ("FP32", [4])}


@pytest.fixture(params=["8.5", "11", pytest.param("real", marks=pytest.mark.gpu)])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if request.param == "real":
        yield pytest.importorskip("tensorrt", reason="needs TensorRT, which is not installed")
        return
    with installed(request.param, request.getfixturevalue("simulated_cuda"), monkeypatch) as package:
        yield package.trt


@pytest.fixture
def rigs(trt: Any) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def rig_of(rigs: ExitStack, plan: bytes, directory: Path, **gpu: Any) -> PlanRig:
    rig = PlanRig(plan, directory, **gpu)
    rigs.callback(rig.close)
    return rig


def some_rows(rows: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random((rows, 4), np.float32)


def close_to(got: Any, expected: Any) -> bool:
    """Within what TF32 and another order of additions make of it."""
    return got.shape == expected.shape and np.allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_the_signature_says_complete_dims_and_the_largest_batch(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    signature = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path).load()
    assert signature.inputs == [TensorSpec("x", "FP32", [-1, 4])]
    assert signature.outputs == [TensorSpec("y", "FP32", [-1, 4])]
    assert signature.max_batch_size == 8


def test_a_plan_without_a_variable_batch_dimension_has_no_largest_batch(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(3)), tmp_path)
    assert rig.load().max_batch_size == 0


@pytest.mark.parametrize("optimization", [Optimization(), graphs_off()], ids=["graphs", "no graphs"])
def test_every_batch_size_is_computed_in_every_slot(
    trt: Any, rigs: ExitStack, tmp_path: Path, optimization: Optimization
) -> None:
    """Given two lanes of two slots; when batches of all sizes go through them, falling and rising; then all are right."""
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path)
    rig.warm_up(spec_of(X, Y, optimization=optimization), lanes=2)
    assert rig.backend.replays(5) == (optimization.cuda_graphs is not False)
    for turn, rows in enumerate([8, 5, 3, 1, 2, 4, 6, 7, 1, 8]):
        for slot in range(4):
            x = some_rows(rows, seed=10 * turn + slot)
            assert close_to(rig.run(x, slot=slot)[0], 3 * x + 1)


def test_batches_of_two_slots_are_in_the_stream_at_once(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path).warm_up(spec_of(X, Y))
    first, second = some_rows(5, seed=1), some_rows(2, seed=2)
    filled = [rig.fill(slot, x) for slot, x in zip(rig.slots, (first, second), strict=True)]
    results = [rig.enqueue(slot, inputs)[0] for slot, inputs in zip(rig.slots, filled, strict=True)]
    rig.streams[0].synchronize()
    assert close_to(rig.read(results[0]), 3 * first + 1)
    assert close_to(rig.read(results[1]), 3 * second + 1)


def test_tensors_outside_of_the_slot_are_read_and_written_where_they_lie(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path).warm_up(spec_of(X, Y))
    x = some_rows(5)
    place = DeviceTensor(rig.buffer(x.nbytes), "FP32", (5, 4), x.nbytes)
    results = rig.enqueue(rig.slots[0], rig.fill(rig.slots[0], x, elsewhere=True), [place])
    assert results == [place]
    rig.streams[0].synchronize()
    assert close_to(rig.read(place), 3 * x + 1)
    assert close_to(rig.run(x)[0], 3 * x + 1), "and then in the slot again"
    other = some_rows(5, seed=2)
    assert close_to(rig.run(other, elsewhere=True)[0], 3 * other + 1), "from elsewhere, and into the slot"


def test_places_that_are_taken_are_handed_back_themselves(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    """The worker compares by identity, so that the usual batch needs no look at its outputs."""
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path).warm_up(spec_of(X, Y))
    slot = rig.slots[0]
    for elsewhere in (False, True):
        inputs = rig.fill(slot, some_rows(3), elsewhere=elsewhere)
        work = DeviceWork([3], inputs, (0,), rig.places(slot, 3), slot)
        assert rig.backend.enqueue(work) is work.places
    rig.streams[0].synchronize()


def test_a_model_without_a_batch_dimension_has_its_graph(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(3)), tmp_path)
    rig.warm_up(spec_of({"x": ("FP32", [3, 4])}, {"y": ("FP32", [3, 4])}, max_batch_size=0), lanes=2)
    assert rig.backend.replays(1)
    for slot in range(4):
        x = some_rows(3, seed=slot)
        assert close_to(rig.run(x, slot=slot)[0], 3 * x + 1)


def test_outputs_whose_shape_depends_on_data_keep_their_memory_until_the_slot_is_used_again(
    trt: Any, rigs: ExitStack, tmp_path: Path
) -> None:
    rig = rig_of(rigs, build(trt, nonzero_onnx()), tmp_path)
    datatype = rig.load().outputs[0].datatype
    rig.warm_up(spec_of({"x": ("FP32", [2, 6])}, {"y": (datatype, [2, -1])}, max_batch_size=0))
    few, many = np.zeros((2, 6), np.float32), np.ones((2, 6), np.float32)
    few[1, 2] = few[0, 5] = 1
    first = rig.enqueue(rig.slots[0], rig.fill(rig.slots[0], few))[0]
    second = rig.enqueue(rig.slots[1], rig.fill(rig.slots[1], many))[0]
    rig.streams[0].synchronize()
    assert first.shape == (2, 2) and second.shape == (2, 12)
    assert rig.read(first).tolist() == [[0, 1], [5, 2]]
    assert np.array_equal(rig.read(second), np.array(np.nonzero(many)))
    assert rig.run(np.zeros((2, 6), np.float32))[0].shape == (2, 0)


def test_of_several_profiles_the_nearest_serves_a_batch(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    """Given profiles for small and for large batches; when one instance has both; then all sizes are served, by graphs."""
    profiles = {"x": [[1, 4], [2, 4], [2, 4]]}, {"x": [[1, 4], [8, 4], [16, 4]]}
    rig = rig_of(rigs, build(trt, affine_onnx(), *profiles), tmp_path, profiles=["0", "1"])
    assert rig.load().max_batch_size == 16
    rig.warm_up(spec_of(X, Y, max_batch_size=16))
    for rows in (1, 2, 3, 8, 11, 16):
        for elsewhere in (False, True):
            assert close_to(rig.run(some_rows(rows), elsewhere=elsewhere)[0], 3 * some_rows(rows) + 1)
    assert len(rig.backend.describe()["profiles"]) == 2


def test_an_instance_has_the_profiles_that_it_names(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    profiles = {"x": [[1, 4], [2, 4], [2, 4]]}, {"x": [[4, 4], [8, 4], [16, 4]]}
    rig = rig_of(rigs, build(trt, affine_onnx(), *profiles), tmp_path, profiles=["1"]).warm_up(spec_of(X, Y, max_batch_size=16))
    assert close_to(rig.run(some_rows(6))[0], 3 * some_rows(6) + 1)
    with pytest.raises(
        CallerError, match=r"no optimization profile of this instance takes x \[3, 4\]; profile 1: x \[4, 4\] to \[16, 4\]"
    ):
        rig.run(some_rows(3))


@pytest.mark.parametrize("index", ["2", "-1", "first"])
def test_a_profile_that_the_plan_does_not_have_is_refused(trt: Any, rigs: ExitStack, tmp_path: Path, index: str) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path, profiles=[index])
    with pytest.raises(
        CallerError, match=rf"instance_group.profile '{index}': .* has 1 optimization profiles; write an index from 0 to 0"
    ):
        rig.load()


def test_a_larger_batch_than_the_profile_takes_is_refused_with_both_numbers(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path)
    with pytest.raises(CallerError, match="specified max-batch 9 but TensorRT engine only supports max-batch 8"):
        rig.warm_up(spec_of(X, Y, max_batch_size=9))


def test_tensors_that_the_plan_does_not_have_are_refused(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path)
    with pytest.raises(CallerError, match="no output 'z'; it has y"):
        rig.warm_up(spec_of(X, {"z": ("FP32", [4])}))


def test_variable_dims_are_executed_and_have_graphs_where_they_are_asked_for(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    """Given rows of any width, and a graph_spec for width 4; then that has a graph, and other widths are served without."""
    plan = build(trt, affine_onnx(width="w"), {"x": [[1, 1], [4, 4], [8, 16]]})  # type: ignore[arg-type]
    asked = Optimization(graph_specs=[GraphSpec(4, {"x": [4]}, lower_batch_size=2)])
    rig = rig_of(rigs, plan, tmp_path).warm_up(spec_of({"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, optimization=asked))
    assert [rig.backend.replays(rows) for rows in (1, 2, 4, 5)] == [False, True, True, False]
    for rows, width in [(4, 4), (3, 4), (8, 16), (1, 1), (2, 4), (4, 7)]:
        x = np.random.default_rng(rows).random((rows, width), np.float32)
        assert close_to(rig.run(x)[0], 3 * x + 1)


def test_the_description_names_version_profiles_and_graphs(trt: Any, rigs: ExitStack, tmp_path: Path) -> None:
    rig = rig_of(rigs, build(trt, affine_onnx(), PROFILE), tmp_path).warm_up(spec_of(X, Y))
    described = rig.backend.describe()
    assert described["tensorrt"] == trt.__version__
    assert described["graphs_per_slot"] == 4
    assert described["profiles"] == ["profile 0: x [1, 4] to [8, 4]"]
    assert described["layers"] > 0
