# SPDX-License-Identifier: Apache-2.0
"""`penstock convert --format trt`, with a simulated GPU and a simulated TensorRT of 8.5 and of 11 in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from simulated.fixtures import pass_on
from simulated.tensorrt_packages import SimulatedTensorRT

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "model_repository" / "digits" / "1" / "model.onnx"
WITHIN_S = 90.0


@pytest.fixture(autouse=True)
def machine(simulated_tensorrt: SimulatedTensorRT, monkeypatch: pytest.MonkeyPatch) -> SimulatedTensorRT:
    """What a child of this process sees."""
    pass_on(simulated_tensorrt.environment(), monkeypatch)
    return simulated_tensorrt


def convert(source: Path, repository: Path, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """What it says, and its steps."""
    command = [sys.executable, "-m", "penstock.clients.cli", "convert", str(source), "--format", "trt"]
    command += ["--repository", str(repository), "--name", "m", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_a_plan_is_built_with_a_profile_per_preferred_size_and_compared_as_served(
    machine: SimulatedTensorRT, repository: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "timings"
    words = ("--preferred-batch-sizes", "2", "4", "--timing-cache", str(cache), "--max-workspace-size", "1000000")
    said, steps = convert(DIGITS, repository, *words)
    # Then it is a plan and nothing else, which was compared where it can run
    assert [path.name for path in (repository / "m" / "1").iterdir()] == ["model.plan"]
    assert [(each["where"], each["right"]) for each in said["attempts"][0]["checks"]] == [("served", True)]
    # And instances use each of its profiles
    config = (repository / "m" / "config.pbtxt").read_text()
    assert 'kind: KIND_GPU profile: [ "0", "1", "2" ]' in config
    # And the builder has said how far it was, where it can
    assert "trt: building" in steps
    assert ("trt: Building Engine: 100 %" in steps) is not machine.is_old
    # And the next build has the times of this one
    assert cache.stat().st_size
    again, _ = convert(DIGITS, repository, *words, "--version", "2")
    assert again["directory"] == str(repository / "m" / "2")


def test_a_timing_cache_of_something_else_is_replaced(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"nothing")
    _, steps = convert(DIGITS, repository, "--timing-cache", str(cache))
    assert "is of another TensorRT or another GPU, and is replaced" in steps
    assert cache.read_bytes() != b"nothing"


def test_half_precision_is_a_flag_up_to_10_and_a_matter_of_the_file_from_11(
    machine: SimulatedTensorRT, repository: Path
) -> None:
    if machine.is_old:
        said, _ = convert(DIGITS, repository, "--precision", "fp16")
        assert said["attempts"][0]["right"] is True
    else:
        _, steps = convert(DIGITS, repository, "--precision", "fp16", code=1)
        assert "--precision fp16 for an ONNX file needs onnxconverter-common" in steps


def test_without_a_gpu_nothing_is_built_and_tensorrt_says_why(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.5 only warns of it."""
    monkeypatch.setenv("SIMULATED_CUDA_GPUS", "0")
    _, steps = convert(DIGITS, repository, code=1)
    assert "finds no GPU: CUDA initialization failure with error: 100" in steps


def test_what_the_parser_does_not_know_is_listed(machine: SimulatedTensorRT, repository: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(DIGITS)
    model.graph.node.append(onnx.helper.make_node("QuickGelu", ["image"], ["unused"], "odd", domain="com.microsoft"))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(model.SerializeToString())
    _, steps = convert(wrong, repository, code=1)
    where = f"node {len(model.graph.node) - 1}" if machine.is_old else "QuickGelu odd"
    assert f"the ONNX file cannot be parsed: {where}: No importer registered for op: QuickGelu" in steps
    assert list(repository.iterdir()) == []
