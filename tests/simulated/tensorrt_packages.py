# SPDX-License-Identifier: Apache-2.0
"""Fixtures that put a simulated tensorrt before the real one, and the plans that it understands."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .fixtures import SIMULATED, SimulatedCuda, shadowed

SHARED = SIMULATED / "tensorrt_shared"
PACKAGES = {"8.5": SIMULATED / "tensorrt_8_5", "11": SIMULATED / "tensorrt_11"}


class SimulatedTensorRT:
    """A machine with simulated GPUs and a simulated TensorRT of one version."""

    def __init__(self, version: str, cuda: SimulatedCuda) -> None:
        self.version = version
        self.cuda = cuda
        self.trt: Any = importlib.import_module("tensorrt")

    def __repr__(self) -> str:
        return f"<SimulatedTensorRT {self.version}>"

    @property
    def is_old(self) -> bool:
        return self.version == "8.5"

    def environment(self) -> dict[str, str]:
        """Of a child process on this machine."""
        return self.cuda.environment(PACKAGES[self.version])

    def plan(
        self, inputs: dict[str, tuple[str, list[int]]], outputs: dict[str, tuple[str, list[int]]], ops: list[dict[str, Any]],
        profiles: list[dict[str, list[list[int]]]] | None = None, **more: Any,
    ) -> bytes:  # fmt: skip
        """A plan file of this version; see simulated_tensorrt/networks.py."""
        networks = importlib.import_module("simulated_tensorrt.networks")
        described = {"version": self.trt.__version__, "inputs": inputs, "outputs": outputs, "ops": ops, **more}
        return bytes(networks.Plan(**described, profiles=profiles or []).to_bytes())


@contextmanager
def installed(version: str, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedTensorRT]:
    """For a with statement: the package of this version is the one that is imported."""
    from penstock.workers.backends.plans.library import library

    with shadowed("simulated_tensorrt", SHARED, monkeypatch), shadowed("tensorrt", PACKAGES[version], monkeypatch):
        library.cache_clear()
        try:
            yield SimulatedTensorRT(version, cuda)
        finally:
            library.cache_clear()


@pytest.fixture(params=list(PACKAGES))
def simulated_tensorrt(
    request: pytest.FixtureRequest, simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimulatedTensorRT]:
    """Both versions, one after the other."""
    with installed(request.param, simulated_cuda, monkeypatch) as package:
        yield package
