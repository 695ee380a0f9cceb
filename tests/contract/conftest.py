# SPDX-License-Identifier: Apache-2.0
"""What contract tests share: a broker that does as told, over either link; CUDA, simulated or real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cuda_rig import cuda_kind, device, stream
from fake_broker import FakeBroker

__all__ = ["cuda_kind", "device", "stream"]


@pytest.fixture(params=["local", "zmq"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every story is told over both."""
    return f"unix://{tmp_path}/b.sock" if request.param == "local" else f"ipc://{tmp_path}/b.zmq"


@pytest.fixture
def broker(address: str) -> Iterator[FakeBroker]:
    """Listening at `address`."""
    with FakeBroker(address) as broker:
        yield broker
