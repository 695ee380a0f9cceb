# SPDX-License-Identifier: Apache-2.0
"""config.pbtxt of a converted model is what the broker reads, and what cannot be served like that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.clients.convert.entry_config import FORMS, Serving, check_batching, config_text, parse_instances, refusal
from penstock.clients.convert.signatures import Signature
from penstock.clients.models import TensorInfo
from penstock.ipc.errors import CallerError
from penstock.runtime.repository.configuration import parse_config

SIGNATURE = Signature(
    8,
    (TensorInfo("image", "FP32", (3, -1)), TensorInfo('odd "name"', "BYTES", (1,))),
    (TensorInfo("scores", "FP16", (10,)), TensorInfo("best", "INT64", ())),
)


def read(text: str) -> Any:
    return parse_config(text, Path("config.pbtxt"), "m").proto


def test_the_broker_reads_what_was_meant() -> None:
    serving = Serving(instances=3, kind="cpu", preferred_batch_sizes=(4, 8), max_queue_delay_us=500, labels="names.txt")
    config = read(config_text("m", "onnx", "fp32", SIGNATURE, serving))
    assert (config.name, config.platform, config.max_batch_size) == ("m", "onnxruntime_onnx", 8)
    assert [(each.name, list(each.dims)) for each in config.input] == [("image", [3, -1]), ('odd "name"', [1])]
    assert [(each.name, list(each.dims), each.label_filename) for each in config.output] == [
        ("scores", [10], "names.txt"),
        ("best", [1], ""),
    ]
    # What has no dims but the batch is one element for clients
    assert config.output[1].HasField("reshape")
    assert not list(config.output[1].reshape.shape)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, 2)


def test_without_batching_there_is_no_batcher() -> None:
    assert not read(config_text("m", "onnx", "fp32", SIGNATURE, Serving(kind="cpu", is_batched=False))).HasField(
        "dynamic_batching"
    )
    alone = SIGNATURE._replace(max_batch_size=0)
    assert "dynamic_batching" not in config_text("m", "onnx", "fp32", alone, Serving())


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("ts-trace", 'platform: "pytorch_libtorch"'), ("ts-script", 'platform: "pytorch_libtorch"'),
        ("torch-export", 'platform: "pytorch_libtorch"'), ("onnx", 'platform: "onnxruntime_onnx"'), ("trt", 'platform: "tensorrt_plan"'),
    ],
)  # fmt: skip
def test_each_format_has_its_platform(form: Any, first: str) -> None:
    assert config_text("m", form, "fp32", SIGNATURE, Serving()).splitlines()[1] == first


def test_an_exported_program_is_named_for_triton_looks_for_model_pt() -> None:
    assert 'default_model_filename: "model.pt2"' in config_text("m", "torch-export", "fp32", SIGNATURE, Serving())


def test_a_plan_is_served_on_a_gpu_with_all_of_its_profiles() -> None:
    text = config_text("m", "trt", "fp32", SIGNATURE, Serving(preferred_batch_sizes=(2, 4), captures_graphs=True))
    assert 'instance_group [ { count: 1 kind: KIND_GPU profile: [ "0", "1", "2" ] } ]' in text
    assert "optimization { cuda { graphs: true } }" in text
    assert "profile" not in config_text("m", "trt", "fp32", SIGNATURE, Serving(preferred_batch_sizes=(8,)))


def test_accelerators_of_onnxruntime() -> None:
    text = config_text("m", "onnx", "fp16", SIGNATURE, Serving(kind="gpu", acceleration="trt"))
    assert '[ { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ]' in text
    assert '[ { name: "cuda" } ]' in config_text("m", "onnx", "fp16", SIGNATURE, Serving(kind="gpu", acceleration="cuda"))


@pytest.mark.parametrize(
    ("form", "serving", "said"),
    [
        ("trt", Serving(kind="cpu"), "--instances N:cpu: a TensorRT plan computes on a GPU only"),
        ("onnx", Serving(kind="gpu", acceleration="amp"), "say --precision fp16"),
        ("trt", Serving(acceleration="trt"), "a plan is TensorRT on CUDA already"),
        ("ts-trace", Serving(kind="gpu", acceleration="trt"), "say --format onnx, or --format trt"),
        ("ts-trace", Serving(kind="gpu", acceleration="cuda"), "say --instances N:gpu"),
        ("onnx", Serving(kind="cpu", acceleration="cuda"), "it needs instances on a GPU"),
        ("onnx", Serving(acceleration="trt"), "it needs instances on a GPU"),
        ("onnx", Serving(kind="gpu", captures_graphs=True), "of TensorRT plans only"),
    ],
)
def test_what_does_not_apply_is_refused_with_the_reason(form: Any, serving: Serving, said: str) -> None:
    error = refusal(form, "fp32", serving)
    assert error is not None
    assert said in error.message


def test_what_applies_is_not() -> None:
    assert [refusal(form, "fp32", Serving()) for form in FORMS] == [None] * len(FORMS)
    assert refusal("onnx", "fp32", Serving(kind="gpu", acceleration="trt")) is None
    assert refusal("trt", "fp16", Serving(captures_graphs=True)) is None


def test_batches_that_cannot_be_are_refused() -> None:
    check_batching(8, Serving(preferred_batch_sizes=(4, 8), max_queue_delay_us=1))
    check_batching(0, Serving())
    with pytest.raises(CallerError, match=r"\[16\]: more than the largest batch, 8"):
        check_batching(8, Serving(preferred_batch_sizes=(4, 16)))
    for serving in (Serving(preferred_batch_sizes=(4,)), Serving(max_queue_delay_us=1)):
        with pytest.raises(CallerError, match="the model has no batch dimension"):
            check_batching(0, serving)


def test_instances_are_a_number_and_where() -> None:
    assert [parse_instances(text) for text in ("2", "1:cpu", "4:gpu")] == [(2, "auto"), (1, "cpu"), (4, "gpu")]
    for text in ("0", "2:tpu", "two", "", "2:"):
        with pytest.raises(CallerError, match="is not N, N:cpu or N:gpu"):
            parse_instances(text)
