# SPDX-License-Identifier: Apache-2.0
"""TensorRT models served by a broker, with a simulated GPU and a simulated TensorRT in every process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from running import RunningBroker
from simulated.fixtures import pass_on
from simulated.tensorrt_packages import SimulatedTensorRT

from penstock.ipc.errors import PenstockError

PROFILE = {"x": [[1, 4], [4, 4], [8, 4]]}
DOUBLE = [{"op": "scale", "in": ["x"], "out": "y", "value": 2.0}]
POSITIONS = [{"op": "nonzero", "in": ["x"], "out": "y"}]


@pytest.fixture(autouse=True)
def machine(simulated_tensorrt: SimulatedTensorRT, monkeypatch: pytest.MonkeyPatch) -> SimulatedTensorRT:
    """What a child of this process sees."""
    pass_on(simulated_tensorrt.environment(), monkeypatch)
    return simulated_tensorrt


def add_plan(repository: Path, name: str, plan: bytes, config: str = "", filename: str = "model.plan") -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / filename).write_bytes(plan)
    if config:
        (repository / name / "config.pbtxt").write_text(config)


def test_a_plan_needs_no_configuration(machine: SimulatedTensorRT, repository: Path, tmp_path: Path, link: str) -> None:
    """Given a plan alone in its directory; then inputs, outputs and the largest batch are the engine's, batches are formed, and
    what clients get is right."""
    add_plan(repository, "double", machine.plan({"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}, DOUBLE, [PROFILE]))
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        model = client.model("double")
        assert (model.max_batch_size, [tensor.name for tensor in model.inputs]) == (8, ["x"]), broker.log()
        futures = []
        for seed in range(12):
            x = np.random.default_rng(seed).random((1 + seed % 5, 4), np.float32)
            futures.append((x, client.submit("double", {"x": x})))
        for x, future in futures:
            assert np.allclose(future.result(10).outputs["y"], 2 * x)
        assert client.config("double")["platform"] == "tensorrt_plan"
        (row,) = client.status()["instances"]
        assert (row["about"]["plan"], row["about"]["profiles"]) == ("model.plan", ["profile 0: x [1, 4] to [8, 4]"])


def test_positions_of_any_number_come_back(machine: SimulatedTensorRT, repository: Path, tmp_path: Path, link: str) -> None:
    add_plan(repository, "positions", machine.plan({"x": ("FLOAT", [6])}, {"y": ("INT32", [-1, 1])}, POSITIONS))
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        for x in (np.array([0, 1, 0, 1, 1, 0], np.float32), np.ones(6, np.float32)):
            assert client.infer("positions", {"x": x}).outputs["y"].ravel().tolist() == np.flatnonzero(x).tolist()


def test_batches_are_served_by_each_profile_that_the_instances_name(
    machine: SimulatedTensorRT, repository: Path, tmp_path: Path
) -> None:
    """Given a plan with a profile for small and one for large batches; then two lanes that name both take all sizes, and a
    profile that there is not is refused with those that there are."""
    profiles = [{"x": [[1, 4], [2, 4], [2, 4]]}, {"x": [[3, 4], [8, 4], [8, 4]]}]
    plan = machine.plan({"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}, DOUBLE, profiles)
    both = 'platform: "tensorrt_plan" instance_group [ {{ kind: KIND_GPU {} profile: [ "0", "{}" ] }} ]'
    lanes = ' parameters { key: "lanes" value { string_value: "2" } }'
    add_plan(repository, "double", plan, both.format("count: 2", 1) + lanes)
    add_plan(repository, "wrong", plan, both.format("", 7))
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        assert client.model("double").max_batch_size == 8, broker.log()
        for rows in range(1, 9):
            x = np.random.default_rng(rows).random((rows, 4), np.float32)
            assert np.allclose(client.infer("double", {"x": x}).outputs["y"], 2 * x)
        with pytest.raises(PenstockError, match="instance_group.profile '7': .* has 2 optimization profiles; write an index"):
            client.infer("wrong", {"x": np.zeros((1, 4), np.float32)})


ONE_VERSION = pytest.mark.parametrize("simulated_tensorrt", ["11"], indirect=True)

CONFIG = """
platform: "tensorrt_plan"
max_batch_size: {rows}
input [ {{ name: "x" data_type: {kind} dims: [ 4 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
"""


@ONE_VERSION
@pytest.mark.parametrize(
    ("rows", "kind", "expected"),
    [
        (
            16,
            "TYPE_FP32",
            "configuration specified max-batch 16 but the model only supports max-batch 8; write max_batch_size: 8",
        ),
        (8, "TYPE_INT64", "configuration expects datatype TYPE_INT64 for input 'x', model provides TYPE_FP32"),
    ],
)
def test_a_configuration_that_does_not_fit_the_plan_is_refused_with_both(
    machine: SimulatedTensorRT, repository: Path, tmp_path: Path, rows: int, kind: str, expected: str
) -> None:
    plan = machine.plan({"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}, DOUBLE, [PROFILE])
    add_plan(repository, "double", plan, CONFIG.format(rows=rows, kind=kind))
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        with pytest.raises(PenstockError) as caught:
            client.infer("double", {"x": np.zeros((1, 4), np.float32)})
        assert expected in caught.value.message


@ONE_VERSION
def test_an_encrypted_export_is_told(repository: Path, tmp_path: Path) -> None:
    add_plan(repository, "tao", b"\x05\x00\x00\x00input" + os.urandom(64))
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        with pytest.raises(PenstockError) as caught:
            client.infer("tao", {"x": np.zeros((1, 4), np.float32)})
        assert "'model.plan' is an encrypted export of NVIDIA's TAO toolkit" in caught.value.message
