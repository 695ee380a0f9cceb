# SPDX-License-Identifier: Apache-2.0
"""What the process tests share: both links, a repository to be filled, and surroundings for a command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import LINKS


@pytest.fixture(params=LINKS)
def link(request: pytest.FixtureRequest) -> str:
    """Every story is told over both."""
    return str(request.param)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A home of its own for temporary and runtime files. That processes and /dev/shm are clean is seen to by tests/conftest.py."""
    for name in ("tmp", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PENSTOCK_RUNTIME_DIR": str(tmp_path / "run")}
    environment.pop("PENSTOCK_ADDRESS", None)
    return environment
