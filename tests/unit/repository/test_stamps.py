# SPDX-License-Identifier: Apache-2.0
"""What counts as a change of a model's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.runtime.repository import stamps as module
from penstock.runtime.repository.stamps import stamps_of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for path, text in {
        "config.pbtxt": "c",
        "labels.txt": "l",
        "1/model.onnx": "m",
        "1/deep/er": "e",
        "2/model.onnx": "m",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def changed(directory: Path, act: Callable[[], object]) -> set[str]:
    before = stamps_of(directory)
    act()
    after = stamps_of(directory)
    found = {"config"} if before.config != after.config else set()
    found |= {"shared"} if before.shared != after.shared else set()
    versions = before.versions.keys() | after.versions.keys()
    return found | {str(version) for version in versions if before.versions.get(version) != after.versions.get(version)}


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "nothing": (lambda _: None, set()),
    "the configuration": (lambda at: (at / "config.pbtxt").write_text("other"), {"config"}),
    "no configuration": (lambda at: (at / "config.pbtxt").unlink(), {"config"}),
    "what is shared": (lambda at: (at / "labels.txt").write_text("longer"), {"shared"}),
    "a new shared file": (lambda at: (at / "new").write_text(""), {"shared"}),
    "a model file": (lambda at: (at / "1" / "model.onnx").write_text("longer"), {"1"}),
    "a time alone": (lambda at: os.utime(at / "1" / "model.onnx", ns=(1, 1)), {"1"}),
    "a file deep within": (lambda at: (at / "1" / "deep" / "er").write_text("longer"), {"1"}),
    "an empty directory": (lambda at: (at / "1" / "empty").mkdir(), {"1"}),
    "a version more": (lambda at: (at / "3").mkdir(), {"3"}),
    "a version less": (lambda at: ((at / "2" / "model.onnx").unlink(), (at / "2").rmdir()), {"2"}),
    "hidden files": (lambda at: (at / "1" / ".swp").write_text("x"), set()),
    "what Python writes": (lambda at: (at / "1" / "__pycache__").mkdir(), set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_where_it_is(directory: Path, what: str) -> None:
    act, expected = CHANGES[what]
    assert changed(directory, lambda: act(directory)) == expected


def test_links_are_followed_and_a_circle_is_not(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model.onnx").write_text("m")
    (directory / "3").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(directory / "3")
    (directory / "1" / "dangling").symlink_to(directory / "nowhere")
    assert changed(directory, lambda: (elsewhere / "model.onnx").write_text("longer")) == {"3"}


def test_a_huge_tree_is_looked_at_within_bounds(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    assert changed(directory, lambda: (directory / "1" / "model.onnx").write_text("longer")) == set()


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stamps_of(tmp_path / "gone")
