# SPDX-License-Identifier: Apache-2.0
"""The configuration table: what the server says, in the words of NVIDIA's pages, "-" where nobody says anything."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clients.perf.configuration import CAPTURED, Gpu, Served, configuration_of

KEYS = [
    "Hardware", "Backend", "Backend accelerator", "Precision", "Model format", "Max batch size", "Number of model instances",
    "Export format", "Device kind", "Torch jit",
]  # fmt: skip
ON_CPU = Served("A Processor", (None, None))
GPUS = (Gpu("GPU-1", "NVIDIA H100"), Gpu("GPU-2", "NVIDIA H100"))
TRT = {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}]}


def table(config: dict[str, Any], served: Served = ON_CPU, **labels: str) -> dict[str, str]:
    return configuration_of({"max_batch_size": 8, **config}, served, labels)


def test_every_row_is_there_in_its_order_and_unknown_ones_say_so() -> None:
    found = configuration_of({}, Served(), {})
    assert list(found) == KEYS
    assert {key for key, value in found.items() if value != "-"} == {"Max batch size"}


def test_an_onnx_model_on_the_cpu() -> None:
    found = table({"backend": "onnxruntime", "instance_group": [{"kind": "KIND_CPU", "count": 2}]})
    assert list(found.values()) == [
        "A Processor", "ONNX Runtime", "-", "-", "ONNX", "8", "2", "-", "cpu", "-",
    ]  # fmt: skip


def test_a_plan_says_whether_graphs_are_captured() -> None:
    served = Served("A Processor", (GPUS[0], GPUS[0], GPUS[1]))
    found = table({"platform": "tensorrt_plan", "optimization": {"cuda": {"graphs": True}}}, served)
    assert list(found) == [*KEYS[:8], CAPTURED, *KEYS[8:]]
    assert found["Backend"] == found["Model format"] == "NVIDIA TensorRT"
    assert (found["Backend accelerator"], found[CAPTURED], found["Device kind"]) == ("NVIDIA CUDA", "Enabled", "gpu")
    assert (found["Hardware"], found["Number of model instances"]) == ("2 x NVIDIA H100", "3")
    assert table({"backend": "tensorrt"}, served)[CAPTURED] == "Disabled"


@pytest.mark.parametrize(("served", "kind"), [(Served("", (GPUS[0],)), "gpu"), (Served(), "-")])
def test_an_accelerator_with_the_precision_that_it_is_told(served: Served, kind: str) -> None:
    found = table({"backend": "onnxruntime", "optimization": {"execution_accelerators": TRT}}, served)
    assert (found["Backend accelerator"], found["Precision"], found["Device kind"]) == ("NVIDIA TensorRT", "FP16", kind)


def test_an_accelerator_of_gpus_is_none_where_the_model_fell_back_to_the_cpu() -> None:
    """Given a model of KIND_GPU; when its broker has started it on the CPU (--fallback cpu); then the table says what is true."""
    config = {
        "backend": "onnxruntime", "optimization": {"execution_accelerators": TRT}, "instance_group": [{"kind": "KIND_GPU", "count": 2}],
    }  # fmt: skip
    found = table(config)
    assert (found["Hardware"], found["Backend accelerator"], found["Precision"]) == ("A Processor", "-", "-")
    assert found["Device kind"] == "cpu"


def test_of_another_server_instances_are_counted_per_gpu_that_its_groups_name() -> None:
    groups = [{"kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}, {"kind": "KIND_CPU", "count": 1}]
    found = table({"backend": "python", "instance_group": groups}, Served())
    assert (found["Number of model instances"], found["Device kind"], found["Backend"]) == ("5", "gpu, cpu", "Python")
    assert found["Hardware"] == "-"


@pytest.mark.parametrize(
    ("config", "model_format"),
    [
        ({"backend": "pytorch", "default_model_filename": "model.pt"}, "TorchScript"),
        ({"platform": "pytorch_libtorch", "default_model_filename": "model.pt2"}, "Torch Export"),
        ({"backend": "pytorch"}, "-"),
        ({"platform": "tensorflow_savedmodel"}, "TensorFlow SavedModel"),
        ({"platform": "tensorrt_plan"}, "NVIDIA TensorRT"),
    ],
)
def test_model_formats(config: dict[str, Any], model_format: str) -> None:
    assert table(config)["Model format"] == model_format


def test_it_is_the_same_over_grpc_where_zeros_are_left_out_and_64_bits_are_text() -> None:
    """Given a configuration as Triton tells it over HTTP, and as protobuf's JSON has it over gRPC; then the tables are equal."""
    groups = [{"name": "m_0", "kind": "KIND_AUTO", "count": 2, "gpus": [], "secondary_devices": [], "passive": False}]
    over_http = {
        "platform": "", "backend": "pytorch", "max_batch_size": 0, "input": [{"name": "x", "dims": [3, 224]}],
        "optimization": {"priority": "PRIORITY_DEFAULT", "cuda": {"graphs": False}, "eager_batching": False},
        "instance_group": groups, "default_model_filename": "model.pt", "parameters": {}, "metric_tags": {},
    }  # fmt: skip
    over_grpc = {
        "backend": "pytorch", "input": [{"name": "x", "dims": ["3", "224"]}], "optimization": {"cuda": {}},
        "instance_group": [{"name": "m_0", "count": 2}], "default_model_filename": "model.pt",
    }  # fmt: skip
    found = configuration_of(over_grpc, Served(), {})
    assert found == configuration_of(over_http, Served(), {})
    assert (found["Max batch size"], found["Number of model instances"], found["Device kind"]) == ("0", "2", "-")


def test_a_backend_of_ones_own_has_its_name() -> None:
    assert table({"backend": "identity"})["Backend"] == "identity"


def test_labels_override_a_row_where_it_is_and_others_follow() -> None:
    found = configuration_of({}, Served(), {"Export format": "ONNX", "Checkpoint": "7"})
    assert list(found) == [*KEYS, "Checkpoint"]
    assert found["Export format"] == "ONNX"


# --- what a broker says ------------------------------------------------------------------------------------------------------


def instance(model: str, version: int, gpu: str | None, state: str = "ready") -> dict[str, Any]:
    return {"model": model, "version": version, "state": state, "gpu": gpu and {"ordinal": 0, "uuid": gpu}}


def test_of_a_brokers_workers_those_of_the_version_that_take_batches_count() -> None:
    rows = [instance("m", 2, "GPU-1"), instance("m", 2, None), instance("m", 1, None), instance("n", 2, None)]
    status = {"gpus": [GPUS[0]._asdict()], "instances": [*rows, instance("m", 2, None, "dead")]}
    assert Served.from_status(status, "m", 2, "A Processor") == Served("A Processor", (GPUS[0], None))


def test_a_broker_that_has_not_looked_for_gpus_names_none() -> None:
    assert Served.from_status({"gpus": None, "instances": [instance("m", 1, None)]}, "m", 1, "P").instances == (None,)
