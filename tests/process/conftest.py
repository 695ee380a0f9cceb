# SPDX-License-Identifier: Apache-2.0
"""What the process tests share: both links, and a repository to be filled."""

from __future__ import annotations

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
