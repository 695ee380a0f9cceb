# SPDX-License-Identifier: Apache-2.0
"""Triton's execution accelerators become execution providers with options; what is not known or not installed is named."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import CallerError, Code, MachineError, ModelError
from penstock.ipc.messages import Accelerator, ModelSpec, Optimization
from penstock.workers.backends.execution_providers import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    captures_graphs,
    cpu_providers,
    gpu_providers,
    refuse_inactive,
    refuse_missing,
)


def spec(*gpu: Accelerator, cpu: tuple[Accelerator, ...] = (), **parameters: str) -> ModelSpec:
    optimization = Optimization(gpu_accelerators=list(gpu), cpu_accelerators=list(cpu))
    return ModelSpec("m", 1, "onnxruntime", 8, [], [], parameters, optimization=optimization)


def test_without_accelerators_a_gpu_is_cuda_with_the_cpu_behind_it() -> None:
    cuda, cpu = gpu_providers(spec(), 2, stream=4096)
    assert (cuda.name, dict(cuda.options)) == (CUDA, {"device_id": "2", "user_compute_stream": "4096"})
    assert (cpu.name, dict(cpu.options)) == (CPU, {})
    assert dict(gpu_providers(spec(), 0)[0].options) == {"device_id": "0"}  # a stream of its own


def test_tensorrt_comes_first_with_tritons_names_translated() -> None:
    parameters = {"precision_mode": "FP16", "max_workspace_size_bytes": "1073741824", "trt_engine_cache_enable": "true"}
    found = gpu_providers(spec(Accelerator("tensorrt", parameters)), 1, stream=8)
    assert [provider.name for provider in found] == [TENSORRT, CUDA, CPU]
    assert dict(found[0].options) == {
        "trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824", "trt_engine_cache_enable": "1", "device_id": "1",
        "user_compute_stream": "8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "options"), [("FP32", {}), ("BF16", {"trt_bf16_enable": "1"}), ("INT8", {"trt_int8_enable": "1"})]
)
def test_each_precision_is_an_option_of_its_own(mode: str, options: dict[str, str]) -> None:
    found = gpu_providers(spec(Accelerator("tensorrt", {"precision_mode": mode})), 0)
    assert dict(found[0].options) == {**options, "device_id": "0"}


def test_options_of_cuda_pass_and_choices_may_be_numbers() -> None:
    accelerator = Accelerator("cuda", {"cudnn_conv_algo_search": "1", "enable_cuda_graph": "True", "tunable_op_enable": "1"})
    (cuda, _) = gpu_providers(spec(accelerator, cudnn_conv_algo_search="0", arena_extend_strategy="1", gpu_mem_limit="9"), 0)
    assert dict(cuda.options) == {
        "cudnn_conv_algo_search": "HEURISTIC",  # the accelerator's, before the parameter's
        "arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": "9", "enable_cuda_graph": "1", "tunable_op_enable": "1",
        "device_id": "0",
    }  # fmt: skip


def test_graphs_are_captured_only_where_an_option_says_so() -> None:
    assert not captures_graphs(gpu_providers(spec(), 0))
    assert not captures_graphs(gpu_providers(spec(Accelerator("cuda", {"enable_cuda_graph": "false"})), 0))
    assert captures_graphs(gpu_providers(spec(Accelerator("cuda", {"enable_cuda_graph": "1"})), 0))
    assert captures_graphs(gpu_providers(spec(Accelerator("tensorrt", {"trt_cuda_graph_enable": "true"})), 0))


def test_openvino_is_for_the_cpu() -> None:
    accelerator = Accelerator("openvino", {"num_of_threads": "2"})
    first, last = cpu_providers(spec(cpu=(accelerator,)))
    assert (first.name, dict(first.options), last.name) == (OPENVINO, {"device_type": "CPU", "num_of_threads": "2"}, CPU)
    assert [provider.name for provider in cpu_providers(spec(Accelerator("tensorrt")))] == [CPU]


@pytest.mark.parametrize(
    ("accelerator", "text"),
    [
        (
            Accelerator("gpu_io"),
            "unknown Execution Accelerator 'gpu_io' is requested in gpu_execution_accelerator; onnxruntime has tensorrt and cuda",
        ),
        (
            Accelerator("tensorrt", {"precision_mode": "FP8"}),
            "unsupported precision mode 'FP8' is requested; known are FP32, FP16, BF16, INT8",
        ),
        (
            Accelerator("tensorrt", {"workspace": "1"}),
            "unknown parameter 'workspace' is provided for TensorRT Execution Accelerator",
        ),
        (Accelerator("cuda", {"cudnn_conv_algo_search": "3"}), "known are 0 (EXHAUSTIVE), 1 (HEURISTIC), 2 (DEFAULT)"),
        (
            Accelerator("cuda", {"device_id": "1"}),
            "parameter 'device_id' of the cuda accelerator is the worker's to set; remove it",
        ),
    ],
)
def test_what_triton_would_refuse_is_refused_with_what_there_is(accelerator: Accelerator, text: str) -> None:
    with pytest.raises(CallerError) as caught:
        gpu_providers(spec(accelerator), 0)
    assert text in caught.value.message


def test_an_accelerator_of_the_wrong_side_is_refused() -> None:
    with pytest.raises(CallerError, match="unknown Execution Accelerator 'cuda' is requested in cpu_execution_accelerator"):
        cpu_providers(spec(cpu=(Accelerator("cuda"),)))


def test_a_provider_that_is_not_installed_says_what_to_install() -> None:
    refuse_missing(cpu_providers(spec()), ["CPUExecutionProvider"], "1.31.0")
    with pytest.raises(MachineError, match=r"onnxruntime 1\.31\.0 has no CUDAEx.*pip install onnxruntime-gpu") as caught:
        refuse_missing(gpu_providers(spec(), 0), ["CPUExecutionProvider"], "1.31.0")
    assert caught.value.code is Code.UNSUPPORTED


def test_a_provider_that_onnxruntime_dropped_in_silence_is_an_error() -> None:
    refuse_inactive("model.onnx", gpu_providers(spec(), 0), [CUDA, CPU])
    with pytest.raises(
        ModelError, match="'model.onnx': onnxruntime could not use CUDAExecutionProvider and fell back to CPUEx"
    ):
        refuse_inactive("model.onnx", gpu_providers(spec(), 0), [CPU])
