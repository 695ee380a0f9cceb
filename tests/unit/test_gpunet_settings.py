# SPDX-License-Identifier: Apache-2.0
"""The variables of bench/gpunet: NVIDIA's are understood, what says nothing is refused by name, what cannot be had by its reason."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.ipc.errors import CallerError
from penstock.ipc.gpus import Gpus

BENCH = Path(__file__).resolve().parents[2] / "bench"
NVIDIA = {
    "FORMAT": "onnx", "PRECISION": "fp16", "EXPORT_FORMAT": "onnx", "EXPORT_PRECISION": "fp16", "BACKEND_ACCELERATOR": "trt",
    "NUMBER_OF_MODEL_INSTANCES": "2", "TENSORRT_CAPTURE_CUDA_GRAPH": "0", "CHECKPOINT": "0.8ms-D",
}  # fmt: skip
"""What triton/08ms-D/README.md exports."""
BARE = Gpus(reason="this machine has no GPU")


@pytest.fixture(scope="module")
def gpunet() -> Iterator[Any]:
    """The modules of bench/gpunet, which is no package that is installed."""
    sys.path.insert(0, str(BENCH))
    try:
        from gpunet import configuration, refusals, settings, steps
    finally:
        sys.path.remove(str(BENCH))
    yield SimpleNamespace(
        configuration=configuration, refusals=refusals.refusals, settings_of=settings.settings_of, steps=steps
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "gpunet"]:
        del sys.modules[name]


def with_gpu(*backends: str) -> Any:
    """A machine with a GPU, and these backends for it."""
    return SimpleNamespace(found=("a GPU",), reason="", backends=backends)


def words_after(command: list[str], option: str) -> list[str]:
    """The values of an option."""
    rest = command[command.index(option) + 1 :]
    return rest[: next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))]


def test_without_any_variable_it_is_onnx_in_fp32_with_two_instances(gpunet: Any) -> None:
    asked = gpunet.settings_of({}, has_gpu=False, is_quick=False)
    assert (asked.format, asked.precision, asked.accelerator, asked.device, asked.instances) == (
        "onnx",
        "fp32",
        "none",
        "cpu",
        2,
    )
    assert (asked.variant, asked.checkpoint, asked.max_batch_size) == ("0.8ms-D", None, 64)
    assert asked.batch_sizes == (1, 2, 4, 8, 16, 32, 64)
    assert asked.concurrencies == (8, 16, 32, 64, 128, 256)
    assert gpunet.refusals(asked, BARE) == []
    assert gpunet.settings_of({"FORMAT": " ", "BATCH_SIZES": ""}, has_gpu=False, is_quick=False) == asked


def test_nvidias_own_settings_are_taken_where_there_is_a_gpu(gpunet: Any, tmp_path: Path) -> None:
    # Given what NVIDIA exports, and a checkpoint where NVIDIA puts it
    (tmp_path / "0.8ms-D.pth.tar").touch()
    asked = gpunet.settings_of({**NVIDIA, "CHECKPOINT_DIR": str(tmp_path)}, has_gpu=True, is_quick=False)
    # Then it is what convert is told
    assert gpunet.refusals(asked, with_gpu("onnxruntime")) == []
    command = gpunet.steps.convert_command(asked)
    for option, value in {
        "--format": "onnx", "--precision": "fp16", "--backend-accelerator": "trt", "--instances": "2:gpu", "--max-batch-size": "64",
        "--preferred-batch-sizes": "64", "--checkpoint": str(tmp_path / "0.8ms-D.pth.tar"), "--atol": "0.05",
        "--config": str(BENCH / "gpunet" / "configurations" / "0.8ms-D.json"),
    }.items():  # fmt: skip
        assert words_after(command, option) == [value]
    assert "--capture-cuda-graph" not in command


def test_a_plan_is_built_of_onnx_with_graphs_where_they_are_asked_for(gpunet: Any) -> None:
    asked = gpunet.settings_of({"FORMAT": "trt", "TENSORRT_CAPTURE_CUDA_GRAPH": "1"}, has_gpu=True, is_quick=False)
    assert gpunet.refusals(asked, with_gpu("tensorrt")) == []
    assert asked.export_format == "onnx"
    assert "--capture-cuda-graph" in gpunet.steps.convert_command(asked)
    assert gpunet.steps.labels(asked)["Export format"] == "ONNX"


def test_what_is_measured(gpunet: Any) -> None:
    asked = gpunet.settings_of({"BATCH_SIZES": "1, 4", "CONCURRENCIES": "8 256", "FORMAT": "ts-trace"}, False, False)
    offline, online = (gpunet.steps.perf_command(asked, mode, "unix:///b.sock") for mode in ("offline", "online"))
    assert words_after(offline, "--batch-sizes") == ["1", "4"]
    assert words_after(offline, "--concurrency") == ["1"]
    assert "--batch-sizes" not in online
    assert words_after(online, "--concurrency") == ["8", "256"]
    for command, mode in ((offline, "offline"), (online, "online")):
        assert words_after(command, "--evaluation-mode") == words_after(command, "--name") == [mode]
        assert words_after(command, "--shared-memory") == ["system"]
        assert "Model format=TorchScript Trace" in command
        assert "Torch jit=trace" in command


def test_nvidias_torchscript_is_either_kind(gpunet: Any) -> None:
    for jit, form in (("trace", "ts-trace"), ("script", "ts-script"), ("", "ts-script")):
        asked = gpunet.settings_of({"FORMAT": "torchscript", "EXPORT_FORMAT": "torchscript", "TORCH_JIT": jit}, False, False)
        assert asked.format == form
        assert gpunet.refusals(asked, BARE) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FORMAT": "tf"}, "FORMAT must be one of onnx, trt, ts-script, ts-trace, torch-export, torchscript, got 'tf'"),
        ({"PRECISION": "int8"}, "PRECISION must be one of fp32, fp16, got 'int8'"),
        ({"BACKEND_ACCELERATOR": "TRT"}, "BACKEND_ACCELERATOR must be one of none, trt, cuda, amp, got 'TRT'"),
        ({"NUMBER_OF_MODEL_INSTANCES": "0"}, "NUMBER_OF_MODEL_INSTANCES must be a whole number of at least 1, got '0'"),
        ({"MAX_BATCH_SIZE": "1.5"}, "MAX_BATCH_SIZE must be a whole number of at least 1, got '1.5'"),
        ({"TENSORRT_CAPTURE_CUDA_GRAPH": "yes"}, "TENSORRT_CAPTURE_CUDA_GRAPH must be one of 0, 1, got 'yes'"),
        ({"BATCH_SIZES": "1 two"}, "BATCH_SIZES must be whole numbers of at least 1 with spaces between, got '1 two'"),
        ({"BATCH_SIZES": "1 8", "MAX_BATCH_SIZE": "4"}, "BATCH_SIZES go up to 8, and MAX_BATCH_SIZE is 4"),
        ({"ATOL": "nan"}, "ATOL must be a number of at least 0, got 'nan'"),
        ({"RTOL": "-1"}, "RTOL must be a number of at least 0, got '-1'"),
        (
            {"CHECKPOINT": "3ms"},
            "CHECKPOINT=3ms: there is no configuration '3ms' here: it has 0.65ms, 0.8ms-D, 1.25ms-D",
        ),
        ({"CHECKPOINT": "nowhere.pth.tar"}, "CHECKPOINT=nowhere.pth.tar: there is no such file"),
        ({"CONFIG": "/nowhere.json"}, "CONFIG=/nowhere.json: there is no such file"),
        ({"FORMAT": "torchscript", "TORCH_JIT": "none"}, "FORMAT=torchscript needs TORCH_JIT=script or TORCH_JIT=trace"),
        ({"FORMAT": "onnx", "TORCH_JIT": "trace"}, "TORCH_JIT=trace is not FORMAT=onnx: leave it out, or say FORMAT=ts-trace"),
    ],
)
def test_a_variable_that_says_nothing_is_refused_by_its_name(gpunet: Any, variables: dict[str, str], said: str) -> None:
    with pytest.raises(CallerError) as refused:
        gpunet.settings_of(variables, has_gpu=False, is_quick=False)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "gpus", "said"),
    [
        (
            {"FORMAT": "trt"},
            BARE,
            "FORMAT=trt computes on a GPU only, and DEVICE_KIND is cpu (there is no GPU here: this machine has",
        ),
        ({"BACKEND_ACCELERATOR": "trt"}, BARE, "BACKEND_ACCELERATOR=trt computes on a GPU only"),
        (
            {"BACKEND_ACCELERATOR": "cuda", "DEVICE_KIND": "cpu"},
            with_gpu("onnxruntime"),
            "cuda computes on a GPU only, and DEVICE_KIND is cpu",
        ),
        ({"DEVICE_KIND": "gpu"}, BARE, "DEVICE_KIND=gpu: there is none here: this machine has no GPU"),
        ({"FORMAT": "trt"}, with_gpu("onnxruntime"), "TensorRT is not installed: pip install tensorrt"),
        ({"FORMAT": "onnx"}, with_gpu("tensorrt"), "onnxruntime for CUDA is not installed"),
        ({"FORMAT": "ts-trace"}, with_gpu("tensorrt"), "torch is installed for the CPU only"),
        ({"FORMAT": "trt", "BACKEND_ACCELERATOR": "trt"}, with_gpu("tensorrt"), "FORMAT=trt is a TensorRT plan already"),
        ({"FORMAT": "ts-script", "BACKEND_ACCELERATOR": "cuda"}, with_gpu("pytorch"), "it accelerates ONNX models"),
        ({"BACKEND_ACCELERATOR": "amp"}, BARE, "automatic mixed precision is TensorFlow's; say PRECISION=fp16"),
        (
            {"TENSORRT_CAPTURE_CUDA_GRAPH": "1"},
            with_gpu("onnxruntime"),
            "graphs are captured of TensorRT plans only, FORMAT=trt; FORMAT is onnx",
        ),
        (
            {"FORMAT": "trt", "EXPORT_FORMAT": "torchscript"},
            with_gpu("tensorrt"),
            "EXPORT_FORMAT=torchscript: FORMAT=trt is made of onnx",
        ),
        ({"FORMAT": "ts-trace", "EXPORT_FORMAT": "onnx"}, BARE, "EXPORT_FORMAT=onnx: FORMAT=ts-trace is made of ts-trace"),
        ({"EXPORT_PRECISION": "fp16"}, BARE, "EXPORT_PRECISION=fp16 with PRECISION=fp32"),
        ({"FORMAT": "torch-export", "MAX_BATCH_SIZE": "1"}, BARE, "torch.export takes a batch of one for constant"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(gpunet: Any, variables: dict[str, str], gpus: Any, said: str) -> None:
    (reason,) = gpunet.refusals(gpunet.settings_of(variables, bool(gpus.found), is_quick=False), gpus)
    assert said in reason


def test_a_checkpoint_brings_its_configuration(gpunet: Any, tmp_path: Path) -> None:
    # Given a checkpoint of the user's own
    checkpoint = tmp_path / "mine.pth.tar"
    checkpoint.touch()
    with pytest.raises(CallerError, match="there is no configuration 'mine' here"):
        gpunet.settings_of({"CHECKPOINT": str(checkpoint)}, False, False)
    # When its configuration lies beside it, that is taken; and one that is named goes before it
    beside, named = tmp_path / "mine.json", tmp_path / "named.json"
    beside.touch()
    named.touch()
    for variables, config in (
        ({"CHECKPOINT": str(checkpoint)}, beside),
        ({"CHECKPOINT": "mine", "CHECKPOINT_DIR": str(tmp_path)}, beside),
        ({"CHECKPOINT": "mine", "CHECKPOINT_DIR": str(tmp_path), "CONFIG": str(named)}, named),
    ):
        asked = gpunet.settings_of(variables, False, False)
        assert (asked.config, asked.checkpoint) == (config, checkpoint)
    # And a directory without it is told of
    with pytest.raises(CallerError, match=re.escape("has no other.pth.tar and no other.pth and no other.pt")):
        gpunet.settings_of({"CHECKPOINT": "other", "CHECKPOINT_DIR": str(tmp_path)}, False, False)


def test_a_configuration_that_is_wrong_says_where(gpunet: Any, tmp_path: Path) -> None:
    right = json.loads(gpunet.configuration.file_of("0.8ms-D").read_text())
    for wrong, said in (
        ({}, "expected a list of layers"),
        (right[1:], "the first layer must be of type data and say distill"),
        ([{**right[0], "img_resolution": "224"}, *right[1:]], "img_resolution must be a whole number of at least 1, got '224'"),
        (
            [*right[:4], {**right[4], "layer_type": "pool"}, *right[5:]],
            "layer 5 is of type 'pool'; expected is one of head, conv",
        ),
        ([*right[:4], *right[5:]], "layer 5 takes 64 channels, and gets 32"),
        (right[:-1], "expected one head first and one tail last"),
        (
            [*right[:5], {**right[5], "stride": 0}, *right[6:]],
            "layer 6 (irb): stride must be a whole number of at least 1, got 0",
        ),
        ([*right[:5], {**right[5], "act": "gelu"}, *right[6:]], "layer 6 (irb): act must be one of relu, swish, got 'gelu'"),
        ([*right[:5], {**right[5], "expansion": "8"}, *right[6:]], "expansion must be a number above 0, got '8'"),
        ([*right[:5], {key: value for key, value in right[5].items() if key != "use_se"}, *right[6:]], "does not say use_se"),
        ([{**right[0], "distill": True}, *right[1:]], "layer 3 is of type 'conv'; expected is one of head, head_large, irb"),
    ):
        file = tmp_path / "wrong.json"
        file.write_text(json.dumps(wrong))
        with pytest.raises(CallerError) as refused:
            gpunet.configuration.read(file)
        assert f"{file}: " in str(refused.value)
        assert said in str(refused.value)


def test_what_was_compared_is_told(gpunet: Any) -> None:
    check = {
        "where": "served",
        "output": "OUTPUT__0",
        "max_abs_error": 2.05e-05,
        "atol": 1e-4,
        "rtol": 1e-3,
        "wrong": 0,
        "elements": 7,
    }
    attempt = {"format": "onnx", "precision": "fp32", "error": None, "checks": [check]}
    (line,) = gpunet.steps.compared({"attempts": [attempt]})
    assert line == (
        "onnx fp32, served: OUTPUT__0 differs from torch's in FP32 by at most 2.05e-05; 0 of 7 by more than 0.0001 + 0.001 * |score|"
    )
    failed = copy.deepcopy(attempt)
    failed["checks"][0]["max_abs_error"] = None
    assert "without bound" in next(gpunet.steps.compared({"attempts": [failed]}))
