# SPDX-License-Identifier: Apache-2.0
"""The machine of the GPU tier: the real GPU of this one, or where a story can be told without one, the simulation too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))  # programs beside each other, and no package

from gpu_machine import GpuMachine


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuMachine:
    """Every story is told on both."""
    simulated = request.getfixturevalue("simulated_cuda") if request.param == "simulated" else None
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "run"))
    return GpuMachine(tmp_path, simulated)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder
