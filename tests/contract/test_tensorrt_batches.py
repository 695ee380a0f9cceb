# SPDX-License-Identifier: Apache-2.0
"""Batches of a TensorRT model on their whole way through a worker: clients' regions, slots, graphs, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_rig import OUT, DeviceRig, request
from plan_rig import affine_onnx, build, spec_of
from simulated.tensorrt_packages import SimulatedTensorRT
from worker_rig import unplaced

from penstock.ipc.messages import Gpu, Placement
from penstock.workers.backends.tensorrt_plan import TensorRT

PROFILE = {"x": [[1, 4], [4, 4], [8, 4]]}
SPEC = spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [4])})


def rows_of(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).random((count, 4), np.float32)


def rig_of(simulated: SimulatedTensorRT, plan: bytes, folder: Path, spec: Any = SPEC, **more: Any) -> DeviceRig:
    (folder / "model.plan").write_bytes(plan)
    return DeviceRig(spec, TensorRT(), directory=str(folder), **more)


@pytest.mark.parametrize("lanes", [1, 2])
def test_requests_of_many_batches_in_flight_get_their_own_rows(
    simulated_tensorrt: SimulatedTensorRT, tmp_path: Path, lanes: int
) -> None:
    """Given requests of 1 to 3 rows in batches of changing size; when two batches are in flight at a time; then each is right."""
    plan = build(simulated_tensorrt.trt, affine_onnx(), PROFILE)
    with rig_of(simulated_tensorrt, plan, tmp_path, gpu=Gpu("", lanes=lanes)) as rig:
        for turn, counts in enumerate([(3, 2, 3), (1,), (2, 2), (3,), (1, 1, 1)]):
            sent, at = [], 0
            for index, count in enumerate(counts):
                x = rows_of(count, seed=10 * turn + index)
                sent.append((x, OUT + at))
                at += x.nbytes
            where = [request(rig.memory, x, at=out - OUT, out=out) for x, out in sent]
            assert rig.run(*where).code == ""
            for x, out in sent:
                assert np.allclose(rig.memory.get(out, "FP32", x.shape), 3 * x + 1)


def test_a_request_in_cuda_memory_stays_there(simulated_tensorrt: SimulatedTensorRT, tmp_path: Path) -> None:
    plan = build(simulated_tensorrt.trt, affine_onnx(), PROFILE)
    with rig_of(simulated_tensorrt, plan, tmp_path) as rig:
        memory = rig.map_device()
        for count in (8, 3):
            x = rows_of(count, seed=count)
            done = rig.run(request(memory, x))
            assert done.code == "" and {copied.kind for copied in done.copies} <= {"d2d"}, done.copies
            assert np.allclose(memory.get(OUT, "FP32", x.shape), 3 * x + 1)


def test_an_output_of_unknown_shape_reaches_the_client_in_memory_of_the_worker(
    simulated_tensorrt: SimulatedTensorRT, tmp_path: Path
) -> None:
    plan = simulated_tensorrt.plan(
        {"x": ("FLOAT", [6])}, {"y": ("INT32", [-1, 1])}, [{"op": "nonzero", "in": ["x"], "out": "y"}]
    )
    spec = spec_of({"x": ("FP32", [6])}, {"y": ("INT32", [-1, 1])}, max_batch_size=0)
    with rig_of(simulated_tensorrt, plan, tmp_path, spec) as rig:
        for x in (np.array([0, 1, 0, 1, 1, 0], np.float32), np.ones(6, np.float32), np.zeros(6, np.float32)):
            done, fds = rig.run_with_fds(Placement(1, [rig.memory.put(0, x)], [unplaced(0)]))
            assert done.code == "" and done.items[0].code == ""
            (output,) = done.items[0].outputs
            found = _content(fds, output.offset, output.byte_size)
            assert output.shape == [np.count_nonzero(x), 1]
            assert np.frombuffer(found, np.int32).tolist() == np.flatnonzero(x).tolist()


def _content(fds: list[int], offset: int, byte_size: int) -> bytes:
    (fd,) = fds
    try:
        return os.pread(fd, byte_size, offset)
    finally:
        os.close(fd)


def test_a_plan_that_gives_other_shapes_than_promised_fails_its_requests_only(
    simulated_tensorrt: SimulatedTensorRT, tmp_path: Path
) -> None:
    plan = build(simulated_tensorrt.trt, affine_onnx(), PROFILE)
    with rig_of(simulated_tensorrt, plan, tmp_path, spec_of({"x": ("FP32", [4])}, {"y": ("FP32", [2])})) as rig:
        x = rows_of(3, seed=1)
        done = rig.run(Placement(3, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 24)]))
        assert "y" in (done.message or done.items[0].message)
