# SPDX-License-Identifier: Apache-2.0
"""Private directories: whose they are, where they are made, and what becomes of those whose process was killed."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from penstock.ipc.errors import MachineError
from penstock.runtime.repository import private_directories
from penstock.runtime.repository.private_directories import PrivateDirectory

FEW, MANY = 10, 1000


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Memory with room for FEW bytes, and a disk with room for MANY."""
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    free = {memory: FEW, disk: MANY}
    monkeypatch.setattr(private_directories, "MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(private_directories, "_free_bytes", free.__getitem__)
    return memory, disk


def test_it_is_in_memory_where_there_is_room(places: tuple[Path, Path]) -> None:
    made = [PrivateDirectory.create(size) for size in (FEW, FEW + 1)]
    assert [each.path.parent for each in made] == list(places)
    for each in made:
        assert each.path.stat().st_mode & 0o777 == 0o700
        each.check_invariants()
        each.close()
        each.close()
        each.check_invariants()


def test_room_that_is_nowhere_is_named(places: tuple[Path, Path]) -> None:
    with pytest.raises(MachineError, match=re.escape(f"{{'{places[0]}': {FEW}, '{places[1]}': {MANY}}}")):
        PrivateDirectory.create(MANY + 1)


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(places: tuple[Path, Path]) -> None:
    living, killed = PrivateDirectory.create(0), PrivateDirectory.create(0)
    (killed.path / "secret").write_text("s")
    foreign = places[0] / "somebody-else"
    foreign.mkdir()
    os.close(killed._lock)  # as the kernel does

    new = PrivateDirectory.create(0)

    assert not killed.path.exists()
    assert living.path.exists() and new.path.exists() and foreign.exists()
    living.close()
    new.close()


def test_a_link_that_looks_like_one_is_left_alone(places: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (places[0] / "penstock-private-x").symlink_to(target)
    PrivateDirectory.create(0).close()
    assert target.exists()
