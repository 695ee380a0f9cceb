# SPDX-License-Identifier: Apache-2.0
"""The two repositories of the people detection demo: one model, served in two ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.clients import people_detection
from penstock.runtime.repository.configuration import ModelConfig
from penstock.runtime.repository.directory import find_models, only_directory, read_model
from penstock.runtime.repository.placement import Placing

REPOSITORIES = Path(people_detection.__file__).parent / "repositories"
NAMES = ("trtis_model_repo_sample_1", "trtis_model_repo_sample_2")
MAX_BYTES = 1_000_000


def config(name: str, placing: Placing) -> ModelConfig:
    found = find_models([REPOSITORIES / name])
    assert list(found) == ["peoplenet"]
    return read_model(only_directory("peoplenet", found["peoplenet"]), placing).config


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_is_peoplenet_for_gpus_and_falls_back_to_the_cpu(name: str) -> None:
    read = config(name, Placing(fallback=True))
    assert (read.backend, read.max_batch_size) == ("onnxruntime", 16)
    assert {tensor.name: tensor.dims for tensor in read.inputs} == {"input_1": [3, 544, 960]}
    assert {tensor.name: tensor.dims for tensor in read.outputs} == {
        "output_cov/Sigmoid": [3, 34, 60],
        "output_bbox/BiasAdd": [12, 34, 60],
    }
    assert read.warnings


def test_the_first_has_three_instances_and_does_not_batch_and_the_second_batches_in_one() -> None:
    first, second = (config(name, Placing(fallback=True)) for name in NAMES)
    assert ([group.count for group in first.instance_groups], first.dynamic_batching) == ([3], None)
    assert [group.count for group in second.instance_groups] == [1]
    assert second.dynamic_batching is not None


def test_both_have_the_same_small_model() -> None:
    first, second = ((REPOSITORIES / name / "peoplenet" / "1" / "model.onnx").read_bytes() for name in NAMES)
    assert first == second
    assert len(first) < MAX_BYTES
