# SPDX-License-Identifier: Apache-2.0
"""Backends are found by backend name and by platform string, and imported no earlier."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.workers.backends import BACKENDS, DEVICE_BACKENDS, PLATFORMS, make_backend, make_device_backend
from penstock.workers.backends.base import Backend
from penstock.workers.backends.on_device import DeviceBackend


@pytest.mark.parametrize("name", [*BACKENDS, *(platform for platform, name in PLATFORMS.items() if name in BACKENDS)])
def test_every_name_leads_to_a_backend(name: str) -> None:
    if PLATFORMS.get(name, name) == "pytorch":
        pytest.importorskip("torch", reason="needs torch (the extra `torch`)")
    backend = make_backend(name)
    assert isinstance(backend, Backend)
    backend.close()


@pytest.mark.parametrize(
    "name", [*DEVICE_BACKENDS, *(platform for platform, name in PLATFORMS.items() if name in DEVICE_BACKENDS)]
)
def test_every_name_leads_to_a_backend_on_a_device(name: str) -> None:
    backend = make_device_backend(name)
    assert isinstance(backend, DeviceBackend)
    backend.close()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_plan"])
def test_a_backend_that_needs_a_gpu_says_so_without_one(name: str) -> None:
    with pytest.raises(CallerError, match="backend 'tensorrt' computes on GPUs only"):
        make_backend(name)


def test_each_call_makes_a_fresh_one() -> None:
    assert make_backend("identity") is not make_backend("identity")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(CallerError, match=r"'tensorflow'.*fake, identity, onnxruntime, pytorch") as caught:
        make_backend("tensorflow")
    assert caught.value.code is Code.UNSUPPORTED
