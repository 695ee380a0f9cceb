# SPDX-License-Identifier: Apache-2.0
"""The survey program: what it prints of the GPUs of its environment, and why there is none."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
from simulated.fixtures import SimulatedCuda

from penstock.ipc.gpus import Gpus, decode_gpus
from penstock.workers import survey

PROGRAM = [sys.executable, "-m", "penstock.workers.survey"]


def printed(**options: Any) -> Gpus:
    return decode_gpus(subprocess.run(PROGRAM, stdout=subprocess.PIPE, check=True, **options).stdout)


def test_it_prints_each_gpu_and_the_versions(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(gpus=2)

    found = printed(env=simulated_cuda.environment())

    assert [(gpu.ordinal, gpu.name.split()[0], gpu.is_mig) for gpu in found.found] == [
        (0, "Simulated", False), (1, "Simulated", False),
    ]  # fmt: skip
    assert found.reason == ""
    assert "identity" in found.backends
    assert all(version.count(".") == 1 for version in (found.driver, found.runtime))


def test_what_the_environment_hides_is_not_there(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(gpus=2)
    everything = printed(env=simulated_cuda.environment()).found

    shown = printed(env=simulated_cuda.environment(CUDA_VISIBLE_DEVICES=everything[1].uuid)).found

    assert [(gpu.ordinal, gpu.uuid) for gpu in shown] == [(0, everything[1].uuid)]


def test_where_there_is_none_it_says_why(simulated_cuda: SimulatedCuda) -> None:
    found = printed(env=simulated_cuda.environment(CUDA_VISIBLE_DEVICES=""))

    assert found.found == ()
    assert found.reason


@pytest.mark.parametrize(
    ("installed", "usable"),
    [
        ({}, ("identity",)),
        ({"onnxruntime": "1.20", "torch": "2.5.1+cpu"}, ("identity",)),
        ({"onnxruntime-gpu": "1.20", "torch": "2.11.0+cu130"}, ("identity", "onnxruntime", "pytorch")),
        ({"torch": "2.11.0"}, ("identity", "pytorch")),  # the wheel of the package index
    ],
)
def test_which_packages_can_use_a_gpu(
    installed: dict[str, str], usable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(survey, "version", version)
    monkeypatch.setattr(survey, "find_spec", lambda _name: None)

    assert survey.usable_backends() == usable


def test_versions_are_written_as_cuda_writes_them() -> None:
    assert [survey._release(number) for number in (13000, 12080, 11080)] == ["13.0", "12.8", "11.8"]
