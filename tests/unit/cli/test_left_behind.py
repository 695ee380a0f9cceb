# SPDX-License-Identifier: Apache-2.0
"""What `penstock demo` takes for its own when it looks at what it has left in /dev/shm."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.clients.cli import demo_run


def test_segments_are_looked_at_and_other_brokers_private_directories_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_run, "SHARED_MEMORY", str(tmp_path))
    (tmp_path / "penstock-4242-0a").touch()
    (tmp_path / "somebody-elses").touch()
    (tmp_path / "penstock-private-0b").mkdir()
    assert demo_run.shared_memory() == {"penstock-4242-0a"}
