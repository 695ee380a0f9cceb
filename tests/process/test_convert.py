# SPDX-License-Identifier: Apache-2.0
"""`penstock convert` as a user runs it: a source becomes a model that is served and says the same, or nothing is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import START_S, RunningBroker, eventually

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "model_repository" / "digits"
SOURCES = Path(__file__).parent / "sources"
WITHIN_S = 90.0

needs_torch = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode != 0,
    reason="torch is not installed: pip install 'penstock[torch]'",
)


class Converted:
    """A conversion that came to its end."""

    def __init__(self, repository: Path, *words: str, code: int = 0, name: str = "m", folder: Path | None = None) -> None:
        command = [sys.executable, "-m", "penstock.clients.cli", "convert", *words[:1], "--repository", str(repository)]
        command += ["--name", name, "--json", *words[1:]]
        done = subprocess.run(command, cwd=folder or SOURCES, capture_output=True, text=True, check=False, timeout=WITHIN_S)
        self.steps, self.stdout = done.stderr, done.stdout
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        self.said: dict[str, Any] = json.loads(done.stdout) if done.stdout or code in (0, 3) else {}

    @property
    def checks(self) -> list[tuple[str, str, bool]]:
        return [(each["where"], each["output"], each["right"]) for each in self.said["attempts"][0]["checks"]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The digits' ONNX file, elsewhere."""
    copy = tmp_path / "digits.onnx"
    copy.write_bytes((DIGITS / "1" / "model.onnx").read_bytes())
    return copy


def hidden(repository: Path) -> list[str]:
    return [path.name for path in repository.iterdir() if path.name.startswith(".")] if repository.exists() else []


def test_an_onnx_file_becomes_a_model_that_says_the_same_as_served(
    repository: Path, weights: Path, link: str, tmp_path: Path
) -> None:
    # Given an ONNX file and real inputs
    images = np.load(DIGITS / "held_out.npz")["images"][:30].astype(np.float32).reshape(-1, 1, 8, 8)
    np.savez(tmp_path / "inputs.npz", image=images)
    # When it is converted
    converted = Converted(
        repository, str(weights), "--format", "onnx", "--inputs", str(tmp_path / "inputs.npz"), "--max-batch-size", "16",
        "--preferred-batch-sizes", "4", "8", "--max-queue-delay-us", "200", "--instances", "2:cpu", "--version", "3",
        "--labels", str(DIGITS / "labels.txt"),
    )  # fmt: skip
    # Then it was compared in this process and as served, and is there
    assert converted.checks == [("converted", "scores", True), ("served", "scores", True)]
    assert converted.said["directory"] == str(repository / "m" / "3")
    assert sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()) == [
        "m/3/model.onnx", "m/config.pbtxt", "m/labels.txt",
    ]  # fmt: skip
    # And a broker serves it as it is
    with RunningBroker(tmp_path, repository, "--strict") as broker, broker.client(link) as client:
        config = client.config("m")
        assert config["max_batch_size"] == 16
        assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8]
        assert client.infer("m", {"image": images[:9]}).outputs["scores"].shape == (9, 10)
        assert len(client.status()["instances"]) == 2


def test_a_version_is_not_written_over_unless_forced(repository: Path, weights: Path) -> None:
    Converted(repository, str(weights), "--format", "onnx", "--check", "converted")
    before = (repository / "m" / "1" / "model.onnx").stat().st_ino
    refused = Converted(repository, str(weights), "--format", "onnx", "--check", "converted", code=1)
    assert "1 is there already; --force writes over it" in refused.steps
    refused = Converted(repository, str(weights), "--format", "onnx", "--version", "2", "--max-batch-size", "4", code=1)
    assert "config.pbtxt says something else than this version needs" in refused.steps
    assert not (repository / "m" / "2").exists()
    Converted(repository, str(weights), "--format", "onnx", "--check", "converted", "--force")
    assert (repository / "m" / "1" / "model.onnx").stat().st_ino != before
    assert hidden(repository) == []


def test_what_cannot_be_asked_for_together_is_refused(repository: Path, weights: Path) -> None:
    for words, said, code in (
        ((), "say one --format and one --precision", 2),
        (("--format", "trt", "--check", "converted"), "found out as served only", 2),
        (("--format", "ts-trace"), "an ONNX file cannot be converted to it", 1),
        (("--format", "onnx", "--capture-cuda-graph"), "--capture-cuda-graph: graphs are captured of TensorRT plans only", 1),
        (("--format", "onnx", "--batching", "none", "--preferred-batch-sizes", "4"), "are for --batching dynamic", 2),
        (("--format", "onnx", "--shape", "nothing:1"), "--shape names ['nothing']: the inputs are ['image']", 1),
        (("--format", "onnx", "--atol", "nothing=1"), "the outputs are ['scores']", 1),
        (("--format", "onnx", "--load", "--address", "unix:///nowhere"), "nowhere", 2),
    ):
        assert said in Converted(repository, str(weights), *words, code=code).steps
    assert list(repository.iterdir()) == []


def test_it_is_loaded_into_the_broker_that_serves_the_repository(repository: Path, weights: Path, tmp_path: Path) -> None:
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        at = ("--load", "--address", broker.addresses["local"])
        converted = Converted(repository, str(weights), "--format", "onnx", *at)
        assert converted.said["loaded"] is True
        assert [where for where, _, _ in converted.checks] == ["converted", "served", "served"]
        assert client.is_ready("m")


def test_a_broker_of_other_repositories_is_given_the_files(repository: Path, weights: Path, tmp_path: Path) -> None:
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        at = ("--load", "--address", broker.addresses["zmq"])
        words = (str(weights), "--format", "onnx", "--version", "2", "--labels", str(DIGITS / "labels.txt"), *at)
        Converted(tmp_path / "other", *words)
        assert client.model("m").versions == (2,)
        assert list(repository.iterdir()) == []
        # And when one cannot load it, that is the end, with what has been written
    with RunningBroker(tmp_path, repository, "--control-mode", "none") as broker:
        at = ("--load", "--address", broker.addresses["local"])
        failed = Converted(tmp_path / "third", str(weights), "--format", "onnx", *at, code=1)
        assert f"{tmp_path}/third/m/1 was written, but not loaded: " in failed.steps


def test_interrupted_it_leaves_nothing(repository: Path, weights: Path) -> None:
    # Given a conversion that serves what it has converted
    command = [sys.executable, "-m", "penstock.clients.cli", "convert", str(weights), "--format", "onnx", "--repository"]
    command += [str(repository), "--name", "m"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("comparing as served" in line for line in process.stderr)
        # When it is interrupted
        process.send_signal(signal.SIGINT)
        # Then it ends, with its broker (which the leak check would find) and without a trace
        assert process.wait(START_S) == 1
    assert list(repository.iterdir()) == []


ENDLESS = """
import pathlib, threading

__version__ = "8.5"

class ILogger:
    ERROR, INTERNAL_ERROR = 1, 2

class Builder:
    def __init__(self, logger):
        pathlib.Path("building").touch()
        threading.Event().wait()
"""
WITHOUT_GPU = """
__version__ = "8.5"

class ILogger:
    ERROR, INTERNAL_ERROR = 1, 2

class Builder:
    def __init__(self, logger):
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
"""


def test_interrupted_while_an_engine_is_built_it_ends_the_builder(repository: Path, weights: Path, tmp_path: Path) -> None:
    # Given a TensorRT that does not come back
    (tmp_path / "tensorrt.py").write_text(ENDLESS)
    command = [sys.executable, "-m", "penstock.clients.cli", "convert", str(weights), "--format", "trt", "--repository"]
    with subprocess.Popen([*command, str(repository), "--name", "m"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        eventually((tmp_path / "building").exists, START_S, "it builds")
        # When it is interrupted, then it ends, and its builder does (which the leak check would find)
        process.send_signal(signal.SIGINT)
        assert process.wait(START_S) == 1
    assert list(repository.iterdir()) == []


def test_without_a_gpu_there_is_no_plan_and_that_is_said(repository: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text(WITHOUT_GPU)
    steps = Converted(repository, str(weights), "--format", "trt", code=1, folder=tmp_path).steps
    assert "trt: TensorRT 8.5 finds no GPU: CUDA initialization failure with error: 35" in steps
    assert list(repository.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a Perceptron of five classes."""
    path = tmp_path_factory.mktemp("weights") / "five.pth"
    program = "import sys, torch, modules_to_convert as m; torch.manual_seed(5); torch.save(m.Perceptron(5).state_dict(), sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=SOURCES, check=True)
    return path


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text('{"classes": 5}')
    return str(path)


@needs_torch
@pytest.mark.parametrize("form", ["ts-trace", "ts-script", "torch-export", "onnx"])
def test_a_module_with_its_checkpoint_becomes_a_model_in_every_format(
    form: str, repository: Path, checkpoint: Path, config: str, tmp_path: Path
) -> None:
    words = ("modules_to_convert:perceptron", "--format", form, "--config", config, "--checkpoint", str(checkpoint))
    converted = Converted(repository, *words)
    # Then the names are forward's, and what it says is what the module says
    (attempt,) = converted.said["attempts"]
    assert attempt["inputs"] == [{"name": "pixels", "datatype": "FP32", "dims": [4]}]
    assert attempt["outputs"] == [{"name": "OUTPUT__0", "datatype": "FP32", "dims": [5]}]
    assert converted.checks == [("converted", "OUTPUT__0", True), ("served", "OUTPUT__0", True)]
    assert all(each["worst"]["expected"] for each in attempt["checks"])
    # And what the function prints is not taken for what the command says
    assert "building a perceptron" in converted.steps


@needs_torch
def test_a_model_of_nvidias_examples_is_taken_as_it_is(repository: Path, config: str) -> None:
    words = (
        "modules_to_convert:get_model",
        "--format",
        "onnx",
        "--config",
        config,
        "--input",
        "INPUT__0:FP32:4",
        "--precision",
        "fp16",
    )
    converted = Converted(repository, *words, "--", "--scale", "2.5")
    (attempt,) = converted.said["attempts"]
    assert [attempt["inputs"][0]["datatype"], attempt["outputs"][0]["datatype"]] == ["FP32", "FP32"]
    assert attempt["precision"] == "fp16"
    assert max(each["max_abs_error"] for each in attempt["checks"]) > 0, "half precision"


@needs_torch
def test_a_model_that_differs_by_more_than_its_tolerance_is_not_written(repository: Path) -> None:
    words = (
        "modules_to_convert:perceptron",
        "--format",
        "onnx",
        "--precision",
        "fp16",
        "--atol",
        "OUTPUT__0=1e-9",
        "--rtol",
        "0",
    )
    converted = Converted(repository, *words, code=3)
    (check,) = converted.said["attempts"][0]["checks"]
    assert (check["output"], check["right"], check["atol"], check["rtol"]) == ("OUTPUT__0", False, 1e-9, 0)
    assert check["worst"]["expected"] != check["worst"]["found"]
    assert len(check["worst"]["place"]) == 2
    assert "differs from the source by more than its tolerance: 'OUTPUT__0' (converted); nothing was written" in converted.steps
    assert list(repository.iterdir()) == []


@needs_torch
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("modules_to_convert:batch_of_two", "--format", "ts-trace", "--batching", "none"), "is that written into it?"),
        (("modules_to_convert:batch_of_two", "--format", "ts-trace"), "is not the same alone as in a batch of 8 (by up to 7)"),
        (("modules_to_convert:leaving", "--format", "onnx"), "raised SystemExit: no configuration, no module (modules_to_convert.py:"),
        (("modules_to_convert:without_examples", "--format", "ts-trace"), "say what it takes, e.g. --input NAME:FP32:3,224,224"),
        (("modules_to_convert:without_examples", "--format", "onnx", "--input", "x:FP32:5"), "the source cannot answer request 0"),
        (("modules_to_convert:nothing", "--format", "onnx"), "has no function 'nothing'; it has batch_of_two"),
        (("no_such_module:f", "--format", "onnx"), "module 'no_such_module' cannot be imported"),
        (("modules_to_convert:perceptron", "--format", "onnx", "--opset", "99"), "--opset"),
        (("modules_to_convert:perceptron", "--format", "trt", "--instances", "1:cpu"), "a TensorRT plan computes on a GPU only"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_source_is_one_sentence(words: tuple[str, ...], said: str, repository: Path) -> None:
    converted = Converted(repository, *words, code=1)
    assert said in converted.steps.splitlines()[-1]
    assert list(repository.iterdir()) == []


@needs_torch
@pytest.mark.parametrize("form", ["ts-trace", "torch-export", "onnx"])
def test_a_number_without_dims_is_served_as_one_element(repository: Path, form: str) -> None:
    converted = Converted(repository, "modules_to_convert:regression", "--format", form)
    assert converted.checks == [("converted", "OUTPUT__0", True), ("served", "OUTPUT__0", True)]
    assert "dims: [ 1 ] reshape { shape: [ ] }" in (repository / "m" / "config.pbtxt").read_text()


@needs_torch
def test_what_depends_on_its_batch_is_converted_for_batches_that_clients_make(repository: Path) -> None:
    words = ("modules_to_convert:normalising", "--format", "torch-export")
    assert "so requests cannot be batched together: say --batching none" in Converted(repository, *words, code=1).steps
    assert Converted(repository, *words, "--batching", "none").said["right"]


@needs_torch
def test_a_checkpoint_that_does_not_fit_names_its_keys(repository: Path, checkpoint: Path) -> None:
    words = ("modules_to_convert:without_examples", "--format", "onnx", "--input", "x:FP32:4", "--checkpoint", str(checkpoint))
    assert (
        "does not fit the module: of another shape: scores.bias, scores.weight" in Converted(repository, *words, code=1).steps
    )


@needs_torch
def test_a_search_keeps_the_fastest_that_is_right_and_says_why_others_are_not(repository: Path) -> None:
    words = ("--search", "--format", "onnx", "--format", "ts-trace", "--format", "trt", "--max-batch-size", "4")
    more = ("--measurement-interval-ms", "40", "--instances", "1")
    converted = Converted(repository, "modules_to_convert:perceptron", *words, *more)
    attempts = {(each["format"], each["precision"]): each for each in converted.said["attempts"]}
    assert len(attempts) == 6
    # The fastest of those that were measured is there
    measured = {key: each["speed"]["inferences_per_s"] for key, each in attempts.items() if each["right"]}
    assert {form for form, _ in measured} == {"onnx", "ts-trace"}
    (kept,) = (repository / "m" / "1").iterdir()
    best = max(measured, key=lambda key: measured[key])
    assert kept.name == {"onnx": "model.onnx", "ts-trace": "model.pt"}[best[0]]
    # And what could not be has a reason
    assert "TensorRT" in attempts["trt", "fp32"]["error"]


def test_a_module_without_torch_is_told_what_to_install(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    (tmp_path / "m.py").write_text("def f(): return 1")
    converted = Converted(repository, "m:f", "--format", "onnx", code=1, folder=tmp_path)
    assert "a torch module needs torch, which cannot be imported (not here): pip install 'penstock[torch]'" in converted.steps


def test_help_says_what_each_exit_code_means() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.clients.cli", "convert", "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert "ts-trace|ts-script|torch-export|onnx|trt" in done.stdout
    assert "3  some output differs from the source's by more than its tolerance" in done.stdout
